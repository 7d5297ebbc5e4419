"""The YAML files of a study: which scale a name means, and which experiments there are."""

from __future__ import annotations

from pathlib import Path

from acdc.messages import config_error
from study.schema import ScaleSpec, read
from theory.layout import EXPERIMENTS

FOLDER = Path(__file__).resolve().parents[1] / "workflow"
"""Where the suite's own scales and experiments are."""

# What is beside the studies in a folder of results.
_OTHER_FOLDERS = ("runs", "reference", "benchmarks")


def find_scale(name: str) -> tuple[Path, ScaleSpec]:
    """Return the file of a scale and the scale, by its name or the path of its file.

    Raises:
        ConfigError: no such scale, which lists the known ones; it is not valid; or its results
            would be taken for those of another.
    """
    known = {path.stem: path for path in _listed(FOLDER / "scales")}
    if name not in known and not (name.endswith(".yaml") and Path(name).exists()):
        allowed = f"{', '.join(known)}, or the path of a YAML file"
        raise config_error("scale", name, "unknown scale", allowed)
    file = known.get(name, Path(name))
    scale = read(file, ScaleSpec)
    if scale.name in _OTHER_FOLDERS or known.get(scale.name, file).resolve() != file.resolve():
        problem = "the name of a built-in scale, or of another folder of results"
        raise config_error(f"{file}: name", scale.name, problem, "any other name")
    return file, scale


def find_experiments(folder: Path) -> dict[str, Path]:
    """Return the experiments of a folder by name, in the order in which they are shown.

    Raises:
        ConfigError: there are none.
    """
    found = _listed(folder)
    if not found:
        raise config_error("experiments", folder, "no YAML files", "a folder with some")
    return {path.stem: path for path in sorted(found, key=_display_order)}


def _listed(folder: Path) -> list[Path]:
    """Return the YAML files of a folder by name, relative to the working directory if possible."""
    here = Path.cwd()
    near = folder.relative_to(here) if folder.is_relative_to(here) else folder
    return sorted(near.glob("*.yaml"))


def _display_order(path: Path) -> tuple[int, int, str]:
    """Return the sorting key of an experiment: tables, figures, the suite's own, the theory."""
    kinds = ("table", "figure")
    kind = next((i for i, kind in enumerate(kinds) if path.stem.startswith(kind)), 2)
    name = path.stem.removeprefix("theory_")
    known = path.stem != name and name in EXPERIMENTS
    return kind, EXPERIMENTS.index(name) if known else -1, path.stem
