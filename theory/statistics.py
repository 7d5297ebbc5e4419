"""Confidence intervals of measured values.

The level is 99 %: a study prints some sixty intervals, of which at 95 % three would miss the truth.
scipy.stats takes a second to import; it is imported where needed, so that plans are made fast.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

LEVEL = 0.99
RESAMPLES = 4000

Array = npt.NDArray[np.float64]
Values = npt.ArrayLike
"""A sample, one value for each trial; also a tensor."""


@dataclass(frozen=True)
class Interval:
    """A measured value with its 99 % confidence interval."""

    value: float
    low: float
    high: float

    @property
    def half_width(self) -> float:
        """The larger distance from the value to an end."""
        return max(self.high - self.value, self.value - self.low)


_UNKNOWN = Interval(math.inf, -math.inf, math.inf)


def exact(value: float) -> Interval:
    """Return what was computed without a sample, and so has no spread."""
    return Interval(value, value, value)


def _finite(values: Values) -> Array | None:
    """Return a sample as an array, None where a value is not finite.

    Raises:
        ValueError: there are fewer than two values.
    """
    sample = np.asarray(values, dtype=np.float64)
    if len(sample) < 2:
        raise ValueError(f"{len(sample)} values: expected at least 2 for an interval")
    return sample if np.isfinite(sample).all() else None


def mean(values: Values, seed: int = 0) -> Interval:
    """Return the mean of two or more values with its bootstrap interval (BCa; seeded resampling).

    Equal values have an interval of one point. Of twenty strongly skewed values it covers the mean
    in about 95 % of samples, not 99. A value that is not finite, as a diverged trial has, makes
    the mean and both ends infinite.
    """
    from scipy import stats

    if (sample := _finite(values)) is None:
        return _UNKNOWN
    least, spread = float(sample.min()), float(np.ptp(sample))
    if spread == 0.0:
        return exact(least)
    # In units of the spread: cubes of differences near rounding would vanish, and BCa be NaN.
    found = stats.bootstrap(
        ((sample - least) / spread,),
        np.mean,
        confidence_level=LEVEL,
        n_resamples=RESAMPLES,
        vectorized=True,
        rng=np.random.default_rng(seed),
    ).confidence_interval
    low, high = (least + spread * float(end) for end in (found.low, found.high))
    return Interval(float(sample.mean()), low, high)


def student_mean(values: Values) -> Interval:
    """Return the mean of two or more values with Student's interval, exact for normal ones.

    For fewer values than a bootstrap needs. One that is not finite has the effect it has on `mean`.
    """
    from scipy import stats

    if (sample := _finite(values)) is None:
        return _UNKNOWN
    middle, error = float(sample.mean()), float(stats.sem(sample))
    wide = float(stats.t.ppf(0.5 + LEVEL / 2, len(sample) - 1)) * error
    return Interval(middle, middle - wide, middle + wide)


def geometric_mean(values: Values) -> Interval:
    """Return the geometric mean with Student's interval of the logarithms, for few ratios.

    A value that is not finite or not above 0 makes it unknown: infinite, as in `mean`.
    """
    sample = np.asarray(values, dtype=np.float64)
    logs = student_mean(np.log(np.where(sample > 0.0, sample, np.inf)))
    return Interval(*(float(np.exp(each)) for each in (logs.value, logs.low, logs.high)))


def slope(x: Values, y: Values) -> Interval:
    """Return the slope of log y against log x by least squares, with Student's interval.

    Trials at the same x are points of their own. Lack of fit to a power law widens the interval.
    Nothing is known, NaN, where a value has no logarithm or is not finite, and of fewer than three
    points or fewer than two different x.
    """
    from scipy import stats

    points = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    known = all(np.isfinite(values).all() and (values > 0).all() for values in points)
    if not known or len(points[0]) < 3 or len(np.unique(points[0])) < 2:
        return exact(math.nan)
    logs = np.log(points)
    if np.ptp(logs[1]) == 0.0:
        return exact(0.0)  # Of a constant the regression has no standard error.
    found = stats.linregress(*logs)
    wide = float(stats.t.ppf(0.5 + LEVEL / 2, len(points[0]) - 2)) * found.stderr
    return Interval(float(found.slope), float(found.slope - wide), float(found.slope + wide))


def proportion(count: int, trials: int) -> Interval:
    """Return a relative frequency with Clopper and Pearson's exact interval; needs a trial."""
    from scipy import stats

    found = stats.binomtest(count, trials).proportion_ci(LEVEL, "exact")
    return Interval(count / trials, float(found.low), float(found.high))
