"""How many weights a sparsity leaves out: the one rule that every method rounds by."""

from __future__ import annotations

import math


def count_zeros(sparsity: float, size: int) -> int:
    """Return how many of ``size`` weights are zero at ``sparsity``: floor(sparsity * size).

    The rule of RigL's ``get_mask_random`` (rigl/sparse_utils.py).
    """
    return math.floor(sparsity * size)
