"""The experiments on Theorem 3, Corollary 1, AC/DC's phases and the phase diagram."""

import math
from typing import Any

import numpy as np
import pytest
import torch

from tests.theory.support import head, outcome_of, statement, trap_design
from theory import rates
from theory.experiments.phase_diagram import rho_of
from theory.iht import hard_threshold
from theory.noise import stream
from theory.outcome import Outcome
from theory.problems.quadratic import rotated_quadratics
from theory.problems.sine import sine_squares

T3 = {"trials": 2, "n": 20, "k_star": 4, "ks": [2, 6], "sizes": [1.0, 3.0], "iterations": 6}


def test_theorem_3_is_compared_with_its_bound_as_computed_by_hand() -> None:
    """One trial again, in numpy: gradients, B, epsilon, the drop of f, and the bound."""
    outcome = outcome_of("t3", **T3, support_steps=3)
    drawn = sine_squares(4, 1.2, 0.5, 20, 4, stream(0, "t3"))
    for row in (row for row in outcome.trials if row["sigma"] == 0.0):
        place = row["seed"]
        design = np.hstack([np.eye(4), drawn.tail[place].numpy()])
        target = drawn.minimiser[place, 0].numpy() * (1.0 if place < 2 else 3.0)
        beta = 4.4 * np.linalg.norm(design, 2) ** 2

        def loss(theta: np.ndarray, design: Any = design, target: Any = target) -> float:
            r = design @ (theta - target)
            return float(np.sum(r**2 + 1.2 * np.sin(r) ** 2))

        def gradient(theta: np.ndarray, design: Any = design, target: Any = target) -> np.ndarray:
            r = design @ (theta - target)
            return np.asarray(design.T @ (2 * r + 1.2 * np.sin(2 * r)))

        theta = np.zeros(20)
        first, squares, largest, epsilon = loss(theta), [], 0.0, 0.0
        for _ in range(6):
            squares.append(np.abs(gradient(theta)).max() ** 2)
            moved = theta - gradient(theta) / beta
            theta = head(moved, row["k"])
            support = theta != 0
            for _ in range(3):
                theta = theta - np.where(support, gradient(theta), 0) / beta
            largest = max(largest, np.abs(theta).max())
            epsilon = max(epsilon, float(np.linalg.norm(gradient(theta)[support])))
        assert row["mean_gradient2"] == pytest.approx(np.mean(squares))
        assert row["largest_entry"] == pytest.approx(largest)
        assert row["epsilon"] == pytest.approx(epsilon)
        drop = (first - loss(theta)) / 6
        bound = 2 * beta * drop + 2 * beta**2 * row["k"] * largest**2 + 2 * epsilon**2
        assert row["bound"] == pytest.approx(bound)
        assert row["least_gradient"] <= math.sqrt(row["mean_gradient2"])


def test_theorem_3_with_noise_has_other_constants() -> None:
    """8 beta (f_0 - f_T) / T + 16 beta^2 k B^2 + 8 epsilon^2 + 14 sigma^2, by hand."""
    found = rates.theorem3(2.0, 3, 0.5, 0.1, 6.0, 4, sigma=0.3)
    assert float(found) == pytest.approx(8 * 2 * 6 / 4 + 16 * 4 * 3 * 0.25 + 8 * 0.01 + 14 * 0.09)
    outcome = outcome_of("t3", **T3, support_steps=3, sigmas=[0.3])
    quiet, noisy = ([row for row in outcome.trials if row["sigma"] == s] for s in (0.0, 0.3))
    for row in noisy:
        floor = 16 * row["beta"] ** 2 * row["k"] * row["largest_entry"] ** 2 + 14 * 0.09
        assert row["bound"] > floor + 8 * row["epsilon"] ** 2
    # Half the step moves theta half as far at first.
    assert {row["seed"] for row in quiet} == {row["seed"] for row in noisy}


def test_theorem_3_s_slope_is_the_mean_of_those_of_single_problems() -> None:
    outcome = outcome_of("t3", **{**T3, "ks": [1, 2, 3]})
    rows = [row for row in outcome.trials if row["sigma"] == 0.0]
    slopes = []
    for seed in sorted({row["seed"] for row in rows}):
        mine = [row for row in rows if row["seed"] == seed]
        x = np.log([row["k"] for row in mine])
        y = np.log([row["least_gradient"] / row["largest_entry"] for row in mine])
        slopes.append(np.polyfit(x, y, 1)[0])
    assert statement(outcome, "kept").measured.value == pytest.approx(np.mean(slopes))


