"""Objectives whose sparse minimiser and curvature constants are known exactly.

A problem holds many instances at once: its tensors are float64 of shape (..., N), whose leading
dimensions broadcast against those of the trials that it is asked about.
"""

from theory.problems.base import Gradient, Problem, check_sizes, sparse_vectors
from theory.problems.quadratic import Quadratic, diagonal_quadratics, rotated_quadratics
from theory.problems.regression import (
    LeastSquares,
    RestrictedConstants,
    gaussian_least_squares,
    restricted_constants,
)
from theory.problems.sine import SineSquares, Weight, cpl_constant, sine_squares, typical_constants
from theory.problems.traps import OneCoordinate, Trap

__all__ = [
    "Gradient",
    "LeastSquares",
    "OneCoordinate",
    "Problem",
    "Quadratic",
    "RestrictedConstants",
    "SineSquares",
    "Trap",
    "Weight",
    "check_sizes",
    "cpl_constant",
    "diagonal_quadratics",
    "gaussian_least_squares",
    "restricted_constants",
    "rotated_quadratics",
    "sine_squares",
    "sparse_vectors",
    "typical_constants",
]
