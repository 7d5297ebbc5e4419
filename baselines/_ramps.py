"""Gradual pruning in time: how the sparsity rises, and when masks are updated.

Pure functions of positions, which are steps or epochs, as the original counts them.
"""

from __future__ import annotations

from typing import Any

from acdc.messages import config_error


def cubic_ramp(position: int, begin: int, end: int, initial: float, final: float) -> float:
    """Return the sparsity at a position: steep at ``begin``, flat towards ``end``.

    Zhu and Gupta 2017, equation 1. Positions outside the ramp are clipped, so that the value from
    ``end`` on is ``final`` exactly.
    """
    remaining = 1.0 - min(max((position - begin) / (end - begin), 0.0), 1.0)
    return final + (initial - final) * remaining**3


def ramp_ends(settings: Any, length: int) -> tuple[int, int]:
    """Return the first and last position of a ramp, at least one apart.

    Args:
        settings: have ``begin`` and ``end``, fractions of training.
        length: of training, in steps or epochs.
    """
    begin = min(round(settings.begin * length), length - 1)
    return begin, max(round(settings.end * length), begin + 1)


def check_initial_sparsity(initial: float, final: float) -> None:
    """Check that a ramp does not fall.

    Raises:
        ConfigError: ``settings.initial_sparsity`` is above the run's sparsity.
    """
    if initial > final:
        raise config_error(
            "settings.initial_sparsity", initial, "above the sparsity", f"up to sparsity={final}"
        )


def even_updates(begin: int, end: int, updates: int) -> tuple[int, ...]:
    """Return positions at even distances, the first at ``begin`` and the last at ``end``.

    There are ``updates`` + 1 of them, or as many as there are positions.
    """
    count = min(updates, end - begin)
    return tuple(begin + round(i * (end - begin) / count) for i in range(count + 1))


def updates_since_last(begin: int, end: int, frequency: int) -> tuple[int, ...]:
    """Return the steps at which contrib's pruning updates its masks, up to ``end`` included.

    A step is due if ``frequency`` steps have passed since the last update, the first of which
    counts as step 0 (tensorflow/contrib/model_pruning, pruning.py, conditional_mask_update_op).
    """
    return tuple(range(max(begin, frequency), end + 1, frequency))


def updates_since_begin(begin: int, end: int, frequency: int) -> tuple[int, ...]:
    """Return the epochs at every ``frequency`` from ``begin`` on, up to ``end`` included.

    IST-DASLab/WoodFisher, policies/pruners.py.
    """
    return tuple(range(begin, end + 1, frequency))


def updates_before_end(begin: int, end: int, frequency: int) -> tuple[int, ...]:
    """Return the epochs at every ``frequency`` from ``begin`` on, ``end`` excluded.

    IST-DASLab/ACDC, policies/manager.py.
    """
    return tuple(range(begin, end, frequency))
