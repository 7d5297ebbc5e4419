"""Phases, drop fractions and learning rates are those of the published configurations."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from acdc.errors import ConfigError
from acdc.methods.phases import (
    PUBLISHED_SCHEDULES,
    AlternatingSchedule,
    Phase,
    PhaseKind,
    check_phases,
    cosine_drop_fraction,
    rescale,
)
from acdc.step import Step


def starts(phases: tuple[Phase, ...], kind: PhaseKind) -> list[int]:
    return [phase.start for phase in phases if phase.kind == kind]


@pytest.mark.parametrize(
    ("name", "sparse", "dense"),
    [
        # Replayed from the released configurations ..._ep150.yaml and ..._ep200_unif.yaml.
        ("imagenet-150", [*range(10, 121, 10), 135], [0, *range(15, 116, 10), 125]),
        ("imagenet-200", [*range(10, 171, 10), 185], [0, *range(15, 166, 10), 175]),
    ],
)
def test_longer_imagenet_schedules(name: str, sparse: list[int], dense: list[int]) -> None:
    phases = PUBLISHED_SCHEDULES[name].phases()
    assert starts(phases, "sparse") == sparse
    assert starts(phases, "dense") == dense


@pytest.mark.parametrize(
    ("name", "dense", "sparse"),
    [
        ("imagenet-100", 50, 50), ("imagenet-150", 75, 75), ("imagenet-200", 100, 100),
        ("cifar-20", 90, 110), ("cifar-14", 75, 150)
    ],
)  # fmt: skip
def test_dense_and_sparse_epochs(name: str, dense: int, sparse: int) -> None:
    counts = {"dense": 0, "sparse": 0}
    for phase in PUBLISHED_SCHEDULES[name].phases():
        counts[phase.kind] += phase.end - phase.start
    assert counts == {"dense": dense, "sparse": sparse}


@pytest.mark.parametrize("name", PUBLISHED_SCHEDULES)
def test_published_schedules_cover_every_epoch(name: str) -> None:
    schedule = PUBLISHED_SCHEDULES[name]
    phases = schedule.phases()
    check_phases(phases, schedule.epochs)
    for epoch in range(schedule.epochs):
        assert sum(phase.start <= epoch < phase.end for phase in phases) == 1
    kinds = [phase.kind for phase in phases]
    assert kinds == ["dense", "sparse"] * (len(kinds) // 2)
    assert phases[0].end == schedule.warmup
    assert phases[-2].end - phases[-2].start == schedule.last_dense
    assert phases[-1].end - phases[-1].start == schedule.last_sparse


def test_cycles_must_be_whole() -> None:
    with pytest.raises(ValueError, match="whole number of cycles"):
        AlternatingSchedule(101, 10, 5, 5, 10, 15).phases()
    with pytest.raises(ValueError, match="cycles"):
        AlternatingSchedule(30, 10, 5, 5, 10, 15).phases()


def test_drop_fraction_without_updates() -> None:
    assert cosine_drop_fraction(0, 0.3, 0) == 0.0


def rescaled(phases: tuple[Phase, ...], epochs: int) -> tuple[Phase, ...] | str:
    """Return the rescaled phases, or the text of the refusal."""
    try:
        return rescale(phases, epochs)
    except ConfigError as error:
        return str(error)


@given(st.sampled_from(sorted(PUBLISHED_SCHEDULES)), st.integers(1, 400))
def test_rescaled_phases(name: str, epochs: int) -> None:
    phases = PUBLISHED_SCHEDULES[name].phases()
    total = phases[-1].end
    shortest = min(phase.end - phase.start for phase in phases)
    scaled = rescaled(phases, epochs)
    if isinstance(scaled, str):
        assert scaled.startswith(f"epochs={epochs}: ")
        assert epochs * shortest < total
        # The least number that the message allows is accepted.
        least = int(scaled.rpartition("Allowed: ")[2].split()[0])
        assert least > epochs
        assert rescale(phases, least)[-1].end == least
        return
    check_phases(scaled, epochs)
    assert [phase.kind for phase in scaled] == [phase.kind for phase in phases]
    for before, after in zip(phases, scaled, strict=True):
        assert abs(after.start - before.start * epochs / total) <= 0.5


def test_rescaling_to_the_published_length_changes_nothing() -> None:
    for schedule in PUBLISHED_SCHEDULES.values():
        assert rescale(schedule.phases(), schedule.epochs) == schedule.phases()


@pytest.mark.parametrize(
    ("phases", "key"),
    [
        ([], "phases"),
        ([("dense", 0, 2), ("sparse", 2, 2)], "phases[1]"),
        ([("dense", 0, 2), ("sparse", 3, 6)], "phases[1]"),
        ([("dense", 0, 4), ("sparse", 3, 6)], "phases[1]"),
        ([("dense", 1, 4), ("sparse", 4, 6)], "phases[0]"),
        ([("dense", 0, 2), ("sparse", 2, 5)], "phases[1]"),
        ([("dense", 0, 2), ("sparse", 2, 7)], "phases[1]"),
        ([("sparse", 0, 2), ("dense", 2, 6)], "phases[1]"),
    ],
)
def test_bad_phases(phases: list[tuple[PhaseKind, int, int]], key: str) -> None:
    with pytest.raises(ConfigError, match=rf"settings\.{re.escape(key)}"):
        check_phases([Phase(*phase) for phase in phases], 6)


@given(st.integers(0, 500), st.integers(1, 300))
def test_steps_count_batches(epochs: int, batches: int) -> None:
    first, last = Step(epochs, 0, batches), Step(epochs, batches - 1, batches)
    assert first.iteration == epochs * batches
    assert last.iteration + 1 == Step(epochs + 1, 0, batches).iteration
    assert first <= last < Step(epochs + 1, 0, batches)
