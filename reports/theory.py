"""The theory's results, read from the folder ``theory`` of a study."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import pandas as pd

from study.model import Experiment, ReportError, Study
from theory.layout import SERIES, Role
from theory.statements import Statement

_WORDS = SERIES[:3]
_NUMBERS = SERIES[3:]


@dataclass(frozen=True)
class Found:
    """The results of an experiment of the theory."""

    experiment: Experiment
    statements: tuple[Statement, ...] = ()
    problem: str = ""
    """Why there are no statements."""

    @property
    def name(self) -> str:
        """The experiment's name in theory."""
        return str(self.experiment.theory)


def find(folder: Path, study: Study) -> list[Found]:
    """Return the statements of each experiment of the theory, or why there are none."""
    found = []
    for experiment in study.experiments:
        if experiment.theory is not None:
            try:
                found.append(Found(experiment, read_statements(folder, experiment.theory)))
            except ReportError as error:
                found.append(Found(experiment, problem=str(error)))
    return found


def read_series(study: Path, name: str) -> pd.DataFrame:
    """Return the points of an experiment's figure, the columns SERIES.

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
        raise ReportError(f"{path} is damaged. Run the experiment again") from None
    missing = [column for column in SERIES if column not in table.columns]
    if missing:
        raise ReportError(
            f"{path} lacks the columns {', '.join(missing)}. Run the experiment again"
        )
    for role in table["role"].unique():
        if role not in get_args(Role):
            allowed = ", ".join(get_args(Role))
            raise ReportError(f"{path}: role={role}: unknown. Allowed: {allowed}")
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
        kept = Statement.model_fields
        found = [Statement(**{key: item[key] for key in kept}) for item in stored]
        verdicts = [item["verdict"] for item in stored]
    except (KeyError, TypeError, ValueError):
        raise ReportError(f"{path} is damaged. Run the experiment again") from None
    for statement, verdict in zip(found, verdicts, strict=True):
        if statement.verdict != verdict:
            raise ReportError(
                f"{path}: statement {statement.id}: verdict={verdict}, but its interval gives "
                f"{statement.verdict!r}. Run the experiment again"
            )
    return tuple(found)


def _require(path: Path, name: str) -> None:
    if not path.exists():
        raise ReportError(f"{path} is missing; run 'acdc theory run {name} --out {path.parent}'")
