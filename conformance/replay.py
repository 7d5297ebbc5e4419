"""Finds the files of known formats in a folder and replays each of them, case by case."""

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
    """One format of figures, known by keys that no other has."""

    name: str
    keys: frozenset[str]
    """Any of these, or the beginning of one, is in the file or in the first of its cases."""
    replay: Callable[[Any], Iterator[Case]]
    others: frozenset[str] = frozenset()
    """Sections, or beginnings of their names, that are replayed beside those of ``keys``."""

    def left_out(self, data: Mapping[str, Any]) -> tuple[str, ...]:
        """Return the sections of a file that are not replayed, remarks not counted."""
        known = (*self.keys, *self.others, *_REMARKS)
        return tuple(key for key in data if not key.startswith(known))

    def is_of(self, data: Any) -> bool:
        """Return whether a file's content is of this format."""
        if not isinstance(data, dict):
            return False
        found = [*data, *_first(data.get("cases")), *_first(data.get("values")), *_first(data)]
        return any(name.startswith(key) for name in found for key in self.keys)


def _first(group: Any) -> list[str]:
    """Return the keys of a group of cases, and those of its cases."""
    cases = list(group.values()) if isinstance(group, dict) else group
    names = list(group) if isinstance(group, dict) else []
    if isinstance(cases, list):
        names += [key for case in cases if isinstance(case, dict) for key in case]
    return [name for name in names if isinstance(name, str)]


_REMARKS = ("source", "note", "identity", "generator", "trajectory_note")

FORMATS = (
    Format(
        "AC/DC masks and schedules",
        frozenset({"percentile", "masks", "nm", "schedules", "cosine_lr_by_epoch"}),
        acdc.masks_schedules,
        frozenset({"momentum_reset"}),
    ),
    Format(
        "AC/DC training trace",
        frozenset({"trace"}),
        acdc.training_trace,
        frozenset({"setup", "facts", "kept_per_phase"}),
    ),
    Format(
        "GMP schedules and masks",
        frozenset({"cubic_", "mask_update_steps", "mask_rules_on_"}),
        gmp.schedules_and_masks,
        frozenset({"woodfisher_schedule"}),
    ),
    Format("RigL update", frozenset({"out_mask"}), rigl.updates, frozenset({"cases"})),
    Format("RigL drop fraction", frozenset({"alpha="}), rigl.drop_fraction, frozenset({"values"})),
    Format(
        "sparsity distributions",
        frozenset({"layer_sparsities"}),
        rigl.distributions,
        frozenset({"cases", "layers", "total_params"}),
    ),
    Format(
        "sparsity distributions of small nets",
        frozenset({"sparsities"}),
        rigl.small_distributions,
        frozenset({"cases"}),
    ),
    Format(
        "STR",
        frozenset({"soft_threshold", "threshold_trajectory"}),
        soft_threshold.cases,
        frozenset({"getSparsity"}),
    ),
    Format(
        "Top-KAST",
        frozenset({"mask_A"}),
        top_kast.sets,
        frozenset({"cases", "torch_topkast_quantile_rule"}),
    ),
    Format("WoodFisher", frozenset({"inv_diag"}), woodfisher.blocks, frozenset({"cases"})),
    # Every section is a network, but for the schedule's.
    Format("FLOPs", frozenset({"dense"}), flops.counts, frozenset({""})),
)


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
    for known in FORMATS:
        if known.is_of(data):
            cases = tuple(_guarded(known.replay(data)))
            return Replay(path.name, known.name, cases, known.left_out(data))
    return None


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
