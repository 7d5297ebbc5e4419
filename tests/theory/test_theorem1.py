"""Theorem 1's experiments, against plain loops, brute force and the linear theory of the noise."""

import itertools

import numpy as np
import pytest
import torch

from acdc.errors import ConfigError
from tests.theory.support import Array, plain_iht, statement
from theory.experiments import t1_floor, t1_gap, t1_rate
from theory.noise import stream
from theory.outcome import Outcome
from theory.problems.base import sparse_vectors
from theory.problems.quadratic import rotated_quadratics
from theory.problems.sine import cpl_constant, sine_squares
from theory.statements import Statement


@pytest.fixture(scope="module")
def rate() -> Outcome:
    return t1_rate.run(
        t1_rate.Settings(trials=26, weights=(0.5, 1.2), k_parts=(0.05, 1.0), iterations=60)
    )


@pytest.fixture(scope="module")
def gap() -> Outcome:
    settings = t1_gap.Settings(repetitions=4, n=720, iterations=40, quadratic_n=20, k_star=2)
    return t1_gap.run(settings)


# The rate


def test_from_zero_no_step_exceeds_the_bound_and_from_elsewhere_some_do(rate: Outcome) -> None:
    assert statement(rate, "from_zero").verdict == "holds"
    assert statement(rate, "speed").verdict == "holds"
    assert statement(rate, "any_start").verdict == "does not hold"


@pytest.mark.parametrize(("name", "start"), [("from_zero", 0), ("any_start", 1)])
def test_violations_are_those_where_k_is_enough(rate: Outcome, name: str, start: int) -> None:
    rows = [r for r in rate.trials if r["random_start"] == start and r["k"] >= r["enough"]]
    assert statement(rate, name).trials == len(rows) == 52
    assert statement(rate, name).violations == sum(r["worst_ratio"] > r["bound"] for r in rows)


def test_bounds_are_those_of_the_constants(rate: Outcome) -> None:
    for row in rate.trials:
        assert row["bound"] == pytest.approx(1 - row["alpha"] / (8 * row["beta"]))
        assert row["enough"] == pytest.approx(160 * (row["beta"] / row["alpha"]) ** 2)
        assert row["k"] < row["n"]
        # The proof's premiss; c = 0.5 has a larger CPL constant than beta.
        assert row["alpha"] == min(cpl_constant(row["weight"]), row["beta"])


def test_gaps_and_ratios_are_those_of_a_plain_loop() -> None:
    settings = t1_rate.Settings(trials=2, weights=(0.5,), k_parts=(1.0,), iterations=25)
    generator = stream(0, "t1_rate", "0.5", "1.0")
    n = settings.dimension(0.5)
    problem = sine_squares(2, 0.5, 0.2, n, 1, generator)
    (k,) = {row["k"] for row in t1_rate.run(settings).trials}
    random = sparse_vectors(2, n, k, generator).numpy()
    expected = []
    for i in range(2):
        row = np.concatenate([[1.0], problem.tail[i, 0].numpy()])
        target = float(problem.minimiser[i, 0, 0])
        step = 1.0 / (3.0 * row @ row)

        def gradient(x: Array, row: Array = row, target: float = target) -> Array:
            residual = row @ x - target
            return np.asarray((2 * residual + 0.5 * np.sin(2 * residual)) * row)

        for start in (np.zeros(n), random[i]):
            residuals = [row @ x - target for x in plain_iht(gradient, start, k, step, 25)]
            gaps = [r**2 + 0.5 * np.sin(r) ** 2 for r in residuals]
            pairs = [(a, b) for a, b in itertools.pairwise(gaps) if a > 1e-8]
            expected.append((gaps[-1], max(b / a for a, b in pairs)))
    for row, (gap, worst) in zip(t1_rate.run(settings).trials, expected, strict=True):
        assert row["gap"] == pytest.approx(gap, rel=1e-6, abs=1e-12)
        assert row["worst_ratio"] == pytest.approx(worst, rel=1e-6)


