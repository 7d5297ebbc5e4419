"""The theory's results, read from the folder ``theory`` of a study."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from pydantic import ValidationError

from acdc.messages import explain
from study.model import Experiment, ReportError, Study
from theory.layout import SERIES
from theory.results import Results, Series
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
                statements = read_results(folder, experiment).statements
                found.append(Found(experiment, statements))
            except ReportError as error:
                found.append(Found(experiment, problem=str(error)))
    return found


def read_series(study: Path, experiment: Experiment) -> pd.DataFrame:
    """Return the points of an experiment's figure, the columns SERIES.

    Raises:
        ReportError: series.csv is missing, or is not what the experiment wrote.
    """
    expected = read_results(study, experiment).series
    path = study / "theory" / str(experiment.theory) / "series.csv"
    try:
        content = path.read_bytes()
    except OSError as error:
        raise _damaged(path, str(error.strerror)) from None
    if Series.of(content) != expected:
        raise _damaged(path, f"it is not as it was written, with {expected.rows} rows")
    return pd.read_csv(
        io.BytesIO(content),
        dtype={**dict.fromkeys(_WORDS, str), **dict.fromkeys(_NUMBERS, float)},
        keep_default_na=False,
        na_values={key: [""] for key in _NUMBERS},
    )


def read_results(study: Path, experiment: Experiment) -> Results:
    """Return an experiment's results, whose verdicts follow from their numbers.

    Raises:
        ReportError: statements.json is missing, damaged, of other settings than the study's, or has
            a verdict that its numbers do not give.
    """
    name = str(experiment.theory)
    path = study / "theory" / name / "statements.json"
    try:
        found = Results.model_validate(json.loads(path.read_bytes()))
    except FileNotFoundError:
        raise ReportError(
            f"{path} is missing; run 'acdc theory run {name} --out {path.parent}'"
        ) from None
    except ValidationError as error:
        raise _damaged(path, explain(error, Results)) from None
    except (OSError, RecursionError, ValueError) as error:
        raise _damaged(path, str(error)) from None
    if found.experiment != name:
        raise _damaged(path, f"experiment={found.experiment}, not {name}")
    for key in sorted(found.settings.keys() | experiment.settings.keys()):
        # JSON makes lists of tuples.
        own, wanted = (json.dumps(x.get(key)) for x in (found.settings, experiment.settings))
        if own != wanted:
            raise _damaged(path, f"settings.{key}={own}, but the study has {wanted}")
    return found


def _damaged(path: Path, problem: str) -> ReportError:
    return ReportError(f"{path} is damaged: {problem}. Run the experiment again")
