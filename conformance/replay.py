"""Replays a file of figures, case by case, in the way that its ``format`` names."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from acdc.errors import SuiteError
from conformance.formats import acdc, flops, gmp, rigl, soft_threshold, top_kast, woodfisher
from conformance.vectors import Case


class ConformanceError(SuiteError):
    """There is nothing to replay, or a method does not agree with its original."""

    exit_status = 1


@dataclass(frozen=True)
class Format:
    """How the figures of a file are replayed."""

    replay: Callable[[Any], Iterator[Case]]
    sections: tuple[str, ...]
    """Beginnings of the names of the sections that are replayed."""

    def left_out(self, data: Mapping[str, Any]) -> tuple[str, ...]:
        """Return the sections of a file that are not replayed, remarks not counted."""
        return tuple(key for key in data if not key.startswith((*self.sections, *_REMARKS)))


_REMARKS = ("format", "source", "note", "identity", "generator", "trajectory_note", "facts")

FORMATS = {
    "acdc_masks_schedules": Format(
        acdc.masks_schedules,
        ("percentile", "masks", "nm", "schedules", "cosine_lr_by_epoch", "momentum_reset"),
    ),
    "acdc_training_trace": Format(acdc.training_trace, ("setup", "trace", "kept_per_phase")),
    "gmp": Format(
        gmp.schedules_and_masks,
        ("cubic_", "mask_update_steps", "woodfisher_schedule", "mask_rules_on_"),
    ),
    "rigl_update": Format(rigl.updates, ("cases",)),
    "rigl_drop_fraction": Format(rigl.drop_fraction, ("values",)),
    "distributions": Format(rigl.distributions, ("cases", "layers", "total_params")),
    "small_distributions": Format(rigl.small_distributions, ("cases",)),
    "str": Format(soft_threshold.cases, ("soft_threshold", "getSparsity", "threshold_trajectory")),
    "top_kast": Format(top_kast.sets, ("cases", "torch_topkast_quantile_rule")),
    "woodfisher": Format(woodfisher.blocks, ("cases",)),
    # Every section is a network, but for the schedule's.
    "flops": Format(flops.counts, ("",)),
}


@dataclass(frozen=True)
class Replay:
    """The cases of one file."""

    file: str
    format: str
    cases: tuple[Case, ...]
    left_out: tuple[str, ...] = ()
    """Sections of the file that are not replayed."""

    @property
    def agrees(self) -> bool:
        """Whether every case does, and there is one."""
        return bool(self.cases) and all(case.agrees for case in self.cases)


def replay_file(path: Path) -> Replay | None:
    """Return the replay of one file, or none where its format is unknown.

    What cannot be read or replayed is a case that does not agree.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        return Replay(path.name, "unreadable", (_failed("the file", error),))
    known = FORMATS.get(data.get("format", "")) if isinstance(data, dict) else None
    if known is None:
        return None
    cases = tuple(_guarded(known.replay(data)))
    return Replay(path.name, data["format"], cases, known.left_out(data))


def _guarded(cases: Iterator[Case]) -> Iterator[Case]:
    try:
        yield from cases
    except (KeyError, ValueError, TypeError, IndexError, RuntimeError, SuiteError) as error:
        yield _failed("what follows", error)


def _failed(name: str, error: Exception) -> Case:
    return Case(name, math.inf, 0.0, f"{type(error).__name__}: {error}")


def summary(replays: Sequence[Replay]) -> str:
    """Return the outcome in one sentence."""
    cases = [case for replay in replays for case in replay.cases]
    agreeing = sum(case.agrees for case in cases)
    return f"{agreeing} of {len(cases)} cases in {len(replays)} files agree with the originals"
