"""Gradual magnitude pruning in time: how the sparsity rises, and when masks are updated.

Pure functions, one for each way in which the published code bases differ. Positions are steps or
epochs, as the code base counts them; what an end includes is said at each function.
"""

from __future__ import annotations

from collections.abc import Callable

Ramp = Callable[[int, int, int, float, float], float]
"""The sparsity at a position of a ramp, given where it begins and ends and from what to what."""


def cubic_sparsity(progress: float, initial: float, final: float) -> float:
    """Return the sparsity of gradual magnitude pruning at ``progress`` in [0, 1].

    Zhu and Gupta 2017, equation 1: steep at first, flat towards the end. Progress outside the
    interval is clipped, so that the value at 1 is ``final`` exactly.
    """
    remaining = 1.0 - min(max(progress, 0.0), 1.0)
    return final + (initial - final) * remaining**3


def cubic_ramp(position: int, begin: int, end: int, initial: float, final: float) -> float:
    """Return the sparsity at a position of the ramp that reaches ``final`` at ``end``.

    tensorflow/contrib/model_pruning, tfmot and RigL's notebook in steps, IST-DASLab's ACDC and
    WoodFisher (policies/pruners.py) in epochs.
    """
    return cubic_sparsity((position - begin) / (end - begin), initial, final)


def early_cubic_ramp(step: int, begin: int, end: int, initial: float, final: float) -> float:
    """Return jaxpruner's sparsity, one step ahead of the cubic (sparsity_schedules.py)."""
    return cubic_ramp(step + 1, begin, end, initial, final)


def open_cubic_ramp(epoch: int, begin: int, end: int, initial: float, final: float) -> float:
    """Return STR's sparsity: the cubic held from the epoch before ``end``, short of ``final``.

    RAIVNLab/STR, main.py. Its ``final_prune_epoch`` is ``end`` - 1, the last that changes anything.
    """
    return cubic_ramp(min(epoch, end - 1), begin, end, initial, final)


def bounded_cubic_ramp(
    iteration: int, begin: int, end: int, initial: float, final: float
) -> float | None:
    """Return GraNet's sparsity at a pruning iteration, None before ``begin`` and from ``end`` on.

    VITA-Group/GraNet, core.py. The last one, ``end`` - 1, falls short of ``final``.
    """
    if not begin <= iteration < end:
        return None
    return cubic_ramp(iteration, begin, end, initial, final)


def accelerated_cubic_ramp(
    step: int, accelerate_at: int, end: int, accelerated: float, final: float
) -> float:
    """Return sparsimony's sparsity: a jump to ``accelerated``, then a cubic that misses ``final``.

    The cubic's progress is divided by ``end`` and not by what is left of it (schedulers/base.py,
    AcceleratedCubicScheduler).
    """
    if step < accelerate_at:
        return 0.0
    return cubic_sparsity((min(step, end) - accelerate_at) / end, accelerated, final)


def even_updates(begin: int, end: int, updates: int) -> tuple[int, ...]:
    """Return positions at even distances, the first at ``begin`` and the last at ``end``.

    There are ``updates`` + 1 of them, or as many as there are positions.
    """
    count = min(updates, end - begin)
    return tuple(begin + round(i * (end - begin) / count) for i in range(count + 1))


def updates_since_last(begin: int, end: int, frequency: int) -> tuple[int, ...]:
    """Return the steps at which contrib's pruning updates its masks, up to ``end`` included.

    A step is due if ``frequency`` steps have passed since the last update, which counts as having
    been at step 0 (pruning.py, conditional_mask_update_op).
    """
    return tuple(range(max(begin, frequency), end + 1, frequency))


def updates_since_begin(begin: int, end: int, frequency: int) -> tuple[int, ...]:
    """Return the positions at every ``frequency`` from ``begin`` on, up to ``end`` included.

    tfmot in steps (pruning_schedule.py), WoodFisher in epochs (policies/pruners.py).
    """
    return tuple(range(begin, end + 1, frequency))


def updates_at_multiples(begin: int, end: int, frequency: int) -> tuple[int, ...]:
    """Return jaxpruner's steps: the multiples of ``frequency`` from ``begin`` to ``end`` included.

    sparsity_schedules.py, PeriodicSchedule.
    """
    return tuple(range(-(-begin // frequency) * frequency, end + 1, frequency))


def updates_before_end(begin: int, end: int, frequency: int) -> tuple[int, ...]:
    """Return the positions at every ``frequency`` from ``begin`` on, ``end`` excluded.

    IST-DASLab/ACDC in epochs (policies/manager.py), GraNet in pruning iterations (core.py).
    """
    return tuple(range(begin, end, frequency))
