"""A resolved study: the experiments of the paper at one scale, their rows and their runs.

``study.resolve`` makes it of the YAML files, ``study.json`` of the study's folder keeps it, and
workflow, reports and status read it from there. Importing this takes no torch.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from acdc.data import DATASETS
from acdc.errors import SuiteError
from acdc.files import write_text
from acdc.messages import config_error
from study.columns import COLUMNS

STUDY = "study.json"

Kind = Literal["table", "figure", "theory"]
# Keys of a configuration by which runs can be chosen.
_CHOICES = ("method", "sparsity", "model", "dataset")


class ReportError(SuiteError):
    """A table, figure or report cannot be made from what the study's folder holds."""

    exit_status = 4


@dataclass(frozen=True)
class Scale:
    """The size of the study."""

    name: str
    title: str
    description: str
    is_paper: bool = False
    """Whether it is the suite's own scale ``paper``, so that its numbers compare with the paper's;
    the name alone does not tell."""
    bundle: int | None = None
    """Configurations of a task share a training job until it has this many runs; None: they do not
    share one."""


@dataclass(frozen=True)
class Task:
    """A model on a data set, and the epochs of the dense training that is 1 in FLOPs ratios."""

    name: str
    """The paper's task, which this one stands in for."""
    model: str
    dataset: str
    epochs: int


@dataclass(frozen=True)
class PaperRow:
    """The row of the paper's table that is shown beside a row of ours."""

    table: str
    method: str
    variant: str
    sparsity: float
    """That of the paper's row, which may be only close to ours."""
    cites: str = ""
    """The publication from which the paper took the row; empty for the paper's own results."""


@dataclass(frozen=True)
class Row:
    """One line of a table or one series of a plot: a method at a sparsity, one run per seed."""

    label: str
    method: str | None
    """None for rows that the paper only cites and this suite does not train."""
    sparsity: float
    epochs: int
    """Epochs of its runs, which may train longer than the task's dense network."""
    product: str
    runs: tuple[str, ...]
    """Empty where nothing can be trained for it (yet)."""
    fine_tuned: tuple[str, ...]
    """The run of each run's dense companion, where it is shown: the fine-tuning that continues it,
    or dense training."""
    paper: PaperRow | None
    task: Task

    @property
    def pairs(self) -> tuple[tuple[str, str], ...]:
        """Each run and that of its dense companion."""
        return tuple(zip(self.runs, self.fine_tuned, strict=True)) if self.fine_tuned else ()

    @property
    def all_runs(self) -> tuple[str, ...]:
        """The runs of the row and their fine-tuning."""
        return (*self.runs, *self.fine_tuned)


@dataclass(frozen=True)
class Panel:
    """One plot of a figure."""

    plot: str
    title: str
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Experiment:
    """A table, a figure, or an experiment of the theory."""

    id: str
    kind: str
    title: str
    caption: str
    paper: str | None
    """Number of the paper's table or figure."""
    awaits: str | None
    """The missing part without which not all of it can be made; None if nothing is missing."""
    reference: str | None
    """Label of the row with which the others are compared."""
    columns: tuple[str, ...]
    """Columns of a table, by their names in ``study.columns``."""
    rows: tuple[Row, ...]
    """Rows of a table."""
    panels: tuple[Panel, ...]
    """Plots of a figure."""
    theory: str | None = None
    """Name of the experiment in ``theory.experiments``."""
    settings: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """All settings of an experiment of the theory."""

    @property
    def all_rows(self) -> tuple[Row, ...]:
        """The rows of the table or of all panels."""
        return (*self.rows, *(row for panel in self.panels for row in panel.rows))

    @property
    def tasks(self) -> tuple[Task, ...]:
        """The tasks of its rows, each once."""
        return tuple(dict.fromkeys(row.task for row in self.all_rows))

    @property
    def pairs(self) -> tuple[tuple[str, str], ...]:
        """The pairs of a sparse and a dense model whose outputs it compares."""
        plots = {panel.plot for panel in self.panels}
        if not {"agreement", "cross_entropy"} & {*self.columns} and "flips" not in plots:
            return ()
        return tuple(dict.fromkeys(pair for row in self.all_rows for pair in row.pairs))

    @functools.cached_property
    def runs(self) -> tuple[str, ...]:
        """The runs that it shows, each once."""
        return tuple(dict.fromkeys(run for row in self.all_rows for run in row.all_runs))


@dataclass(frozen=True)
class Run:
    """One training run of a study."""

    config: Mapping[str, Any]
    """The resolved configuration as plain data."""
    parent: str | None = None
    """The run that it starts from."""
    gpus: int = 1
    """GPUs that share its batches."""
    images: int = 0
    """Training images that it passes over, the measure of its cost; those of its parent excluded,
    and 0 where only the parent's training decides."""


