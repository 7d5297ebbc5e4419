"""A study: the experiments of the paper at one scale, resolved into runs, tables and figures."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from acdc.config.run import RunConfig
from acdc.data import DATASETS
from acdc.errors import ConfigError
from acdc.messages import accepted
from study.resolve import Resolver
from study.schema import Kind, Scale, read
from theory.layout import EXPERIMENTS

FOLDER = Path(__file__).resolve().parents[1] / "workflow"


@dataclass(frozen=True)
class Study:
    """Experiments resolved at a scale."""

    scale: Scale
    file: Path
    """The scale's."""
    experiments: tuple[dict[str, Any], ...]
    runs: dict[str, RunConfig]
    """By run name; a run that several experiments share stands here once."""
    arguments: tuple[str, ...]
    """The options by which ``acdc plan`` finds it."""

    @functools.cached_property
    def datasets(self) -> list[str]:
        """The data sets that the runs need."""
        return sorted({run.dataset for run in self.runs.values()})

    def missing_data(self, needed: Collection[str] | None = None) -> list[str]:
        """Return a sentence for each data set that is not there, naming file and key.

        Args:
            needed: those of interest, by default all.
        """
        found = []
        for name in self.datasets if needed is None else sorted(needed):
            missing = DATASETS[name].missing()
            if missing:
                users = [
                    key for key, task in self.scale.tasks.items() if task.chosen_dataset == name
                ]
                found.append(f"{self.file}: tasks.{users[0]}.dataset: {missing}")
        return found

    def ids(self, *kinds: Kind) -> list[str]:
        """Return the experiments of some kinds."""
        return [e["id"] for e in self.experiments if e["kind"] in kinds]

    @functools.cached_property
    def theory(self) -> dict[str, dict[str, Any]]:
        """The settings of each of the theory's experiments, by its name there."""
        found = [e for e in self.experiments if e["kind"] == "theory"]
        return {experiment["theory"]: experiment["settings"] for experiment in found}

    def parent(self, run: str) -> str | None:
        """Return the run that another starts from."""
        return self._parents[run]

    @functools.cached_property
    def _parents(self) -> dict[str, str | None]:
        starts = {name: run.starts_from for name, run in self.runs.items()}
        return {name: start.config.run_name if start else None for name, start in starts.items()}

    @functools.cached_property
    def gpus(self) -> dict[str, int]:
        """How many GPUs each run takes, as its task says."""
        tasks = {(task.model, task.chosen_dataset): task.gpu for task in self.scale.tasks.values()}
        return {name: tasks[run.model, run.dataset] for name, run in self.runs.items()}

    def seeds_of(self, run: str) -> list[str]:
        """Return the runs that differ from a run in their seed alone, itself included."""
        return self._cells[self._cell_of(run)]

    @functools.cached_property
    def _cells(self) -> dict[str, list[str]]:
        cells: dict[str, list[str]] = {}
        for run in self.runs:
            cells.setdefault(self._cell_of(run), []).append(run)
        return cells

    def _cell_of(self, run: str) -> str:
        return self.runs[run].with_seed(0).run_name

    def packs(self, size: int) -> dict[str, tuple[str, ...]]:
        """Return runs that can share a GPU, under the name of the first of each pack.

        They differ in their seeds alone.

        Args:
            size: most runs of a pack; a run that is left over is in none.
        """
        packs = [
            tuple(runs[start : start + size])
            for runs in self._cells.values()
            if self.gpus[runs[0]] == 1
            for start in range(0, len(runs), size)
        ]
        return {pack[0]: pack for pack in packs if len(pack) > 1}

    def with_parents(self, runs: Sequence[str]) -> tuple[str, ...]:
        """Return runs, each after those that it starts from, and each once."""
        found: dict[str, None] = {}

        def add(run: str) -> None:
            parent = self.parent(run)
            if parent is not None:
                add(parent)
            found[run] = None

        for run in runs:
            add(run)
        return tuple(found)

    def shown(self, experiment: str) -> tuple[str, ...]:
        """Return the runs whose results an experiment shows."""
        return self._shown[experiment]

    @functools.cached_property
    def _shown(self) -> dict[str, tuple[str, ...]]:
        return {
            experiment["id"]: tuple(
                dict.fromkeys(
                    run for row in rows_of(experiment) for run in (*row["runs"], *row["fine_tuned"])
                )
            )
            for experiment in self.experiments
        }

    def runs_of(self, experiment: str) -> tuple[str, ...]:
        """Return the runs that an experiment needs, those that others start from included."""
        return self.with_parents(self.shown(experiment))

    def select(self, **choice: Any) -> tuple[str, ...]:
        """Return the runs that a person asks for, those that they start from included.

        Args:
            choice: experiment, row (a label), method, sparsity, model or dataset; runs fulfil all.

        Raises:
            ConfigError: a key or a value is unknown; lists those that there are.
        """
        found = tuple(self.runs)
        rows = [
            (experiment["id"], row)
            for experiment in self.experiments
            for row in rows_of(experiment)
        ]
        if "experiment" in choice:
            rows = [(name, row) for name, row in rows if name == str(choice["experiment"])]
        labels = {row["label"] for _, row in rows}
        known = {
            "experiment": {experiment["id"] for experiment in self.experiments},
            "row": labels,
            **{
                key: {getattr(self.runs[run], key) for run in found}
                for key in ("method", "sparsity", "model", "dataset")
            },
        }
        for key, value in choice.items():
            values = known.get(key)
            if values is None:
                raise ConfigError(f"{key}: unknown; {accepted(key, known)}")
            if not isinstance(value, str | float | int) or value not in values:
                names = accepted(str(value), [str(v) for v in values])
                raise ConfigError(f"{key}: {value!r} is not in the study; {names}")
        if "row" in choice:
            rows = [(name, row) for name, row in rows if row["label"] == choice["row"]]
        if {"experiment", "row"} & choice.keys():
            found = tuple(
                dict.fromkeys(run for _, row in rows for run in (*row["runs"], *row["fine_tuned"]))
            )
        for key in ("method", "sparsity", "model", "dataset"):
            if key in choice:
                found = tuple(r for r in found if getattr(self.runs[r], key) == choice[key])
        if choice and not found:
            asked = ", ".join(f"{key}={value}" for key, value in choice.items())
            raise ConfigError(f"no run of the study fulfils all of {asked}; others are accepted")
        return self.with_parents(found)

    def plan(self) -> dict[str, Any]:
        """Return all that the reports need to know, as plain data."""
        return {
            "scale": self.scale.model_dump(mode="json", include={"name", "title", "description"}),
            "experiments": list(self.experiments),
            "runs": {name: run.plain() for name, run in self.runs.items()},
        }

    @functools.cached_property
    def digest(self) -> str:
        """A hash of the plan, by which the workflow knows that it has changed."""
        # A run's name holds the fingerprint of its configuration.
        content = {**self.plan(), "runs": list(self.runs)}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]

    @property
    def images(self) -> dict[str, int]:
        """Training images that each run passes over, the measure of its cost."""
        return {
            name: _own_epochs(run) * DATASETS[run.dataset].training_images
            for name, run in self.runs.items()
        }


