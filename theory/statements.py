"""Statements: claims kept as data beside each experiment, and verdicts on what was measured."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from acdc.config.recipe import Frozen
from acdc.config.yaml_io import parsed
from theory.statistics import LEVEL, Interval

Relation = Literal["equals", "at most", "at least", "never"]
Verdict = Literal["holds", "does not hold", "undecided"]

# With no violation in 51 trials, Clopper and Pearson's interval ends below this frequency.
_RARE = 0.1


@dataclass(frozen=True, kw_only=True)
class Statement:
    """One row of the theory's table: a claim, its measured value, and the verdict."""

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
    predicted: float
    """An exponent, a bound or a frequency."""
    tolerance: float = math.inf
    """The largest half width of an interval that decides *equals* and *never*."""
    measured: Interval
    trials: int
    """Number of independent trials."""
    violations: int | None = None
    """Number of violations; *never* only."""
    diverged: int = 0
    """Trials that diverged."""
    note: str = ""
    """What to know when reading the value."""

    def __post_init__(self) -> None:
        if self.relation == "equals" and not math.isfinite(self.tolerance):
            raise ValueError(f"{self.id}: expected a tolerance, without which any interval decides")

    @property
    def verdict(self) -> Verdict:
        """Return the verdict by `criterion`.

        Never *holds* where the interval excludes the prediction, or where a trial diverged.
        """
        low, high, bound = self.measured.low, self.measured.high, self.predicted
        if any(map(math.isnan, (self.measured.value, low, high, bound))):
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
        """Return JSON data with the verdict and the criterion.

        Numbers that JSON cannot hold are strings that `float` reads: inf, -inf, nan.
        """
        numbers = {
            **{key: getattr(self, key) for key in ("predicted", "tolerance")},
            **{key: getattr(self.measured, key) for key in ("value", "low", "high")},
        }
        return {
            **{key: getattr(self, key) for key in ("id", "source", "claim", "measure", "relation")},
            **{key: x if math.isfinite(x) else str(x) for key, x in numbers.items()},
            **{key: getattr(self, key) for key in ("trials", "violations", "diverged", "note")},
            "level": LEVEL,
            "verdict": self.verdict,
            "criterion": self.criterion,
        }


class Claim(Frozen):
    """What a statement claims and how it is judged; an entry of an experiment's YAML file.

    Texts are templates with ``%(name)s``, filled in from the settings and the measurement.
    """

    source: str
    claim: str
    measure: str
    relation: Relation
    predicted: float = 0.0
    tolerance: float | None = None
    note: str = ""

    def judge(
        self, id: str, measured: Interval, words: Mapping[str, object], **counts: int | None
    ) -> Statement:
        """Return the statement with a measured value.

        Args:
            id: the claim's key in the YAML file, a template like its texts.
            measured: value and interval.
            words: values of the templates' names.
            **counts: trials, diverged and violations.

        Raises:
            KeyError: a template has a name without a value.
        """
        texts = {"id": id, **{key: getattr(self, key) for key in ("claim", "measure", "note")}}
        largest = _RARE if self.relation == "never" else math.inf
        return Statement(
            **{key: text % words for key, text in texts.items()},
            source=self.source,
            relation=self.relation,
            predicted=self.predicted,
            tolerance=largest if self.tolerance is None else self.tolerance,
            measured=measured,
            **counts,  # type: ignore[arg-type]
        )


def read_claims(experiment: str) -> dict[str, Claim]:
    """Return the claims of an experiment by their ids, in the order of the file."""
    path = Path(__file__).parent / "experiments" / f"{experiment}.yaml"
    return {
        key: Claim.model_validate(data)
        for key, data in parsed(path.read_bytes(), str(path)).items()
    }
