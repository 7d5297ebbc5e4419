"""The experiments on Theorem 2 against plain loops and closed forms."""

import itertools
import math

import numpy as np
import pytest
import torch

from tests.theory.support import outcome_of, plain_iht, statement
from theory import statistics
from theory.measures import first_at_most, tail_mean, worst_ratio
from theory.noise import stream
from theory.outcome import Outcome
from theory.problems.quadratic import rotated_quadratics

RATE = {"trials": 2, "n": 24, "k_star": 2, "kappas": [2, 8], "k_ratios": [1, 3, 12]}
WIDE = {"wide_n": 600, "wide_trials": 2, "iterations": 200}


@pytest.fixture(scope="module")
def rate() -> Outcome:
    return outcome_of("t2_rate", **RATE, **WIDE)


def test_rows_are_those_of_a_plain_loop_over_single_trials(rate: Outcome) -> None:
    """The same problems, one after the other in numpy."""
    problem = rotated_quadratics([2, 2, 8, 8], 24, 2, stream(0, "t2_rate"))
    rows = [row for row in rate.trials if row["n"] == 24]
    assert len(rows) == 4 * 3
    for row in rows:
        hessian = problem.hessian[row["seed"]].numpy()
        target = problem.minimiser[row["seed"], 0].numpy()
        path = plain_iht(
            lambda x, hessian=hessian, target=target: hessian @ (x - target),
            *(np.zeros(24), row["k"], 1 / np.linalg.eigvalsh(hessian)[-1], 200),
        )
        gaps = [0.5 * (x - target) @ hessian @ (x - target) for x in path]
        distances = [(x - target) @ (x - target) for x in path]
        reached = next(t for t, gap in enumerate(gaps) if gap <= 1e-8)
        assert row["iterations"] == reached
        ratios = [
            after / before
            for before, after in itertools.pairwise(distances)
            if before > 1e-20 * distances[0]
        ]
        assert row["worst_ratio"] == pytest.approx(max(ratios), rel=1e-6)
        assert row["bound"] == pytest.approx(
            (1 + math.sqrt(2 / row["k"])) ** 2 * (1 - 1 / row["kappa"])
        )
        assert row["status"] == "finished"


def test_statements_hold_without_a_violation(rate: Outcome) -> None:
    found = statement(rate, "one_step")
    # A problem is one trial, whatever the number of k: two at each kappa, and two wide ones.
    assert (found.violations, found.trials) == (0, 4 + 2)
    assert found.verdict == "undecided"
    assert statement(rate, "iterations_enough").verdict == "holds"


def test_the_bound_is_drawn_only_where_it_is_not_vacuous(rate: Outcome) -> None:
    bounded = {row["line"] for row in rate.series if row["role"] == "bound"}
    # (1 + sqrt(1/r))^2 / 2 < 1 from r = 6 on.
    assert bounded == {r"$k/k^\ast=12$", r"$k/k^\ast=256$"}


def test_a_step_that_diverges_is_reported_and_nothing_holds() -> None:
    outcome = outcome_of("t2_rate", **RATE, **{**WIDE, "iterations": 700}, step_factor=10.0)
    # Where T_k throws away what grows, a trial need not diverge.
    lost = [row for row in outcome.trials if row["status"] == "diverged"]
    assert len(lost) > len(outcome.trials) / 2
    assert all(math.isinf(row["gap"]) for row in lost)
    found = statement(outcome, "one_step")
    assert found.violations > 0
    assert found.diverged == len(lost)
    assert found.verdict == "does not hold"


FLOOR = {"n": 64, "k_star": 2, "k_ratio": 4, "wide_n": 520, "batches": [64, 256]}


@pytest.fixture(scope="module")
def floor() -> Outcome:
    return outcome_of("t2_floor", **FLOOR, kappas=[4, 16], trials=20, iterations=300)


@pytest.mark.parametrize("kappa", [4, 16])
def test_the_floor_on_the_support_is_an_autoregressions(floor: Outcome, kappa: int) -> None:
    """x' = (1 - alpha) x - z with Var z = sigma^2/k*: E D = sigma^2 / (alpha (2 - alpha))."""
    found = [
        row["distance2"] / row["sigma"] ** 2
        for row in floor.trials
        if row["noise"] == "on" and row["n"] == 64 and round(1 / row["alpha"]) == kappa
    ]
    interval = statistics.mean(found)
    alpha = 1 / kappa
    assert interval.low <= 1 / (alpha * (2 - alpha)) <= interval.high
    assert interval.half_width < 0.2 * interval.value


def test_noise_off_the_support_of_k_star_entries_never_gets_in() -> None:
    """With k = k* the large entries of theta* keep every small one out."""
    outcome = outcome_of("t2_floor", **{**FLOOR, "k_ratio": 1}, trials=2, iterations=50)
    off = [row for row in outcome.trials if row["noise"] == "off" and row["k"] == 2]
    assert off
    assert {row["distance2"] for row in off} == {0.0}


def test_the_floor_of_batches_is_bounded_by_their_variance(floor: Outcome) -> None:
    batches = [row for row in floor.trials if row["batch_size"] is not None]
    assert {row["batch_size"] for row in batches} == {64, 256}
    for row in batches:
        assert 0 < row["distance2"] < row["bound"]
        assert row["bound"] == pytest.approx(2 * row["sigma"] ** 2 / (row["alpha"] * row["beta"]))


def test_measures_of_hand_written_traces() -> None:
    values = torch.tensor([[8.0, 1.0], [4.0, 0.5], [1.0, 0.5], [2.0, 1e-30]]).double()
    assert first_at_most(values, 1.0).tolist() == [2.0, 0.0]
    assert math.isnan(first_at_most(values, 0.5)[0])
    assert worst_ratio(values).tolist() == [2.0, 1.0]
    assert worst_ratio(values, floor=0.3).tolist() == [0.5, 1.0]
    assert tail_mean(values).tolist() == [1.5, 0.25]
    assert math.isnan(worst_ratio(torch.zeros(3, 1).double())[0])


def test_where_k_is_as_large_as_asked_it_is_so_for_any_condition_number() -> None:
    outcome = outcome_of("t2_rate", **{**RATE, "kappas": [1.7, 2]}, **WIDE)
    wide = [row for row in outcome.trials if row["n"] == 600]
    assert {row["k"] for row in wide} == {2 * math.ceil(64 * 1.7**2)}
    assert all(row["meets_condition"] for row in wide)
    for row in wide:
        assert row["iterations"] < row["predicted_iterations"]


def test_the_growth_of_floors_is_measured_on_restricted_problems_too(floor: Outcome) -> None:
    rows = [row for row in floor.trials if row["noise"] == "restricted"]
    assert {(row["n"], row["k_star"], row["k"]) for row in rows} == {(128, 3, 6)}
    assert all(0 < row["alpha"] < 1 < row["beta"] for row in rows)
    # The columns on the support are scaled so that the curvature there falls with 1/kappa.
    half = len(rows) // 2
    mild, steep = rows[:half], rows[half:]
    assert max(row["alpha"] for row in steep) < min(row["alpha"] for row in mild)
