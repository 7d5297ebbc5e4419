"""Sparsity ramps and update grids are those of the code bases that they are named after."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from acdc.methods.ramps import (
    Ramp,
    accelerated_cubic_ramp,
    bounded_cubic_ramp,
    cubic_ramp,
    cubic_sparsity,
    early_cubic_ramp,
    even_updates,
    open_cubic_ramp,
    updates_at_multiples,
    updates_before_end,
    updates_since_begin,
    updates_since_last,
)
from tests.support import golden

GMP = golden("gmp_schedules_and_masks")
BY_STEP = GMP["cubic_by_step"]


@pytest.mark.parametrize(
    ("ramp", "initial", "expected"),
    [
        (cubic_ramp, 0.0, BY_STEP["contrib_model_pruning_f32"]),
        (cubic_ramp, 0.0, BY_STEP["rigl_notebook_f64"]),
        (cubic_ramp, 0.5, GMP["cubic_initial_nonzero"]["values"]),
        (early_cubic_ramp, 0.0, BY_STEP["jaxpruner_plus_one"]),
    ],
)
def test_ramps_in_steps_are_those_of_the_originals(
    ramp: Ramp, initial: float, expected: list[float]
) -> None:
    ours = [
        ramp(step, BY_STEP["begin"], BY_STEP["end"], initial, BY_STEP["target"])
        for step in BY_STEP["steps"]
    ]
    assert ours == pytest.approx(expected, rel=0, abs=1e-7)


def test_the_ramp_of_str_is_the_originals_and_stays_short_of_its_target() -> None:
    case = GMP["str_gmp_epochs"]
    begin, end = case["init_prune_epoch"], case["final_prune_epoch"] + 1
    for epoch, expected in case["by_epoch"].items():
        ours = open_cubic_ramp(int(epoch), begin, end, 0.0, case["prune_rate"])
        assert ours == pytest.approx(expected, rel=0, abs=1e-12), epoch
    assert open_cubic_ramp(10**6, begin, end, 0.0, 0.9) < 0.9


def test_the_ramps_of_woodfisher_are_the_originals() -> None:
    case = GMP["woodfisher_schedule"]
    for (start, frequency, end), target, by_epoch in (
        (case["epochs_cfg"], case["target"], case["by_epoch"]),
        (case["mobilenet_cfg"], 0.7528, case["mobilenet"]),
    ):
        assert [str(e) for e in updates_since_begin(start, end, frequency)] == list(by_epoch)
        for epoch, expected in by_epoch.items():
            ours = cubic_ramp(int(epoch), start, end, case["initial"], target)
            assert ours == pytest.approx(expected, rel=0, abs=1e-12), epoch


def test_the_ramp_of_granet_is_the_originals_and_ends_one_iteration_early() -> None:
    case = GMP["granet_schedule"]
    for iteration, expected in case["by_iter"].items():
        ours = bounded_cubic_ramp(
            int(iteration), case["ini"], case["fin"], 1 - case["di"], 1 - case["df"]
        )
        if expected is None:
            assert ours is None
        else:
            assert ours == pytest.approx(expected, rel=0, abs=1e-12), iteration
    assert bounded_cubic_ramp(4, 5, 30, 0.5, 0.9) is None


def test_the_accelerated_ramp_of_sparsimony_is_the_originals() -> None:
    case = GMP["sparsimony_accelerated_cubic"]
    for step, expected in case["values"].items():
        ours = accelerated_cubic_ramp(
            int(step), case["t_accel"], case["t_end"], case["acc"], case["final"]
        )
        assert ours == pytest.approx(expected, rel=0, abs=1e-12), step


@pytest.mark.parametrize("dialect", ["contrib", "tfmot"])
def test_update_steps_are_those_of_the_originals(dialect: str) -> None:
    grid = {"contrib": updates_since_last, "tfmot": updates_since_begin}[dialect]
    for key, expected in GMP["mask_update_steps"][dialect].items():
        begin, end, frequency = (int(part.split("=")[1]) for part in key.split(","))
        # An end below zero means none; the originals were run for 100 steps.
        assert list(grid(begin, end if end >= 0 else 100, frequency)) == expected, key


@given(st.integers(0, 60), st.integers(1, 60), st.integers(1, 20))
def test_update_grids_are_those_of_a_loop_over_the_steps(
    begin: int, length: int, frequency: int
) -> None:
    end = begin + length
    last, since_last = 0, []
    for step in range(end + 1):
        if begin <= step <= end and last + frequency <= step:
            last = step
            since_last.append(step)
    assert list(updates_since_last(begin, end, frequency)) == since_last
    steps = range(begin, end + 1)
    on_grid = [step for step in steps if (step - begin) % frequency == 0]
    assert list(updates_since_begin(begin, end, frequency)) == on_grid
    assert list(updates_before_end(begin, end, frequency)) == [s for s in on_grid if s < end]
    multiples = [step for step in steps if step % frequency == 0]
    assert list(updates_at_multiples(begin, end, frequency)) == multiples


@given(st.integers(0, 60), st.integers(1, 60), st.integers(1, 80))
def test_even_updates_run_from_the_first_to_the_last_position(
    begin: int, length: int, updates: int
) -> None:
    positions = even_updates(begin, begin + length, updates)
    assert positions[0] == begin
    assert positions[-1] == begin + length
    assert len(positions) == min(updates, length) + 1
    distances = [b - a for a, b in itertools.pairwise(positions)]
    assert max(distances) - min(distances) <= 2
    assert min(distances) >= 1


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 0.5), st.floats(0.5, 0.99))
def test_the_cubic_rises_from_its_start_to_exactly_its_target(
    one: float, other: float, initial: float, final: float
) -> None:
    early, late = sorted((one, other))
    assert cubic_sparsity(0, initial, final) == pytest.approx(initial, abs=1e-15)
    assert cubic_sparsity(1, initial, final) == final == cubic_sparsity(1.5, initial, final)
    before, after = (cubic_sparsity(p, initial, final) for p in (early, late))
    assert before <= after + 1e-15