def found_ratios(worst: list[list[float]]) -> dict[str, torch.Tensor]:
    shape = (len(worst), 2)
    return {
        "worst_ratio": torch.tensor(worst, dtype=torch.float64),
        "bound": torch.full((len(worst), 1), 0.9, dtype=torch.float64),
        "gap": torch.zeros(shape, dtype=torch.float64),
        "late": torch.zeros(shape, dtype=torch.bool),
        "diverged": torch.zeros(shape, dtype=torch.bool),
    }


def judged(worst: list[list[float]]) -> dict[str, Statement]:
    outcome = Outcome("t1_rate", t1_rate.Settings())
    t1_rate.judge(outcome, t1_rate.Settings(), found_ratios(worst))
    return {each.id: each for each in outcome.statements}


def test_the_slowest_step_decides_and_a_trial_without_a_step_counts_for_nothing() -> None:
    nan = float("nan")
    many = [[0.5, 0.5]] * 60
    found = judged([*many, [nan, 0.95], [0.8, nan]])
    assert (found["from_zero"].violations, found["from_zero"].trials) == (0, 61)
    assert (found["any_start"].violations, found["any_start"].trials) == (1, 61)
    assert found["speed"].measured.value == pytest.approx(0.2 / 0.1)
    worse = judged([*many, [0.91, 0.5]])
    assert {worse[id].verdict for id in ("from_zero", "speed")} == {"does not hold"}
    with pytest.raises(ConfigError, match="tolerance="):
        judged([[nan, 0.5], [nan, 0.5]])


# The floor


def test_small_noise_has_the_floor_of_the_linear_theory() -> None:
    # With epsilon = 0 a residual of small noise obeys r' = r - (f''(0) r + z) / (2 beta), where
    # f''(0) = beta = 2 + 2c: E f = (1 + c) E r^2 = sigma^2 / (12 (1 + c)), all residuals together.
    settings = t1_floor.Settings(
        trials=40, k_star=1, epsilon=0.0, weight=0.5, sigmas=(1e-4, 1e-3, 1e-2), iterations=160
    )
    outcome = t1_floor.run(settings)
    rows = [row for row in outcome.trials if row["noise"] == "support"]
    for sigma in settings.sigmas:
        floor = np.mean([row["gap"] for row in rows if row["sigma"] == sigma])
        assert floor == pytest.approx(sigma**2 / 18, rel=0.12)
    assert statement(outcome, "slope_support").verdict == "holds"
    assert statement(outcome, "floor_support").verdict == "holds"
    assert statement(outcome, "floor_support").measured.value == pytest.approx(
        rows[0]["alpha"] / (16 * 18), rel=0.15
    )


def test_k_is_what_the_theorem_asks_for_with_noise() -> None:
    settings = t1_floor.Settings(trials=3, weight=0.5, iterations=4)
    for row in t1_floor.run(settings).trials:
        assert row["enough"] == pytest.approx(576 * 2 * (row["beta"] / row["alpha"]) ** 2)
        assert row["enough"] <= row["k"] < row["n"]
        assert row["alpha"] == min(cpl_constant(0.5), row["beta"])
        assert row["bound"] == pytest.approx(16 * row["sigma"] ** 2 / row["alpha"])


# Bad starts


def test_k_is_what_the_theorem_asks_for_with_each_step(gap: Outcome) -> None:
    for step, constant in ((1.0, 160), (0.5, 576)):
        rows = [r for r in gap.trials if r["subject"] == "random start" and r["step"] == step]
        assert len(rows) == 120
        assert all(constant / 0.9**2 <= row["k"] < row["n"] for row in rows)


def test_a_start_that_is_stuck_too_near_or_free_too_far_is_told() -> None:
    r = torch.tensor([[0.9, 1.1] * 60, [0.4, 0.6] * 60], dtype=torch.float64)
    steps = torch.tensor([[1.0], [0.5]], dtype=torch.float64)
    gap = torch.where(r > steps, 0.5, 0.0).double()

    assert not t1_gap.contradicts(gap, r, steps).any()
    for i, j, value in ((0, 0, 0.5), (0, 1, 0.0), (1, 1, 0.3), (1, 0, 1e-6)):
        wrong = gap.clone()
        wrong[i, j] = value
        assert t1_gap.contradicts(wrong, r, steps).nonzero().tolist() == [[i, j]]


