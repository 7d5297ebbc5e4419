"""The largest traps, against the closed form, random search, eigenvalues and a plain loop."""

import math

import numpy as np
import pytest
import torch

from acdc.errors import ConfigError
from tests.theory.support import plain_iht, trap_design
from theory.experiments import fail
from theory.noise import stream
from theory.outcome import Outcome
from theory.problems.traps import Trap
from theory.rates import largest_trap


@pytest.mark.parametrize("k", [1, 2, 3, 10, 57, 1000, 40_000])
def test_the_least_condition_number_is_the_closed_form_s(k: int) -> None:
    kappa, w, rho = fail.least_kappa(k)
    assert kappa == pytest.approx(1 + 2 * math.sqrt(k), rel=1e-9)
    assert largest_trap(kappa) == pytest.approx(k, rel=1e-8)
    assert bool(Trap(rho, w, k).is_stuck)


@pytest.mark.parametrize("k", [1, 2, 5, 30])
def test_no_random_trap_has_a_lower_condition_number(k: int) -> None:
    draws = torch.rand((2, 100_000), dtype=torch.float64, generator=stream(k, "search"))
    trap = Trap(100.0 ** (2 * draws[0] - 1), k * draws[1].clamp(1e-6, 1 - 1e-6), k)
    stuck = trap.kappa[trap.is_stuck]
    assert len(stuck) > 100
    assert float(stuck.min()) >= 1 + 2 * math.sqrt(k)


@pytest.mark.parametrize(
    ("kappa", "k"), [(1.0, 0), (2.9, 0), (3.1, 1), (4.0, 2), (9.0, 15), (9.01, 16), (16.0, 56)]
)
def test_the_largest_stuck_k(kappa: float, k: int) -> None:
    assert fail.largest_stuck(kappa) == k


def test_the_largest_trap_holds_a_plain_loop_at_its_condition_number() -> None:
    k = 15
    kappa, w, rho = fail.least_kappa(k)
    design = trap_design(rho, w, k)
    values = np.linalg.eigvalsh(design.T @ design)
    assert values[-1] / values[0] == pytest.approx(kappa, rel=1e-9)
    start = np.zeros(k + 1)
    start[1:] = np.linalg.lstsq(design[:, 1:], np.eye(k + 1)[0], rcond=None)[0]
    path = plain_iht(
        lambda x: design.T @ (design @ x - np.eye(k + 1)[0]), start, k, 1 / values[-1], 500
    )
    np.testing.assert_allclose(path[-1], start, rtol=1e-9)


@pytest.mark.parametrize("power", [1.0, 2.0, 2.7])
def test_the_interval_of_an_exponent_holds_a_rounded_power_law(power: float) -> None:
    x = [3.0, 7.0, 15.0, 31.0]
    found = fail.exponent(x, [math.floor(each**power) for each in x])
    assert found.low <= power <= found.high
    assert found.low <= found.value <= found.high
    counts = np.array([math.floor(each**power) for each in x])
    assert found.value == pytest.approx(np.polyfit(np.log(x), np.log(counts), 1)[0])
    # No other number between the counts and the next ones has a slope outside.
    for each in np.random.default_rng(0).random((200, 4)):
        slope = np.polyfit(np.log(x), np.log(counts + each), 1)[0]
        assert found.low - 1e-12 <= slope <= found.high + 1e-12


def test_random_traps_are_as_many_as_asked_for_and_stuck_within_the_condition_number() -> None:
    settings = fail.Settings(kappa_most=20.0, sizes=(4, 20), trials=30)
    for copies in settings.copies:
        trap = fail.random_traps(settings, 20, copies)
        assert trap.kappa.shape == (30,)
        assert bool(trap.is_stuck.all())
        assert float(trap.kappa.max()) <= 20.0
        assert trap.copies == copies


def test_iht_stays_with_k_and_leaves_with_one_more() -> None:
    settings = fail.Settings(
        trials=60,
        kappas=(4.0, 8.0, 16.0),
        sizes=(5,),
        copies=(1, 2),
        kappa_most=15.0,
        iterations=400,
    )
    outcome = fail.run(settings)
    verdicts = {each.id: each.verdict for each in outcome.statements}
    assert verdicts["stuck"] == verdicts["released"] == "holds"
    assert verdicts["exponent_all"] == verdicts["constant"] == "holds"
    largest = [row for row in outcome.trials if row["subject"] == "largest"]
    assert [row["k"] for row in largest] == [2, 12, 56]
    for row in outcome.trials:
        if row["subject"] == "iht":
            stuck = row["k"] == 5 * row["copies"]
            assert (row["gap"] == pytest.approx(row["start_gap"], rel=1e-9)) == stuck
            assert stuck or row["gap"] < 1e-8 * row["start_gap"]


def test_another_k_than_the_closed_form_s_is_told() -> None:
    def verdicts(found: list[int]) -> dict[str, str]:
        outcome = Outcome("fail", fail.Settings())
        fail.judge_growth(outcome, (4.0, 8.0, 16.0), found)
        return {each.id: each.verdict for each in outcome.statements}

    assert verdicts([2, 12, 56])["closed_form"] == "holds"
    for found in ([2, 12, 57], [1, 12, 56], [2, 11, 56]):
        assert verdicts(found)["closed_form"] == "does not hold"
    assert verdicts([2, 12, 70])["constant"] == "does not hold"
    assert verdicts([2, 6, 12])["exponent_all"] == "does not hold"


def test_a_trap_that_is_left_or_is_not_is_told() -> None:
    def found(part: torch.Tensor) -> dict[str, tuple[str, int | None]]:
        outcome = Outcome("fail", fail.Settings())
        fail.judge_confinement(outcome, fail.Settings(), part, torch.zeros(2, 200))
        return {each.id: (each.verdict, each.violations) for each in outcome.statements}

    part = torch.tensor([[1.0] * 200, [0.0] * 200], dtype=torch.float64)
    assert found(part) == {"stuck": ("holds", 0), "released": ("holds", 0)}
    part[0, 3] = 0.9
    assert found(part) == {"stuck": ("does not hold", 1), "released": ("holds", 0)}
    part[1, :2] = 1.0
    assert found(part) == {"stuck": ("does not hold", 1), "released": ("does not hold", 2)}


def test_the_gap_at_the_bad_point_is_its_closed_form() -> None:
    for copies in (1, 3):
        trap = Trap(torch.tensor([0.7, 2.0]), torch.tensor([0.4, 3.0]), 5, copies)
        assert trap.bad_gap.tolist() == pytest.approx(trap.gap(trap.bad_point).tolist())


def test_a_large_condition_number_needs_no_memory() -> None:
    outcome = Outcome("fail", fail.Settings())
    fail._search(outcome, fail.Settings(kappas=(4.0, 8.0, 1e5)))
    largest = outcome.trials[-1]
    assert largest["k"] == pytest.approx(0.25e10, rel=1e-4)
    assert 0.0 < largest["gap"] < 0.5


def test_more_random_traps_than_there_are_to_find_are_refused() -> None:
    # Of 20 wrong coordinates there are 200,000 draws, few of which are within 1.05 of the least.
    settings = fail.Settings(trials=10_000).model_copy(update={"kappa_most": 10.4})
    with pytest.raises(ConfigError, match="trials=10000: "):
        fail.random_traps(settings, 20, 1)