def test_theorem_3_holds_loosely() -> None:
    outcome = outcome_of("t3", **{**T3, "trials": 26})
    assert statement(outcome, "mean_gradient").violations == 0
    noisy = [each for each in outcome.statements if each.id.startswith("noise")]
    assert [each.verdict for each in noisy] == ["holds", "holds"]
    assert all(each.measured.value < 0.5 for each in noisy)


C1 = {"trials": 3, "n": 60, "k": 40, "phases": 4}


def test_one_pass_over_one_part_is_a_gradient_step() -> None:
    outcome = outcome_of("c1", **C1, parts=[1], passes=[1])
    errors = [row["mapping_error"] for row in outcome.trials]
    assert len(errors) == 3 * 2 * 2
    assert max(errors) < 1e-12


def test_more_parts_and_passes_move_the_gradients_that_are_seen() -> None:
    outcome = outcome_of("c1", **C1, parts=[2, 4], passes=[1, 4])
    errors = [row["mapping_error"] for row in outcome.trials]
    assert 0 < min(errors) < max(errors) <= 1


def test_corollary_1_s_measures_are_those_of_a_plain_loop() -> None:
    """One problem again in numpy: movement, gradient mapping, largest gradient, highest gap."""
    outcome = outcome_of(
        "c1", trials=2, n=20, k=12, phases=3, parts=[2], passes=[2], factors=[1.0], sparse_steps=2
    )
    drawn = sine_squares(2, 1.2, 0.1, 20, 4, stream(0, "c1"))
    design = np.hstack([np.eye(4), drawn.tail[1].numpy()])
    target = drawn.minimiser[1, 0].numpy()

    def gap(theta: np.ndarray) -> float:
        r = design @ (theta - target)
        return float(np.sum(r**2 + 1.2 * np.sin(r) ** 2))

    def gradient(theta: np.ndarray, rows: slice = slice(None), times: int = 1) -> np.ndarray:
        r = (design @ (theta - target))[rows]
        return np.asarray(times * design[rows].T @ (2 * r + 1.2 * np.sin(2 * r)))

    both = slice(0, None, 2), slice(1, None, 2)
    beta = max(4.4 * 2 * np.linalg.norm(design[rows], 2) ** 2 for rows in both)
    for sparse in (0, 2):
        theta, eta = np.zeros(20), 1 / (2 * beta)
        movement, error, largest = 0.0, 0.0, 0.0
        gaps = [gap(theta)]
        for _ in range(3):
            start = theta
            for rows in both * 2:
                step = gradient(theta, rows, 2)
                largest = max(largest, float(np.linalg.norm(step)))
                theta = theta - eta / 4 * step
            movement = max(movement, float(np.linalg.norm(theta - start)))
            mapping = (start - theta) / eta
            error = max(error, float(np.linalg.norm(mapping - gradient(start))))
            points = [theta]
            theta = head(theta, 12)
            points.append(theta)
            for _ in range(sparse):
                whole = 4.4 * np.linalg.norm(design, 2) ** 2
                theta = theta - np.where(theta != 0, gradient(theta), 0) / whole
            points.append(theta)
            gaps += [gap(point) for point in points]
            norms = [np.linalg.norm(gradient(point, rows, 2)) for point in points for rows in both]
            largest = max(largest, *map(float, norms))
        (row,) = (
            row for row in outcome.trials if row["seed"] == 1 and row["sparse_steps"] == sparse
        )
        assert row["lipschitz"] == pytest.approx(largest)
        assert row["movement"] == pytest.approx(movement / (eta * largest))
        assert row["mapping_error"] == pytest.approx(error / (beta * eta * largest))
        assert row["highest_gap"] == pytest.approx(max(gaps) / (2 * largest**2 / row["alpha"]))
        assert row["gap"] == pytest.approx(gaps[-1])


def test_corollary_1_promises_no_more_than_what_is_true_everywhere() -> None:
    found = statement(outcome_of("c1", **C1), "vacuous")
    assert found.measured.value == pytest.approx(2.0)
    assert found.verdict == "does not hold"


def test_the_parts_of_f_add_up_to_it() -> None:
    problem = sine_squares(3, 1.2, 0.5, 12, 6, stream(1, "parts"))
    theta = torch.randn(3, 5, 12, dtype=torch.float64, generator=stream(2, "theta"))
    for count in (1, 2, 3, 6):
        gradients, betas = problem.parts(count)
        mean = sum(gradient(theta) for gradient in gradients) / count
        assert torch.allclose(torch.as_tensor(mean), problem.gradient(theta))
        # The largest curvature of each part, at residual 0, by numpy.
        design = np.hstack([np.eye(6), problem.tail[1].numpy()])
        for first in range(count):
            norm = np.linalg.norm(design[first::count], 2)
            assert float(betas[1, 0, first]) == pytest.approx(4.4 * count * norm**2)
    with pytest.raises(ValueError, match="1 <= count <= 6"):
        problem.parts(7)