def test_wrong_starts_have_k_entries_r_and_nothing_at_the_first_coordinate() -> None:
    r = torch.tensor([[0.5], [2.0]], dtype=torch.float64).expand(2, 30)
    k = torch.arange(30).expand(2, 30)
    start = t1_gap.wrong_start(r, k, 40, stream(0, "wrong"))
    assert (start[..., 0] == 0).all()
    assert ((start != 0).sum(-1) == k).all()
    assert ((start.abs() == r.unsqueeze(-1)) | (start == 0)).all()
    assert (start[..., 1:] != 0).any(0).any(0).all()
    assert (start > 0).any()
    assert (start < 0).any()


def test_the_gap_left_is_that_of_a_plain_loop(gap: Outcome) -> None:
    def left(r: float) -> float:
        start = np.array([0, r, r, r, 0, 0])
        last = plain_iht(lambda x: np.eye(6)[0] * (x[0] - 1.0), start, 3, 1.0, 40)[-1]
        return 0.5 * float(last[0] - 1.0) ** 2

    line = r"no noise, $\eta=1/\beta$"
    drawn = {row["x"]: row["y"] for row in gap.series if row["line"] == line}
    assert drawn == {r: left(r) for r in drawn}
    # At a tie the lower index is kept: here the right one.
    assert drawn[1.0] == 0.0
    assert drawn[1.01] == 0.5


def test_the_counter_example_s_verdicts(gap: Outcome) -> None:
    assert statement(gap, "stuck").verdict == "holds"
    for name in ("floor_first", "floor_everywhere"):
        assert statement(gap, name).verdict == "does not hold"
        # f stays 1/2, and sigma is at least 0.01.
        assert statement(gap, name).measured.value == pytest.approx(0.5 * 0.9 / (16 * 1e-4))
    assert statement(gap, "vacuous").verdict == "holds"
    assert statement(gap, "cpl_sphere").verdict == "holds"


# The constant of CPL


def test_least_cpl_is_no_better_than_that_of_all_sign_vectors_and_near_it() -> None:
    problem = rotated_quadratics([1.0, 3.0, 30.0], 8, 2, stream(1, "cpl"))
    found = t1_gap.least_cpl(problem, 2, stream(2, "cpl")).squeeze(-1)
    for hessian, alpha in zip(problem.hessian.numpy(), found.tolist(), strict=True):
        inverse = np.linalg.inv(hessian)
        signs = np.array(list(itertools.product([-1.0, 1.0], repeat=8)))
        most = np.max(np.einsum("si,ij,sj->s", signs, inverse, signs))
        best = 4 * 2 / most
        assert best * (1 - 1e-9) <= alpha <= 1.1 * best


def test_on_the_sphere_no_point_has_less_than_the_least() -> None:
    n, k_star = 12, 3
    offset = torch.randn((5000, n), dtype=torch.float64, generator=stream(0, "sphere")).numpy()
    top = np.sort(offset**2, axis=1)[:, -k_star:].sum(1)
    assert (2 * top / (0.5 * (offset**2).sum(1)) >= 4 * k_star / n).all()
    sphere = rotated_quadratics([1.0], n, k_star, stream(0, "sphere"))
    assert float(t1_gap.least_cpl(sphere, k_star, stream(0, "x"))) == pytest.approx(1.0)


def test_the_k_asked_for_on_the_sphere(gap: Outcome) -> None:
    # 160 k* (N / 4 k*)^2 / N = 10 N / k*.
    least = statement(gap, "vacuous").measured
    assert least.value == least.low == least.high == pytest.approx(10 * 20 / 2)
    rows = [row for row in gap.trials if row["subject"] == "CPL"]
    assert statement(gap, "vacuous").trials == len(rows) == 35
    assert least.value == min(row["asked"] / row["n"] for row in rows)


def test_the_condition_number_of_record_is_the_one_that_was_asked_for() -> None:
    settings = t1_gap.Settings(trials=2, repetitions=2, iterations=40, kappas=(1.1, 7.3))
    rows = [row for row in t1_gap.run(settings).trials if row["subject"] == "CPL"]
    assert {row["kappa"] for row in rows} == {1.1, 7.3}
