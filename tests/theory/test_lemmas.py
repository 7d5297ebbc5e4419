"""The lemmas' experiment, against brute force and a pseudo-inverse."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from acdc.errors import ConfigError
from acdc.theory import experiment
from acdc.theory.experiment import Outcome
from acdc.theory.experiments import lemmas
from acdc.theory.iht import hard_threshold
from acdc.theory.noise import stream
from acdc.theory.problems import sine_squares

SMALL = lemmas.Settings(trials=110, lengths=(2, 9, 40), n=20, k=5, k_star=2, squares=(1, 5))


@pytest.fixture(scope="module")
def outcome() -> Outcome:
    return lemmas.run(SMALL)


@pytest.mark.parametrize(
    ("name", "verdict"),
    [
        ("lemma1", "holds"),
        ("lemma1_tight", "holds"),
        ("lemma1_below", "holds"),
        ("lemma2", "holds"),
        ("lemma3", "holds"),
        ("corollary2", "holds"),
        ("lemma4", "holds"),
        ("lemma5_upper", "holds"),
        ("lemma5_lower", "holds"),
        ("lemma5_chosen", "does not hold"),
        ("lemma6_scalar", "holds"),
        ("lemma6", "holds"),
    ],
)
def test_verdicts(outcome: Outcome, name: str, verdict: str) -> None:
    (found,) = (each for each in outcome.statements if each.id == name)
    assert found.verdict == verdict


def test_violations_are_those_of_the_rows(outcome: Outcome) -> None:
    ids = {"1": "lemma1", "2": "lemma2", "3": "lemma3", "corollary 2": "corollary2", "4": "lemma4"}
    for lemma, name in ids.items():
        rows = [row for row in outcome.trials if row["lemma"] == lemma]
        (found,) = (each for each in outcome.statements if each.id == name)
        assert found.trials == len(rows)
        assert found.violations == sum(row["violated"] for row in rows)


def test_lemma_1_draws_every_admissible_k(outcome: Outcome) -> None:
    drawn = {(r["k_star"], r["k"]) for r in outcome.trials if r["lemma"] == "1" and r["n"] == 9}
    assert drawn <= {(a, b) for a in range(1, 9) for b in range(a, 9)}
    assert {a for a, _ in drawn} == set(range(1, 9))
    below = [row for row in outcome.trials if row["lemma"] == "1, k < k*"]
    assert all(0 <= row["k"] < row["k_star"] for row in below)


@pytest.mark.parametrize("ensemble", lemmas.ENSEMBLES)
def test_the_best_sparse_vector_of_lemma_1_is_the_best_of_all_supports(ensemble: str) -> None:
    for x in lemmas.vectors(ensemble, (20, 6), stream(3, ensemble)):
        best = float((hard_threshold(x, 2) - x).square().sum())
        every = [
            sum(float(x[i]) ** 2 for i in range(6) if i not in kept)
            for kept in itertools.combinations(range(6), 2)
        ]
        assert best == pytest.approx(min(every), rel=1e-12, abs=1e-300)


def test_an_excess_beyond_rounding_is_a_violation() -> None:
    right = torch.tensor([1.0, 1.0, 0.0, 1e-200], dtype=torch.float64)
    left = right + torch.tensor([1e-9, 1e-14, 0.0, 1e-208], dtype=torch.float64)
    assert lemmas.exceeds(left, right).tolist() == [True, False, False, True]
    assert lemmas.exceeds(-right[:1] + 1e-9, -right[:1], right[:1]).tolist() == [True]


def test_distance_to_the_nearest_minimiser_is_the_pseudo_inverse_s() -> None:
    problem = sine_squares(4, 1.2, 0.7, 11, 3, stream(0, "distance"))
    theta = torch.randn((4, 2, 11), dtype=torch.float64, generator=stream(0, "theta"))
    found = lemmas.nearest_minimiser(problem, theta)
    for i, j in itertools.product(range(4), range(2)):
        design = np.concatenate([np.eye(3), problem.tail[i].numpy()], axis=1)
        offset = (theta[i, j] - problem.minimiser[i, 0]).numpy()
        assert float(found[i, j]) == pytest.approx(
            np.sum((np.linalg.pinv(design) @ design @ offset) ** 2), rel=1e-10
        )


@pytest.mark.parametrize(
    ("bad", "key"),
    [
        ({"k": 48}, "k"),
        ({"k_star": 9}, "k_star"),
        ({"lengths": [1, 8]}, "lengths"),
        ({"weights": [9.0]}, "weights"),
        ({"kappa_most": 0.5}, "kappa_most"),
    ],
)
def test_bad_settings_are_one_sentence(bad: dict[str, object], key: str) -> None:
    with pytest.raises(ConfigError) as error:
        experiment.parse("lemmas", bad)
    assert str(error.value).startswith(key)
    assert "\n" not in str(error.value)
