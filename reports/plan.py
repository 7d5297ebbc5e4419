"""What a study shall contain: the experiments and runs that plan.json of its folder names."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from acdc.errors import SuiteError

PLAN = "plan.json"


class ReportError(SuiteError):
    """A table, figure or report cannot be made from what the study's folder holds."""

    exit_status = 6


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

    method: str
    variant: str
    table: str | None = None
    """The paper's table where it is not the experiment's own."""


@dataclass(frozen=True)
class Row:
    """One line of a table: a method at a sparsity, and its runs, one a seed."""

    label: str
    method: str
    sparsity: float
    epochs: int
    """Of its runs, which may train longer than the task's dense network."""
    product: str
    runs: tuple[str, ...]
    paper: PaperRow | None


@dataclass(frozen=True)
class Experiment:
    """One table or figure; ``kind`` says which module makes it."""

    id: str
    kind: str
    title: str
    caption: str
    paper_table: str | None
    task: Task | None
    rows: tuple[Row, ...]

    def needed_task(self) -> Task:
        """Return the task.

        Raises:
            ReportError: the experiment has none.
        """
        if self.task is None:
            raise ReportError(f"experiment {self.id} of kind {self.kind} names no task")
        return self.task


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
    for experiment in plan.experiments:
        for row in experiment.rows:
            for run in row.runs:
                if run not in plan.runs:
                    raise ReportError(
                        f"{path}: experiment {experiment.id} needs run {run}, "
                        "which the plan does not describe"
                    )
    return plan


def _experiment(data: Mapping[str, Any]) -> Experiment:
    task = data.get("task")
    return Experiment(
        id=data["id"],
        kind=data["kind"],
        title=data["title"],
        caption=data["caption"],
        paper_table=None if data.get("paper_table") is None else str(data["paper_table"]),
        task=Task(task["name"], task["model"], task["dataset"], task["epochs"]) if task else None,
        rows=tuple(_row(item) for item in data.get("rows", ())),
    )


def _row(data: Mapping[str, Any]) -> Row:
    paper = data["paper"]
    return Row(
        label=data["label"],
        method=data["method"],
        sparsity=data["sparsity"],
        epochs=data["epochs"],
        product=data["product"],
        runs=tuple(data["runs"]),
        paper=_paper_row(paper) if paper else None,
    )


def _paper_row(data: Mapping[str, Any]) -> PaperRow:
    table = data.get("table")
    return PaperRow(
        data["method"], data.get("variant") or "", None if table is None else str(table)
    )