PHASES = {"trials": 8, "n": 40, "m": 24, "k_star": 2, "k": 4, "steps": 96, "phases": 3}


@pytest.fixture(scope="module")
def phases() -> Outcome:
    return outcome_of("phases", **PHASES, dense_steps=[1, 32], sparse_steps=[0, 8])


def test_single_dense_steps_without_sparse_phases_are_iht(phases: Outcome) -> None:
    problem = rotated_quadratics([32.0] * 8, 40, 2, stream(0, "phases"))
    theta = torch.zeros(8, 1, 40, dtype=torch.float64)
    for _ in range(96):
        theta = hard_threshold(theta - problem.gradient(theta) / problem.beta[..., None], 4)
    rows = [
        row
        for row in phases.trials
        if (row["family"], row["dense_steps"], row["sparse_steps"]) == ("F1", 1, 0)
    ]
    gaps = problem.gap(theta).flatten().tolist()
    assert [row["gap"] for row in rows] == pytest.approx(gaps, rel=1e-6, abs=1e-25)


def test_a_sparse_phase_mends_what_a_long_dense_phase_has_spread() -> None:
    """With fewer rows than columns, long dense phases fit the data without being sparse."""
    outcome = outcome_of(
        "phases", **{**PHASES, "steps": 320}, dense_steps=[16], sparse_steps=[0, 16]
    )
    solved = {
        sparse: sum(
            row["gap"] < 1e-6
            for row in outcome.trials
            if (row["family"], row["sparse_steps"]) == ("F1'", sparse)
        )
        for sparse in (0, 16)
    }
    assert solved[0] < solved[16]


def test_no_sparse_phase_raises_f(phases: Outcome) -> None:
    found = statement(phases, "end_of_phase")
    assert (found.violations, found.trials) == (0, 8 * 3)


def test_gradient_steps_are_counted_in_dense_and_sparse_phases(phases: Outcome) -> None:
    for row in phases.trials:
        if not math.isnan(row["iterations"]):
            assert row["iterations"] % (row["dense_steps"] + row["sparse_steps"]) == 0


@pytest.mark.parametrize("k", [1, 4, 50])
def test_rho_gives_the_condition_number_that_is_asked_for(k: int) -> None:
    kappas = torch.tensor([[3.0], [10.0], [50.0]]).double()
    w = torch.tensor([0.05, 0.4, 0.9]).double()
    rho = rho_of(kappas, w, k)
    assert rho[0].isnan().any() or k == 50
    for row, kappa in enumerate(kappas.flatten().tolist()):
        for column in range(3):
            if rho[row, column].isfinite():
                design = trap_design(float(rho[row, column]), float(w[column]), k)
                assert np.linalg.cond(design) ** 2 == pytest.approx(kappa, rel=1e-6)


def test_a_cell_of_the_diagram_is_the_share_of_its_problems() -> None:
    outcome = outcome_of(
        "phase_diagram", trials=6, kappas=[2, 16], n=12, k_ratios=[1, 4], trap_ks=[1, 4, 256]
    )
    cells = [row for row in outcome.series if row["role"] == "cell"]
    starts = {"typical": ("F1", "zero"), "trap_zero": ("F3", "zero"), "trap_bad": ("F3", "bad")}
    for cell in cells:
        family, start = starts[cell["panel"]]
        found = [
            row["success"]
            for row in outcome.trials
            if (row["family"], row["start"]) == (family, start)
            and f"{row['kappa']:g}" == cell["line"]
            and row["k"] == cell["x"] * row["k_star"]
        ]
        assert cell["y"] == pytest.approx(100 * sum(found) / len(found))
    # Traps of a large condition number hold at small k, and none does at 64 kappa^2.
    bad = {(cell["line"], cell["x"]): cell["y"] for cell in cells if cell["panel"] == "trap_bad"}
    assert bad["16", 1] < 100
    assert bad["2", 256] == 100
    asked = [row for row in outcome.trials if row["meets_condition"]]
    assert {(round(row["kappa"]), row["k"]) for row in asked} == {(2, 256)}
    # Each from both starts, which are one trial.
    assert 2 * statement(outcome, "enough").trials == len(asked) > 0
