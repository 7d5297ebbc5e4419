"""Mean, spread and confidence interval over seeds; paired differences between methods."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from scipy.special import stdtrit

CONFIDENCE = 0.95

_DIFFERENCE_DIGITS = 9
"""After the decimal point; far finer than one test image, far coarser than rounding."""


@dataclass(frozen=True)
class Summary:
    """One cell: the mean over finished runs, and the number of the other runs by status."""

    mean: float | None
    """None where no run finished."""
    std: float | None
    """Sample standard deviation (n - 1); None for fewer than two runs."""
    n: int
    """Runs that are averaged."""
    diverged: int = 0
    refused: int = 0
    """Runs whose sparsity certificate does not hold."""
    failed: int = 0
    """Runs that ended with an error that would recur."""
    missing: int = 0
    """Runs that have no result yet."""

    @property
    def runs(self) -> int:
        """All runs, averaged or not."""
        return self.n + self.diverged + self.refused + self.failed + self.missing

    @property
    def is_whole(self) -> bool:
        """Whether every run is averaged."""
        return self.n == self.runs

    @property
    def is_awaited(self) -> bool:
        """Whether there are runs, none of which has a result yet."""
        return 0 < self.missing == self.runs

    @property
    def half_width(self) -> float | None:
        """Half of the 95 % confidence interval of the mean, by Student's t.

        None for n < 2, and for equal values, from which no spread can be estimated.
        """
        if not self.std:
            return None
        return float(stdtrit(self.n - 1, 0.5 + CONFIDENCE / 2)) * self.std / math.sqrt(self.n)

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95 % confidence interval of the mean."""
        if self.mean is None or self.half_width is None:
            return None
        return self.mean - self.half_width, self.mean + self.half_width


NOTHING = Summary(None, None, 0)
"""The summary of no runs."""


def summarise(values: Sequence[float], **left_out: int) -> Summary:
    """Return the summary of the values of runs that finished and are not refused.

    Args:
        values: one per run.
        left_out: number of other runs by status, as Summary names them.

    Raises:
        ValueError: a value is not finite, which only a diverged run can have.
    """
    for value in values:
        if not math.isfinite(value):
            raise ValueError(f"{value} cannot be averaged")
    mean = statistics.fmean(values) if values else None
    # Two-pass and exact in rational arithmetic, so that equal values have a spread of exactly 0.
    std = statistics.stdev(values) if len(values) > 1 else None
    return Summary(mean, std, len(values), **left_out)


def paired_difference(ours: Mapping[int, float], theirs: Mapping[int, float]) -> Summary:
    """Return the summary of ours minus theirs over the seeds that both have.

    Runs of one seed share initial weights and data order, so that their difference is less
    noisy than the difference of two means. Differences that are equal but for rounding are equal.
    """
    common = sorted(ours.keys() & theirs.keys())
    return summarise([round(ours[seed] - theirs[seed], _DIFFERENCE_DIGITS) for seed in common])
