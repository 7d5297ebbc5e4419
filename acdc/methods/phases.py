"""When things happen: AC/DC's phases, and RigL's drop fraction.

Pure functions of the position in training. Epochs and iterations count from 0
and every interval is half-open.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from acdc.messages import config_error

PhaseKind = Literal["dense", "sparse"]


@dataclass(frozen=True)
class Phase:
    """Epochs ``start`` to ``end`` (half-open) during which all or only some weights are active."""

    kind: PhaseKind
    start: int
    end: int


@dataclass(frozen=True)
class AlternatingSchedule:
    """A published AC/DC schedule: a dense warm-up, sparse and dense phases in turn, a sparse end.

    Lengths are in epochs. The last dense and sparse phases are longer than those before, and
    ``epochs`` must leave a whole number of cycles in between (paper, Section 4).
    """

    epochs: int
    warmup: int
    sparse: int
    dense: int
    last_dense: int
    last_sparse: int
    source: str = ""
    """Where its phases are published, and whether they are derived."""

    def phases(self) -> tuple[Phase, ...]:
        """Return the phases in order, covering every epoch exactly once."""
        cycles, rest = divmod(
            self.epochs - self.warmup - self.sparse - self.last_dense - self.last_sparse,
            self.sparse + self.dense,
        )
        if rest or cycles < 0:
            raise ValueError(f"{self} does not leave a whole number of cycles")
        lengths: list[tuple[PhaseKind, int]] = [("dense", self.warmup)]
        lengths += [("sparse", self.sparse), ("dense", self.dense)] * cycles
        lengths += [
            ("sparse", self.sparse),
            ("dense", self.last_dense),
            ("sparse", self.last_sparse),
        ]
        bounds = [0]
        for _, length in lengths:
            bounds.append(bounds[-1] + length)
        return tuple(
            Phase(kind, start, end)
            for (kind, _), start, end in zip(lengths, bounds, bounds[1:], strict=False)
        )


_CONFIGURATIONS = "released configurations (IST-DASLab/ACDC, configs/neurips)"
PUBLISHED_SCHEDULES: dict[str, AlternatingSchedule] = {
    "imagenet-100": AlternatingSchedule(100, 10, 5, 5, 10, 15, _CONFIGURATIONS),
    "imagenet-150": AlternatingSchedule(150, 10, 5, 5, 10, 15, _CONFIGURATIONS),
    "imagenet-200": AlternatingSchedule(200, 10, 5, 5, 10, 15, _CONFIGURATIONS),
    "imagenet-100-figure1": AlternatingSchedule(
        100,
        10,
        5,
        5,
        5,
        10,
        "paper, Figure 1 and Appendix C.3; a comment in ISTA-DASLab-Optimizers",
    ),
    # Dense phases of two epochs; how many there are follows from the FLOPs that the paper prints.
    "imagenet-100-short": AlternatingSchedule(100, 10, 5, 2, 2, 13, "paper, Section 4; derived"),
    "imagenet-200-short": AlternatingSchedule(200, 10, 5, 2, 2, 15, "paper, Section 4; derived"),
    "cifar-20": AlternatingSchedule(200, 10, 20, 20, 20, 30, _CONFIGURATIONS),
    # The paper calls it AC/DC-14; its released configuration has dense phases of 13 epochs.
    "cifar-14": AlternatingSchedule(225, 10, 20, 13, 13, 50, _CONFIGURATIONS),
    "cifar-7": AlternatingSchedule(240, 10, 20, 7, 7, 41, "paper, Appendix B.1; derived"),
    "wikitext-48": AlternatingSchedule(48, 5, 3, 3, 7, 9, "paper, Section 4"),
}


def rescale(phases: Sequence[Phase], epochs: int) -> tuple[Phase, ...]:
    """Stretch or shrink phases to ``epochs`` epochs in total, keeping their proportions.

    Boundaries are rounded to whole epochs, halves up, which keeps every phase of an epoch or more.

    Raises:
        ConfigError: a phase would vanish.
    """
    total = phases[-1].end
    bounds = [(2 * phase.start * epochs + total) // (2 * total) for phase in phases] + [epochs]
    scaled = tuple(
        Phase(phase.kind, start, end)
        for phase, start, end in zip(phases, bounds, bounds[1:], strict=False)
    )
    for before, after in zip(phases, scaled, strict=True):
        if after.end <= after.start:
            shortest = min(phase.end - phase.start for phase in phases)
            raise config_error(
                "epochs",
                epochs,
                f"too short: the schedule's {before.kind} phase over epochs {before.start} to "
                f"{before.end} of {total} would vanish",
                f"{math.ceil(total / shortest)} or more",
            )
    return scaled


def check_phases(phases: Sequence[Phase], epochs: int) -> None:
    """Check that phases cover every epoch once and end sparse.

    Raises:
        ConfigError: names the first wrong phase.
    """
    if not phases:
        raise config_error("settings.phases", None, "no phase", "at least one sparse phase")
    expected = 0
    for number, phase in enumerate(phases):
        key, last = f"settings.phases[{number}]", phase is phases[-1]
        if phase.end <= phase.start:
            raise config_error(f"{key}.end", phase.end, "empty phase", f"above {phase.start}")
        if phase.start != expected:
            raise config_error(f"{key}.start", phase.start, "gap or overlap", str(expected))
        if last and phase.end != epochs:
            raise config_error(f"{key}.end", phase.end, "not the end of training", str(epochs))
        if last and phase.kind != "sparse":
            raise config_error(f"{key}.kind", phase.kind, "no final sparse phase", "sparse")
        expected = phase.end


def cosine_drop_fraction(step: int, initial: float, decay_steps: int) -> float:
    """Return RigL's drop fraction, annealed by a half cosine from ``initial`` to 0.

    In single precision, operation by operation as the original's, since a layer's number of dropped
    weights is truncated from it (Evci et al. 2020, Section 3 (2); rigl/sparse_optimizers_base.py,
    get_drop_fraction).

    Args:
        step: optimizer steps since the start of training, also where updates begin later.
        initial: the fraction at step 0.
        decay_steps: where it reaches 0.
    """
    if decay_steps == 0:
        return 0.0
    progress = np.float32(min(step, decay_steps)) / np.float32(decay_steps)
    # math.cos rounds correctly on every machine, which numpy's float32 cosine does not.
    cosine = np.float32(math.cos(np.float32(math.pi) * progress))
    return float(np.float32(initial) * (np.float32(0.5) * (np.float32(1) + cosine)))
