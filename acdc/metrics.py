"""How a trained network is judged: one number of its score, and which direction is better."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Metric:
    """A number that tables show, computed from accuracy and loss on a split."""

    name: Literal["accuracy", "perplexity"]
    unit: str
    """What it is printed in, with a leading space; empty for a pure number."""
    higher_is_better: bool
    measures: tuple[str, ...]
    """What it is computed from; records must hold these of every split."""

    def keys(self, *splits: str) -> list[str]:
        """Return the keys that the records of splits must have, such as ``val_accuracy``."""
        return [f"{split}_{measure}" for split in splits for measure in self.measures]

    def of(self, accuracy: float | None, loss: float) -> float:
        """Return the metric: per cent of correct predictions, or the exponential of the loss."""
        if self.name == "accuracy":
            assert accuracy is not None
            return 100 * accuracy
        return math.exp(min(loss, 700))

    def better(self, new: float, old: float) -> bool:
        """Return whether a value is at least as good as an earlier one."""
        return new >= old if self.higher_is_better else new <= old

    def guess(self, answers: int) -> float:
        """Return what guessing among equally likely answers gives."""
        return 100 / answers if self.name == "accuracy" else float(answers)

    def is_at_chance(self, value: float, answers: int) -> bool:
        """Return whether the odds of a right answer are below twice those of guessing.

        That is an accuracy below 18.2 % of ten classes, 0.2 % of a thousand. A run that guesses
        exceeds it with a probability below 1e-5 on 359 test images or more; one that collapsed to a
        few classes can be many standard errors above 1 / classes, and is not to be compared either.
        A perplexity of N is that of choosing among N equally likely answers.
        """
        if self.name == "accuracy":
            return value < 100 * 2 / (answers + 1)
        return value > (answers + 1) / 2

    def shown(self, accuracy: float | None, loss: float, digits: int = 2) -> str:
        """Return the metric with its unit, such as ``75.80 %``."""
        return f"{self.of(accuracy, loss):.{digits}f}{self.unit}"


ACCURACY = Metric("accuracy", " %", True, ("accuracy", "loss"))
PERPLEXITY = Metric("perplexity", "", False, ("loss",))