def rows_of(experiment: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the rows of a resolved experiment, of its table or of its panels."""
    yield from experiment["rows"]
    for panel in experiment["panels"]:
        yield from panel["rows"]


def find_scale(name: str) -> Path:
    """Return the file of a scale, by its name or its path.

    Raises:
        ConfigError: no such scale; lists those that there are.
    """
    known = {path.stem: path for path in _listed(FOLDER / "scales")}
    if name in known:
        return known[name]
    if name.endswith(".yaml") and Path(name).exists():
        return Path(name)
    raise ConfigError(
        f"scale: {name!r} is unknown; {', '.join(known)}, or the path of a YAML file, are accepted"
    )


def _listed(folder: Path) -> list[Path]:
    """Return the YAML files of a folder by name, as messages name them: from here if they can."""
    here = Path.cwd()
    near = folder.relative_to(here) if folder.is_relative_to(here) else folder
    return sorted(near.glob("*.yaml"))


def whole_number(value: Any, what: str) -> int:
    """Return a number that counts something.

    Raises:
        ConfigError: it is not 1 or more; says so of ``what``.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ConfigError(f"{what}: got {value!r}; 1 or more is accepted")
    return value


def load(scale_name: str, seeds: int | None = None, experiments: str | Path | None = None) -> Study:
    """Return the study of a scale, every run validated.

    Args:
        scale_name: a name, or the path of a file.
        seeds: so many for each row, from 1 on, instead of the scale's; rows with seeds of their own
            keep them.
        experiments: the folder of the experiments, by default the suite's.

    Raises:
        ConfigError: names the file, the key, the value and what is accepted.
    """
    file = find_scale(scale_name)
    scale: Scale = read(file, Scale)
    if seeds is not None:
        seeds = whole_number(seeds, "seeds")
        scale = scale.model_copy(update={"seeds": tuple(range(1, seeds + 1))})
    found = _listed(Path(experiments or FOLDER / "experiments"))
    if not found:
        raise ConfigError(
            f"experiments: {experiments} holds no YAML file; a folder that does is accepted"
        )
    files = {path.stem: path for path in sorted(found, key=_display_order)}
    chosen = scale.experiments if scale.experiments is not None else tuple(files)
    for name in chosen:
        if name not in files:
            raise ConfigError(f"{file}: experiments: {name!r} is unknown; {accepted(name, files)}")
    if len(set(chosen)) < len(chosen):
        raise ConfigError(
            f"{file}: experiments: {list(chosen)} names one twice; each once is accepted"
        )
    resolver = Resolver(scale, file)
    resolved = tuple(resolver.experiment(files[name]) for name in chosen)
    resolver.check()
    options = {"--scale": scale_name, "--seeds": seeds, "--experiments": experiments}
    given = {key: str(value) for key, value in options.items() if value is not None}
    arguments = tuple(part for pair in given.items() for part in pair)
    return Study(scale, file, resolved, resolver.runs, arguments)


def _display_order(path: Path) -> tuple[int, int, str]:
    """Return the place of an experiment: tables, figures, what the paper has not, the theory."""
    kinds = ("table", "figure")
    kind = next((i for i, kind in enumerate(kinds) if path.stem.startswith(kind)), 2)
    name = path.stem.removeprefix("theory_")
    known = path.stem != name and name in EXPERIMENTS
    return kind, EXPERIMENTS.index(name) if known else -1, path.stem


def _own_epochs(run: RunConfig) -> int:
    """Return the epochs that a run trains itself, none where its parent's best epoch decides."""
    start = run.starts_from
    if start is None:
        return run.epochs
    return run.epochs - start.epoch if start.epoch is not None else 0
