"""The comparison with sparse recovery: its problems, its algorithms, what it counts."""

import itertools
from typing import Any

import numpy as np
import pytest
import torch

from theory import experiment
from theory.experiments import recovery
from theory.outcome import Outcome

SMALL: dict[str, Any] = {
    "trials": 4, "n": 30, "m": 20, "k_stars": [1, 2, 7], "iterations": 120, "penalties": 10,
    "designs": 2}  # fmt: skip


def settings(**changes: Any) -> recovery.Settings:
    found = experiment.parse("recovery", SMALL | changes)
    return found


@pytest.fixture(scope="module")
def outcome() -> Outcome:
    return recovery.run(settings())


def test_gradients_are_those_of_the_loss_and_parts_average_to_the_whole() -> None:
    observed = recovery.observe(settings(), 2)
    theta = torch.randn((4, 2, 30), dtype=torch.float64).requires_grad_()
    (slope,) = torch.autograd.grad(observed.loss(theta).sum(), theta)
    theta = theta.detach()
    assert torch.allclose(observed.gradient()(theta), slope)
    parts = [observed.gradient(slice(i, i + 5))(theta) for i in range(0, 20, 5)]
    assert torch.allclose(torch.stack(parts).mean(0), slope)


def test_only_the_second_level_has_noise() -> None:
    observed = recovery.observe(settings(noise=0.5, trials=200), 2)
    assert not observed.noise[:, 0].any()
    assert float(observed.noise[:, 1].std()) == pytest.approx(0.5, rel=0.1)
    assert float(observed.loss(observed.problem.minimiser)[:, 0].max()) < 1e-28


def test_omp_and_lasso_find_what_brute_force_finds() -> None:
    chosen = settings(trials=3, k_stars=[2], n=16, m=10, penalties=2, folds=2)
    observed = recovery.observe(chosen, 2)
    omp = recovery.classical(chosen, observed, 2)["OMP"].theta
    for place in range(3):
        design, target = observed.problem.design[place].numpy(), observed.targets[place, 1].numpy()
        residuals = {
            pair: np.linalg.lstsq(design[:, pair], target)[1].sum()
            for pair in itertools.combinations(range(16), 2)
        }
        best = min(residuals, key=lambda pair: residuals[pair])
        assert tuple(omp[place, 1].nonzero().flatten().tolist()) == best
        fitted = np.linalg.lstsq(design[:, best], target)[0]
        assert omp[place, 1][list(best)].numpy() == pytest.approx(fitted)


def test_ks_that_are_run_together_give_what_each_gives_alone() -> None:
    chosen = settings()
    observed = recovery.observe(chosen, 2)
    start = torch.zeros((4, 2, 30), dtype=torch.float64)
    step = 1.0 / observed.problem.beta
    for ratio, label in recovery._IHT.items():
        together = recovery.iterative(chosen, observed, 2, recovery._IHT)[label]
        alone = recovery.iht(
            observed.gradient(), start, 2 * ratio, step, 120, lambda theta: {"loss": theta[..., 0]}
        )
        assert together.k == 2 * ratio
        assert torch.allclose(together.theta, alone.last, atol=1e-12)


def test_rows_and_rates_agree(outcome: Outcome) -> None:
    algorithms = 3 + 2 + 2
    assert len(outcome.trials) == 3 * algorithms * 4 * 2
    for panel, noisy in (("success", False), ("success_noise", True)):
        for row in outcome.series:
            if row["panel"] != panel:
                continue
            name, _, k = row["line"].partition(", $k=")
            kept = None if not k else int((k.split("k")[0]) or 1) * row["x"]
            mine = [
                trial["success"]
                for trial in outcome.trials
                if trial["algorithm"] == name
                and trial["k_star"] == row["x"]
                and (trial["target_noise"] > 0) == noisy
                and (kept is None or trial["k"] == kept)
            ]
            assert len(mine) == 4
            assert row["y"] == sum(mine) / 4
            assert row["low"] <= row["y"] <= row["high"]


def test_a_single_entry_is_found_by_all_without_noise(outcome: Outcome) -> None:
    for row in outcome.trials:
        if row["k_star"] == 1 and row["target_noise"] == 0.0:
            assert row["success"] == 1
            if row["algorithm"] == "OMP":
                assert row["error"] < 1e-12
                assert abs(row["gap"]) < 1e-24


def test_condition_numbers_are_reported_where_columns_are_fewer_than_rows(outcome: Outcome) -> None:
    found = [row for row in outcome.series if row["panel"] == "condition"]
    assert [(row["line"], row["x"]) for row in found] == [
        (r"$3k^\ast$ columns", 1),
        (r"$3k^\ast$ columns", 2),
        (r"$5k^\ast$ columns", 1),
        (r"$5k^\ast$ columns", 2),
    ]
    assert all(1.0 <= row["low"] <= row["y"] <= row["high"] for row in found)


def test_iht_descends(outcome: Outcome) -> None:
    (statement,) = outcome.statements
    assert statement.violations == 0
    # Of one design all k and both levels of noise are one trial.
    assert statement.trials == 3 * 4
    # A step twice too long for the steepest direction does raise f: the count can fail.
    chosen = settings()
    observed = recovery.observe(chosen, 2)
    observed.problem.beta.div_(4.0)
    assert any(
        each.rises.any() for each in recovery.iterative(chosen, observed, 2, recovery._IHT).values()
    )
