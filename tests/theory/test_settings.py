"""Settings: each wrong one is refused, and the message names its key."""

import math
from typing import Any

import pytest
import torch

from acdc.errors import ConfigError
from theory import experiment, layout
from theory.outcome import Outcome
from theory.statements import read_claims

SMALL_RECOVERY = {"n": 30, "m": 20, "k_stars": [1, 2, 7], "trials": 4}
WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("t2_rat", {}, "theory=t2_rat"), ("t2_rate", {"kappa": 2}, "kappa"),
    ("t2_rate", {"kappas": [2, 0.5]}, "kappas.1"), ("t2_rate", {"kappas": []}, "kappas"),
    ("t2_rate", {"k_ratios": [1, 99]}, "k_ratios=(1, 99)"),
    ("t2_rate", {"k_ratios": [0, 1]}, "k_ratios.0"), ("c1", {"k": 2000}, "k=2000"),
    ("c1", {"k": 3}, "k_star=4"), ("t1_rate", {"k_parts": [0.5]}, "k_parts"),
    ("t1_rate", {"weights": [5.0]}, "weights"), ("t1_rate", {"weights": [4.5]}, "weights=(4.5,)"),
    ("t1_floor", {"sigmas": [0.0, 0.1, 1.0]}, "sigmas"),
    ("t1_floor", {"sigmas": [0.1, 1.0]}, "sigmas"), ("t1_floor", {"weight": 5.0}, "weight"),
    ("t1_floor", {"weight": 4.5}, "weight=4.5"), ("t1_gap", {"n": 100}, "n"),
    ("t1_gap", {"distances": [0.0, 1.0]}, "distances"), ("t1_gap", {"k_star": 101}, "k_star"),
    ("fail", {"kappas": [2.0, 4.0, 8.0]}, "kappas"), ("fail", {"kappas": [4.0, 8.0]}, "kappas"),
    ("fail", {"sizes": [1000]}, "sizes"), ("fail", {"kappa_most": 2.0}, "kappa_most"),
    ("fail", {"iterations": 460}, "iterations=460"),
    ("fail", {"kappa_most": 200.0}, "iterations=1000"), ("lemmas", {"k": 48}, "k"),
    ("lemmas", {"k_star": 9}, "k_star"), ("lemmas", {"lengths": [1, 8]}, "lengths"),
    ("lemmas", {"kappa_most": 0.5}, "kappa_most"),
    ("recovery", SMALL_RECOVERY | {"k_stars": [8]}, "n=30"),
    ("recovery", SMALL_RECOVERY | {"m": 30}, "m=30"),
    ("recovery", SMALL_RECOVERY | {"parts": 3}, "parts=3"),
    ("recovery", SMALL_RECOVERY | {"iterations": 5}, "iterations=5"),
    ("recovery", SMALL_RECOVERY | {"designs": 5}, "designs=5"),
    ("bridge", {"model": "resnet9"}, "model"), ("bridge", {"epochs": 4}, "epochs=4"),
    ("bridge", {"images": 1001}, "images=1001"),
    ("bridge", {"sparsity": 0.99999}, "sparsity=0.99999"),
    ("bridge", {"shares": [0.1, 1.5]}, "shares"), ("bridge", {"shares": [0.1]}, "shares=(0.1,)"),
    ("bridge", {"recipe": {"lr": -1}}, "recipe.lr"), ("restore", {"models": ["resnet9"]}, "models"),
    ("restore", {"eps": [1e-5]}, "eps"), ("restore", {"sparsities": [0.9, 1.0]}, "sparsities"),
    ("restore", {"epochs": 4}, "epochs")]  # fmt: skip
WRONG += [
    (name, wrong, next(iter(wrong)))
    for name in layout.EXPERIMENTS
    for wrong in ({"trials": 1}, {"nonsense": 1})
]
NOT_NUMBERS = (math.nan, math.inf, -math.inf, True, "1", "abc", "", None, {})
ABSURD = (1e30, 10**30, -(10**30), -1)
"""In the place of a number, and as an element where there are several."""


@pytest.mark.parametrize(("name", "wrong", "key"), WRONG)
def test_wrong(name: str, wrong: dict[str, Any], key: str) -> None:
    with pytest.raises(ConfigError) as error:
        experiment.parse(name, wrong)
    assert str(error.value).startswith(key)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", layout.EXPERIMENTS)
def test_numbers_are_numbers_within_bounds(name: str) -> None:
    for key, field in experiment.load(name).Settings.model_fields.items():
        default = field.default
        if not isinstance(default, int | float | tuple):
            continue
        wrong: list[Any] = [*NOT_NUMBERS, *ABSURD]
        if isinstance(default, tuple):
            twice = [default[0], *default]
            wrong = [*([each] for each in wrong), twice, [*default] * 100, *NOT_NUMBERS, 1]
        elif isinstance(default, int):
            wrong += [default + 0.5, [default]]
        for value in wrong:
            with pytest.raises(ConfigError, match=rf"^{key}[^\n]*$"):
                experiment.parse(name, {key: value})


@pytest.mark.parametrize("name", layout.EXPERIMENTS)
def test_claims(name: str) -> None:
    claims = read_claims(name)
    assert claims
    for claim in claims.values():
        assert all((claim.source, claim.claim, claim.measure))
        # Without a tolerance any interval would decide.
        assert math.isinf(claim.tolerance) == (claim.relation != "equals")


def test_a_statement_is_made_once() -> None:
    outcome = Outcome("recovery", experiment.parse("recovery", {}))
    outcome.state_never("descent", torch.zeros(9))
    with pytest.raises(AssertionError, match="descent"):
        outcome.state_never("descent", torch.zeros(9))
