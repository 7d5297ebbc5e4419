"""Random generators derived from named axes, so that comparisons between methods are paired.

Every random draw of a run belongs to an axis (initial weights, data order, augmentation, mask
randomness) and a position (usually the epoch or the iteration). A generator is a function of the
run's seed, the axis and the position alone, never of history: two methods at the same seed start
from the same weights and see the same batches, and a resumed run draws what it would have drawn.
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
import torch

Axis = Literal[
    "initial_weights", "data_order", "augmentation", "masks", "gradient_samples", "dropout"
]

# The order is part of every run's identity: append, never reorder.
_AXES: tuple[str, ...] = get_args(Axis)


def derive(seed: int, axis: Axis, *position: int) -> int:
    """Return a 63-bit seed for one axis at one position, independent of all others."""
    return derive_many(seed, axis, *position, count=1)[0]


def generator(seed: int, axis: Axis, *position: int) -> torch.Generator:
    """Return a CPU generator for one axis at one position (CPU, so that devices draw alike)."""
    return torch.Generator().manual_seed(derive(seed, axis, *position))


def derive_many(seed: int, axis: Axis, *position: int, count: int) -> list[int]:
    """Return ``count`` seeds for one axis at one position, cheaper than one by one."""
    # A spawn key, in which trailing zeros count.
    sequence = np.random.SeedSequence(seed, spawn_key=(_AXES.index(axis), *position))
    state = sequence.generate_state(count, np.uint64)
    return [int(value) for value in state >> np.uint64(1)]


def seed_device(device: torch.device, value: int) -> None:
    """Seed torch's default generators of the CPU and a device, which dropout draws from.

    Not by torch.manual_seed, which seeds devices of all kinds, takes a millisecond, and queues each
    call until CUDA is first used.
    """
    torch.default_generator.manual_seed(value)
    if device.type == "cuda":
        index = torch.cuda.current_device() if device.index is None else device.index
        torch.cuda.default_generators[index].manual_seed(value)
