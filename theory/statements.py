"""Statements: claims kept as data beside each experiment, and verdicts on what was measured."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BeforeValidator,
    ConfigDict,
    Field,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_validator,
)

from acdc.config.yaml_io import parse_yaml
from acdc.frozen import Frozen
from theory.statistics import LEVEL, Interval

Relation = Literal["equals", "at most", "at least", "never"]
Verdict = Literal["holds", "does not hold", "undecided"]
# JSON has no numbers that are not finite: they are stored as these strings.
_NOT_FINITE = ("inf", "-inf", "nan")
Number = Annotated[
    int | float,
    BeforeValidator(lambda value: float(value) if value in _NOT_FINITE else value),
]
Count = Annotated[int, Field(ge=0)]

# With no violation in 51 trials, Clopper and Pearson's interval ends below this frequency.
_RARE = 0.1


class Claim(Frozen):
    """What a statement claims and how it is judged; an entry of an experiment's YAML file.

    There, id, claim, measure and note are templates with ``%(name)s``, filled in from the settings
    and the measurement.
    """

    id: str
    """Unique within its experiment."""
    source: str
    """Theorem, lemma or corollary of the paper, or this suite's own derivation."""
    claim: str
    """With LaTeX mathematics between dollar signs."""
    measure: str
    """What was measured, and on which problems; with LaTeX mathematics."""
    relation: Relation
    """How the measured value relates to the prediction; *never*: a frequency of violations."""
    predicted: Number = 0.0
    """An exponent, a bound or a frequency."""
    tolerance: Number = math.inf
    """The largest half width of an interval that decides *equals* and *never*."""
    note: str = ""
    """What to know when reading the value."""

    @model_validator(mode="after")
    def _can_fail(self) -> Self:
        if self.relation == "equals" and not math.isfinite(self.tolerance):
            raise ValueError(f"{self.id}: expected a tolerance, without which any interval decides")
        return self

    def judge(
        self, measured: Interval, words: Mapping[str, object], **counts: int | None
    ) -> Statement:
        """Return the statement with a measured value.

        Args:
            measured: value and interval.
            words: values of the templates' names.
            **counts: trials, diverged and violations.

        Raises:
            KeyError: a template has a name without a value.
        """
        filled = {key: getattr(self, key) % words for key in ("id", "claim", "measure", "note")}
        if self.relation == "never" and math.isinf(self.tolerance):
            filled["tolerance"] = _RARE
        return Statement(**self.model_dump() | filled | vars(measured) | counts)


class Statement(Claim):
    """One row of the theory's table: a claim, its measured value, and the verdict."""

    model_config = ConfigDict(allow_inf_nan=True)

    value: Number
    """The measured value."""
    low: Number
    """The lower end of its interval."""
    high: Number
    """The upper end."""
    trials: Count
    """Number of independent trials."""
    violations: Count | None = None
    """Number of violations; *never* only."""
    diverged: Count = 0
    """Trials that diverged."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.high < self.low:
            raise ValueError(f"{self.id}: low={self.low} exceeds high={self.high}")
        if self.relation == "never" and self.value * self.trials != self.violations:
            raise ValueError(f"{self.id}: value={self.value} is not violations over trials")
        return self

    @property
    def measured(self) -> Interval:
        """The measured value with its interval."""
        return Interval(self.value, self.low, self.high)

    @property
    def verdict(self) -> Verdict:
        """Return the verdict by `criterion`.

        Never *holds* where the interval excludes the prediction, or where a trial diverged.
        """
        low, high, bound = self.low, self.high, self.predicted
        if any(map(math.isnan, (self.value, low, high, bound))):
            return "undecided"
        if self.relation == "at most":
            contradicted, supported = low > bound, high <= bound
        elif self.relation == "at least":
            contradicted, supported = high < bound, low >= bound
        else:
            contradicted = not low <= bound <= high
            supported = not contradicted and self.measured.half_width <= self.tolerance
        if contradicted or self.diverged:
            return "does not hold"
        return "holds" if supported else "undecided"

    @property
    def criterion(self) -> str:
        """State in words when the verdict is *holds*, given that no trial diverged."""
        if self.relation == "equals":
            return (
                f"the {LEVEL:.0%} interval contains {self.predicted:g} and reaches at most "
                f"{self.tolerance:g} to either side"
            )
        if self.relation == "never":
            return (
                "no violation, and the interval of their frequency ends at most at "
                f"{self.tolerance:g}"
            )
        return f"the whole {LEVEL:.0%} interval is {self.relation} the prediction"

    def plain(self) -> dict[str, Any]:
        """Return JSON data with the verdict and the criterion; see `Stored`."""
        return {
            **{
                key: str(value) if isinstance(value, float) and not math.isfinite(value) else value
                for key, value in self.model_dump(exclude={"note"}).items()
            },
            "note": self.note,
            "level": LEVEL,
            "verdict": self.verdict,
            "criterion": self.criterion,
        }


def _follows(data: Any, validate: ValidatorFunctionWrapHandler) -> Any:
    """Validate what `Statement.plain` returns: what follows from its numbers does."""
    if not isinstance(data, dict):
        return validate(data)
    found = validate({key: data[key] for key in Statement.model_fields if key in data})
    expected = found.plain()
    for key in sorted(expected.keys() | data.keys()):
        if data.get(key) != expected.get(key):
            raise ValueError(f"{key}={data.get(key)}, but the rest gives {expected.get(key)!r}")
    return found


Stored = Annotated[Statement, WrapValidator(_follows)]
"""A statement, validated from its plain data."""


def read_claims(experiment: str) -> dict[str, Claim]:
    """Return the claims of an experiment by their ids, in the order of the file."""
    path = Path(__file__).parent / "experiments" / f"{experiment}.yaml"
    return {
        key: Claim.model_validate({"id": key, **data})
        for key, data in parse_yaml(path.read_bytes(), str(path)).items()
    }
