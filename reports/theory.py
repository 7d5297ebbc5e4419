"""The theory's results, as the study's theory folder holds them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import pandas as pd

from study.model import Experiment, ReportError, Study
from theory.layout import SERIES, Role
from theory.statements import Statement
from theory.statistics import Interval

_WORDS = SERIES[:3]
_NUMBERS = SERIES[3:]


@dataclass(frozen=True)
class Found:
    """What an experiment of the theory has found."""

    experiment: Experiment
    statements: tuple[Statement, ...] = ()
    problem: str = ""
    """Why there are no statements."""

    @property
    def name(self) -> str:
        """The experiment's name in theory."""
        return theory_of(self.experiment)


def theory_of(experiment: Experiment) -> str:
    """Return an experiment's name in theory.

    Raises:
        ReportError: it is not one of the theory.
    """
    if experiment.theory is None:
        raise ReportError(f"experiment {experiment.id} of kind {experiment.kind} is no theory")
    return experiment.theory


def find(folder: Path, study: Study) -> list[Found]:
    """Return the statements of each experiment of the theory, or why there are none."""
    return [_found(folder, each) for each in study.experiments if each.kind == "theory"]


def _found(study: Path, experiment: Experiment) -> Found:
    try:
        return Found(experiment, read_statements(study, theory_of(experiment)))
    except ReportError as error:
        return Found(experiment, problem=str(error))


def read_series(study: Path, name: str) -> pd.DataFrame:
    """Return what an experiment's figure draws, the columns SERIES.

    Raises:
        ReportError: series.csv is missing, damaged, or has a role that is unknown.
    """
    path = study / "theory" / name / "series.csv"
    _require(path, name)
    try:
        table = pd.read_csv(
            path,
            dtype={**dict.fromkeys(_WORDS, str), **dict.fromkeys(_NUMBERS, float)},
            keep_default_na=False,
            na_values={key: [""] for key in _NUMBERS},
        )
    except (pd.errors.EmptyDataError, pd.errors.ParserError, ValueError):
        raise ReportError(f"{path} is damaged; make it again") from None
    missing = [column for column in SERIES if column not in table.columns]
    if missing:
        raise ReportError(f"{path} lacks the columns {', '.join(missing)}; make it again")
    accepted = ", ".join(get_args(Role))
    for role in table["role"].unique():
        if role not in get_args(Role):
            raise ReportError(f"{path}: role {role!r} is unknown; {accepted} are accepted")
    return table


def read_statements(study: Path, name: str) -> tuple[Statement, ...]:
    """Return an experiment's statements, whose verdicts follow from their numbers.

    Raises:
        ReportError: statements.json is missing or damaged, or has a verdict that its numbers do not
            give.
    """
    path = study / "theory" / name / "statements.json"
    _require(path, name)
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))["statements"]
        found = [_statement(item) for item in stored]
        verdicts = [item["verdict"] for item in stored]
    except (KeyError, TypeError, ValueError):
        raise ReportError(f"{path} is damaged; make it again") from None
    for statement, verdict in zip(found, verdicts, strict=True):
        if statement.verdict != verdict:
            raise ReportError(
                f"{path}: statement {statement.id} is said to be {verdict!r}, but its interval "
                f"gives {statement.verdict!r}; make it again"
            )
    return tuple(found)


def _require(path: Path, name: str) -> None:
    if not path.exists():
        raise ReportError(f"{path} is missing; run 'acdc theory run {name} --out {path.parent}'")


def _statement(data: Mapping[str, Any]) -> Statement:
    kept = ("id", "source", "claim", "measure", "relation", "trials", "violations", "diverged")
    values: dict[str, Any] = {key: data[key] for key in (*kept, "note")}
    values |= {key: float(data[key]) for key in ("predicted", "tolerance")}
    interval = Interval(*(float(data[key]) for key in ("value", "low", "high")))
    return Statement(**values, measured=interval)