@dataclass(frozen=True)
class Study:
    """The experiments of a scale in display order, and their runs by name."""

    scale: Scale
    experiments: tuple[Experiment, ...]
    runs: Mapping[str, Run]
    """A run that several experiments share is listed once."""
    options: Mapping[str, str] = field(default_factory=dict)
    """Options of ``acdc study`` from which it was resolved."""

    @functools.cached_property
    def gpus(self) -> dict[str, int]:
        """The number of GPUs of each run."""
        return {name: run.gpus for name, run in self.runs.items()}

    @property
    def arguments(self) -> list[str]:
        """Its options as arguments of a command line."""
        return [part for pair in self.options.items() for part in pair]

    @functools.cached_property
    def datasets(self) -> list[str]:
        """The data sets that the runs need."""
        return sorted({run.config["dataset"] for run in self.runs.values()})

    def missing_data(self, needed: Collection[str] | None = None) -> list[str]:
        """Return a message for each data set that is needed and missing, by the scale's key."""
        tasks = {task.dataset: task.name for e in self.experiments for task in e.tasks}
        found = []
        for name in self.datasets if needed is None else sorted(needed):
            missing = DATASETS[name].missing()
            if missing:
                key = f"scale {self.scale.name}: tasks.{tasks[name]}.dataset"
                found.append(f"{key}={name}: {missing}")
        return found

    def ids(self, *kinds: Kind) -> list[str]:
        """Return the ids of the experiments of some kinds."""
        return [experiment.id for experiment in self.experiments if experiment.kind in kinds]

    def experiment(self, name: str) -> Experiment:
        """Return the experiment of an id.

        Raises:
            ReportError: no such experiment; lists the known ones.
        """
        for experiment in self.experiments:
            if experiment.id == name:
                return experiment
        known = ", ".join(self.ids("table", "figure", "theory"))
        raise ReportError(f"experiment={name}: not in the study. Allowed: {known}")

    @functools.cached_property
    def theory(self) -> dict[str, Mapping[str, Any]]:
        """The settings of each experiment of the theory, by its name there."""
        return {e.theory: e.settings for e in self.experiments if e.theory is not None}

    @functools.cached_property
    def _alike(self) -> dict[str, list[str]]:
        """The runs that differ from a run in the seed only, itself included, by seed."""
        groups: dict[str, list[str]] = {}
        for name, run in self.runs.items():
            text = json.dumps({**run.config, "seed": None}, sort_keys=True)
            groups.setdefault(text, []).append(name)
        for names in groups.values():
            names.sort(key=lambda name: self.runs[name].config["seed"])
        return {name: names for names in groups.values() for name in names}

    def seeds_of(self, run: str) -> list[str]:
        """Return the runs that differ from a run in the seed only, itself included, by seed."""
        return self._alike[run]

    def with_parents(self, runs: Iterable[str]) -> tuple[str, ...]:
        """Return runs, each after those that it starts from, and each once."""
        found: dict[str, None] = {}
        for run in runs:
            chain = [run]
            while (parent := self.runs[chain[-1]].parent) is not None:
                chain.append(parent)
            found |= dict.fromkeys(reversed(chain))
        return tuple(found)

    def select(self, **choice: Any) -> tuple[str, ...]:
        """Return the runs that match all criteria, with the runs that they start from.

        Args:
            choice: experiment, row (a label), method, sparsity, model or dataset.

        Raises:
            ConfigError: a value is unknown, or no run matches; lists what is allowed.
        """
        rows = [(e.id, row) for e in self.experiments for row in e.all_rows]
        if "experiment" in choice:
            rows = [(name, row) for name, row in rows if name == choice["experiment"]]
        known: dict[str, Collection[Any]] = {
            "experiment": self.ids("table", "figure", "theory"),
            "row": {row.label for _, row in rows},
            **{key: {run.config[key] for run in self.runs.values()} for key in _CHOICES},
        }
        for key, value in choice.items():
            if value not in known[key]:
                raise config_error(key, value, "not in the study", known[key])
        found: Sequence[str] = tuple(self.runs)
        if {"experiment", "row"} & choice.keys():
            chosen = (row for _, row in rows if choice.get("row") in (None, row.label))
            found = tuple(dict.fromkeys(run for row in chosen for run in row.all_runs))
        for key in _CHOICES:
            if key in choice:
                found = [run for run in found if self.runs[run].config[key] == choice[key]]
        if choice and not found:
            raise config_error(", ".join(choice), None, "no run matches all", "those of some run")
        return self.with_parents(found)

    def to_json(self) -> str:
        """Return the study as JSON, which ``read_study`` reads."""
        return _ADAPTER.dump_json(self, indent=1).decode() + "\n"

    @functools.cached_property
    def digest(self) -> str:
        """A hash of everything in the study, by which the workflow notices a change."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:12]


_ADAPTER = TypeAdapter(Study)
_REMEDY = "Remove it and make the study again"


class _Described(BaseModel):
    """What every reader takes from a run's configuration."""

    model_config = ConfigDict(strict=True, extra="ignore")

    model: str
    dataset: str
    method: str
    sparsity: float = Field(ge=0, lt=1)
    epochs: int = Field(ge=1)
    seed: int = Field(ge=0)


def write_study(study: Study, path: Path) -> None:
    """Write a study where ``read_study`` finds it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, study.to_json())


def read_study(folder: Path) -> Study:
    """Return the study of a folder.

    Raises:
        ReportError: study.json is missing or damaged, or needs a run or a column that there is not.
    """
    path = folder / STUDY
    where: tuple[str, ...] = ()
    try:
        study = _ADAPTER.validate_json(path.read_bytes(), strict=True)
        for name, run in study.runs.items():
            where = ("runs", name, "config")
            _Described.model_validate(dict(run.config))
    except OSError as error:
        remedy = f"Write it with acdc study SCALE --out {path} and the study's other options"
        raise ReportError(f"{path}: {error.strerror}. {remedy}") from None
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, (*where, *first["loc"]))) or "content"
        raise ReportError(f"{path}: {key}: {first['msg']}. {_REMEDY}") from None
    order = {name: place for place, name in enumerate(study.runs)}
    needed = [(run.parent, order[name]) for name, run in study.runs.items() if run.parent]
    needed += [(run, len(order)) for each in study.experiments for run in each.runs]
    for name, place in needed:
        if order.get(name, place) >= place:
            raise ReportError(f"{path}: runs lacks {name}, or has it too late. {_REMEDY}")
    for experiment in study.experiments:
        for column in experiment.columns:
            if column not in COLUMNS:
                unknown = f"{experiment.id}: columns: {column} is unknown"
                raise ReportError(f"{path}: {unknown}. {_REMEDY}")
    return study
