"""Replays a file of figures, case by case, in the way that its ``format`` names."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conformance.formats import (
    acdc,
    flops,
    gmp,
    rigl,
    soft_threshold,
    top_kast,
    traces,
    woodfisher,
)
from conformance.vectors import Case

FORMATS: dict[str, Callable[[Any], Iterator[Case]]] = {
    "acdc_masks_schedules": acdc.masks_schedules,
    "acdc_training_trace": traces.acdc,
    "gmp": gmp.schedules_and_masks,
    "rigl_update": rigl.updates,
    "rigl_drop_fraction": rigl.drop_fraction,
    "rigl_training_trace": traces.rigl,
    "distributions": rigl.distributions,
    "small_distributions": rigl.small_distributions,
    "str": soft_threshold.cases,
    "top_kast": top_kast.sets,
    "woodfisher": woodfisher.blocks,
    "flops": flops.counts,
}


class Figures(dict[str, Any]):
    """An object of a file; knows which of its keys were asked for."""

    def __init__(self, data: dict[str, Any]) -> None:
        super().__init__(data)
        self.used: set[str] = set()

    def __getitem__(self, key: str) -> Any:
        self.used.add(key)
        return super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:
        self.used.add(key)
        return super().get(key, default)

    def values(self) -> list[Any]:  # type: ignore[override]
        return [self[key] for key in self]

    def items(self) -> list[tuple[str, Any]]:  # type: ignore[override]
        return [(key, self[key]) for key in self]


def unused(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Yield the keys and positions that lead to numbers which were not asked for."""
    if isinstance(value, list):
        for number, item in enumerate(value):
            yield from unused(item, (*path, number))
    elif isinstance(value, Figures):
        for key, item in dict.items(value):
            if key in value.used:
                yield from unused(item, (*path, key))
            elif holds_numbers(item):
                yield (*path, key)


def holds_numbers(value: Any) -> bool:
    """Return whether there is a number or a boolean in a value."""
    items = dict.values(value) if isinstance(value, dict) else value
    nested = isinstance(value, dict | list)
    return any(map(holds_numbers, items)) if nested else isinstance(value, bool | int | float)


@dataclass(frozen=True)
class Replay:
    """The cases of one file."""

    file: str
    format: str | None
    """None if it is unknown."""
    cases: tuple[Case, ...] = ()
    left_out: tuple[tuple[str | int, ...], ...] = ()
    """The keys and positions that lead to numbers which were not used."""
    problem: str = ""
    """Why the file cannot be replayed, or only its first cases; empty if it can."""

    @property
    def agrees(self) -> bool:
        """Whether every case does, there is one, and the file is whole."""
        return bool(self.cases) and not self.problem and all(case.agrees for case in self.cases)


def replay_file(path: Path) -> Replay:
    """Return the replay of one file; raises nothing."""
    format_ = None
    cases: list[Case] = []
    try:
        data = json.loads(path.read_bytes(), object_hook=Figures)
        named = data["format"] if isinstance(data, Figures) and "format" in data else None
        if not isinstance(named, str) or named not in FORMATS:
            return Replay(path.name, None)
        format_ = named
        for case in FORMATS[named](data):
            cases.append(case)
        problem = "" if cases else f"{path}: holds no case of the format {named}"
        return Replay(path.name, named, tuple(cases), tuple(unused(data)), problem)
    except Exception as error:  # a damaged file can raise anything
        after = f" after case {cases[-1].name!r}" if cases else ""
        words = " ".join(str(error).split())[:200]
        problem = f"{path}: damaged{after} ({type(error).__name__}: {words})"
        return Replay(path.name, format_, tuple(cases), problem=problem)


def summary(replays: Sequence[Replay]) -> str:
    """Return the outcome in one sentence."""
    cases = [case for replay in replays for case in replay.cases]
    agreeing = sum(case.agrees for case in cases)
    return f"{agreeing} of {len(cases)} cases in {len(replays)} files agree with the originals"
