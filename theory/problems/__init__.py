"""Objectives whose sparse minimiser and curvature constants are known exactly.

A problem holds many instances at once: its tensors are float64 of shape (..., N), whose leading
dimensions broadcast against those of the trials that it is asked about. All have the same members:
`family`, the sparse `minimiser` (..., N), constants `alpha` and `beta` (...) for which the
theorem's hypotheses hold, and for theta (..., N) the `gap` f - f* (...) and the `gradient`.
"""

from theory.problems.quadratic import Quadratic
from theory.problems.regression import LeastSquares
from theory.problems.sine import SineSquares
from theory.problems.traps import OneCoordinate, Trap

Problem = Quadratic | LeastSquares | SineSquares | Trap | OneCoordinate
