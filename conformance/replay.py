"""Finds the files of known formats in a folder and replays each of them, case by case."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
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
    """One format of figures, known by the keys of its file."""

    name: str
    keys: frozenset[str]
    replay: Callable[[Any], Iterator[Case]]

    def is_of(self, data: Any) -> bool:
        """Return whether a file's content is of this format."""
        return isinstance(data, dict) and self.keys <= data.keys()


FORMATS = (
    Format("AC/DC masks and schedules", frozenset({"percentile", "masks"}), acdc.masks_schedules),
    Format("AC/DC training trace", frozenset({"setup", "trace"}), acdc.training_trace),
    Format("FLOPs", frozenset({"resnet50"}), flops.counts),
    Format("GMP schedules and masks", frozenset({"mask_update_steps"}), gmp.schedules_and_masks),
    Format("sparsity distributions", frozenset({"layers", "cases"}), rigl.distributions),
    Format("RigL drop fraction", frozenset({"values", "note"}), rigl.drop_fraction),
    Format("RigL update", frozenset({"generator", "cases"}), rigl.updates),
    Format("STR", frozenset({"soft_threshold"}), soft_threshold.cases),
    Format("Top-KAST", frozenset({"torch_topkast_quantile_rule"}), top_kast.sets),
    Format("WoodFisher", frozenset({"identity", "cases"}), woodfisher.blocks),
    # The least particular one last.
    Format("sparsity distributions of small nets", frozenset({"cases"}), rigl.small_distributions),
)


@dataclass(frozen=True)
class Replay:
    """The cases of one file."""

    file: str
    format: str
    cases: tuple[Case, ...]

    @property
    def agrees(self) -> bool:
        """Whether every case does, and there is one."""
        return bool(self.cases) and all(case.agrees for case in self.cases)


def replay_folder(folder: Path) -> Iterator[Replay]:
    """Yield the replay of every file of a known format in a folder, by name.

    Raises:
        ConformanceError: the folder holds none.
    """
    found = False
    for path in sorted(folder.glob("*.json")):
        this = replay_file(path)
        if this is not None:
            found = True
            yield this
    if not found:
        raise ConformanceError(f"{folder} holds no file of a known format")


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
            return Replay(path.name, known.name, tuple(_guarded(known.replay(data))))
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
