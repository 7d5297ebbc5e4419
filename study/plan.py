"""What a study shall contain: the experiments and runs that plan.json of its folder names."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from acdc.errors import SuiteError

PLAN = "plan.json"


class ReportError(SuiteError):
    """A table, figure or report cannot be made from what the study's folder holds."""

    exit_status = 6


class NothingToDrawError(ReportError):
    """None of the runs that a figure shows can be averaged."""


@dataclass(frozen=True)
class Scale:
    """How large the study is; ``paper`` is the paper's own scale."""

    name: str
    title: str
    description: str

    @property
    def is_paper(self) -> bool:
        """Whether numbers of this scale may stand beside the paper's as like beside like."""
        return self.name == "paper"


@dataclass(frozen=True)
class Task:
    """What is trained, and the epochs of the dense training that is 1 in FLOPs ratios."""

    name: str
    model: str
    dataset: str
    epochs: int


@dataclass(frozen=True)
class PaperRow:
    """The row of the paper's table that a row of ours stands beside."""

    table: str
    method: str
    variant: str
    sparsity: float
    """Of the paper's row, which may be only near to ours."""
    cites: str = ""
    """Whose publication the paper took the row from; empty for the paper's own results."""


@dataclass(frozen=True)
class Row:
    """One line of a table or one series of a plot: a method at a sparsity, one run a seed."""

    label: str
    method: str | None
    """None for what the paper only cites and this suite does not train."""
    sparsity: float
    epochs: int
    """Of its runs, which may train longer than the task's dense network."""
    product: str
    runs: tuple[str, ...]
    """Empty where nothing is trained for it (yet)."""
    fine_tuned: tuple[str, ...]
    """The dense fine-tuning that goes on from each of the runs, where the table shows it."""
    paper: PaperRow | None
    task: Task | None
    """None where the scale has nothing for it."""


@dataclass(frozen=True)
class Panel:
    """One of the plots of a figure."""

    plot: str
    title: str
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Experiment:
    """One table or figure; ``kind`` says which: table, figure or theory."""

    id: str
    kind: str
    title: str
    caption: str
    paper: str | None
    """Number of the paper's table or figure."""
    awaits: str | None
    """What has to exist before all of it can be shown; None where nothing is missing."""
    reference: str | None
    """Label of the row that the others are compared with; None where none is meant."""
    columns: tuple[str, ...]
    """Of a table, by the names of columns.py."""
    rows: tuple[Row, ...]
    """Of a table."""
    panels: tuple[Panel, ...]
    """Of a figure."""
    theory: str | None = None
    """Name of the experiment in theory, of a theory."""

    @property
    def all_rows(self) -> tuple[Row, ...]:
        """The rows of the table or of all panels."""
        return (*self.rows, *(row for panel in self.panels for row in panel.rows))

    @property
    def tasks(self) -> tuple[Task, ...]:
        """What its runs train, each task once."""
        return tuple(dict.fromkeys(row.task for row in self.all_rows if row.task))

    @property
    def runs(self) -> tuple[str, ...]:
        """The runs that are shown, each once."""
        return tuple(
            dict.fromkeys(run for row in self.all_rows for run in (*row.runs, *row.fine_tuned))
        )


@dataclass(frozen=True)
class Plan:
    """A study: its scale, its experiments in display order, its runs with their configurations."""

    scale: Scale
    experiments: tuple[Experiment, ...]
    runs: Mapping[str, Mapping[str, Any]]

    def experiment(self, name: str) -> Experiment:
        """Return the experiment of an id.

        Raises:
            ReportError: there is none; lists those that there are.
        """
        for experiment in self.experiments:
            if experiment.id == name:
                return experiment
        known = ", ".join(experiment.id for experiment in self.experiments)
        raise ReportError(f"experiment {name!r} is not in the plan; {known} are accepted")


def read_plan(study: Path) -> Plan:
    """Return the plan of a study's folder.

    Raises:
        ReportError: plan.json is missing, is not JSON, lacks a key, or needs a run that it does not
            describe.
    """
    path = study / PLAN
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ReportError(
            f"{path} is missing; make it with 'python -m workflow plan SCALE --out {path}' and the "
            "--seeds and --experiments that the study was given, if any"
        ) from None
    except OSError as error:
        raise ReportError(f"{path} cannot be read: {error.strerror}") from None
    except json.JSONDecodeError as error:
        raise ReportError(f"{path} is not JSON: {error}") from None
    try:
        plan = Plan(
            scale=Scale(**{key: data["scale"][key] for key in ("name", "title", "description")}),
            experiments=tuple(_experiment(item) for item in data["experiments"]),
            runs=data["runs"],
        )
    except KeyError as error:
        raise ReportError(f"{path} lacks the key {error}") from None
    except (TypeError, AttributeError) as error:
        raise ReportError(f"{path} is not a plan: {error}") from None
    for experiment, run in _needed(plan):
        if run not in plan.runs:
            raise ReportError(
                f"{path}: experiment {experiment} needs run {run}, which the plan does not describe"
            )
    return plan


def _needed(plan: Plan) -> Iterator[tuple[str, str]]:
    for experiment in plan.experiments:
        for run in experiment.runs:
            yield experiment.id, run


def _experiment(data: Mapping[str, Any]) -> Experiment:
    return Experiment(
        **{key: data[key] for key in ("id", "kind", "title", "caption", "paper", "awaits")},
        reference=data.get("reference"),
        columns=tuple(data["columns"]),
        rows=tuple(_row(item) for item in data["rows"]),
        panels=tuple(
            Panel(item["plot"], item["title"], tuple(_row(row) for row in item["rows"]))
            for item in data["panels"]
        ),
        theory=data["theory"] if data["kind"] == "theory" else None,
    )


def _row(data: Mapping[str, Any]) -> Row:
    return Row(
        **{key: data[key] for key in ("label", "method", "sparsity", "epochs", "product")},
        runs=tuple(data["runs"]),
        fine_tuned=tuple(data["fine_tuned"]),
        paper=PaperRow(**data["paper"]) if data["paper"] else None,
        task=Task(**data["task"]) if data["task"] else None,
    )
