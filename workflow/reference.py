"""Summaries of a finished study, small enough to be committed under results/reference."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import click

from acdc.errors import SuiteError
from acdc.files import write_json
from study.resolve import load

KEPT = (
    "tables/*.csv",
    "tables/*.tex",
    "figures/*.png",
    "theory/*/series.csv",
    "theory/*/statements.json",
)
TOO_LARGE = {"epochs.csv", "events.csv"}


class NotReproducible(SuiteError):
    """The results do not come from one committed state of the source."""


@click.command()
@click.argument("scale")
@click.option("--results", type=click.Path(path_type=Path), default=Path("results"))
@click.option("--out", type=click.Path(path_type=Path), default=Path("results/reference"))
def reference(scale: str, results: Path, out: Path) -> None:
    """Copy the summaries of SCALE, made by one committed state of the source, to results/reference.

    Refused where runs come from different revisions or from edited files.
    """
    study = load(scale)
    source = results / study.scale.name
    about = one_provenance(
        [source / "runs" / run for run in study.runs],
        [source / "theory" / name for name in study.theory],
    )
    target = out / study.scale.name
    shutil.rmtree(target, ignore_errors=True)
    for pattern in KEPT:
        for path in sorted(source.glob(pattern)):
            if path.name not in TOO_LARGE:
                copy = target / path.relative_to(source)
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, copy)
    write_json(target / "provenance.json", about)
    click.echo(f"{target}: made by {about['git']['revision']} on {about['hardware']['processor']}")


def _provenance(folder: Path, what: str) -> dict[str, Any]:
    try:
        return json.loads((folder / "provenance.json").read_text())  # type: ignore[no-any-return]
    except OSError:
        raise NotReproducible(f"{what} {folder.name} is missing; make the study first") from None


def one_provenance(runs: list[Path], theory: list[Path]) -> dict[str, Any]:
    """Return what all runs have in common: revision, versions, hardware.

    The theory's experiments have to be of the same revision.

    Raises:
        NotReproducible: a run or an experiment is missing, or they do not come from one committed
            state.
    """
    found = [_provenance(run, "run") for run in runs]
    first = {key: found[0][key] for key in ("git", "python", "packages", "hardware")}
    attempts = [(run, part) for run, about in zip(runs, found, strict=True)
                for part in (about, *about.get("resumed", []))]  # fmt: skip
    for run, about in attempts:
        if not about["git"]["clean"]:
            raise NotReproducible(
                f"run {run.name} was made with edited files; commit them and reproduce it again"
            )
        if {key: about[key] for key in first} != first:
            raise NotReproducible(
                f"runs {runs[0].name} and {run.name} come from different revisions, versions or "
                "machines; reproduce the study on one"
            )
    for experiment in theory:
        if _provenance(experiment, "theory")["git"] != first["git"]:
            raise NotReproducible(
                f"run {runs[0].name} and theory {experiment.name} come from different revisions or "
                "edited files; reproduce the study again"
            )
    return first
