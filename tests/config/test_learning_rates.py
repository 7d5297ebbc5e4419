"""Learning-rate schedules are functions of the step, with linear warm-up where they have one."""

import math
from pathlib import Path
from typing import get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from acdc.config.recipe import SCHEDULES, Recipe, Schedule
from acdc.step import Step
from acdc.training.optimizers import eager
from tests.support import tiny_config, train

EPOCHS, BATCHES = 10, 4


def rates(recipe: Recipe, epochs: int = EPOCHS, batches: int = BATCHES) -> list[float]:
    steps = (Step(*divmod(number, batches), batches) for number in range(epochs * batches))
    return [recipe.learning_rate(step, epochs) for step in steps]


def recipe(schedule: Schedule, **keys: float) -> Recipe:
    milestones = (0.3, 0.5) if schedule == "step" else ()
    return Recipe(lr_schedule=schedule, milestones=milestones, **keys)  # type: ignore[arg-type]


def test_every_schedule_is_in_the_table() -> None:
    assert set(SCHEDULES) == set(get_args(Schedule))


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_rates_scale_with_the_base_rate(schedule: Schedule) -> None:
    one, three = rates(recipe(schedule, lr=1.0)), rates(recipe(schedule, lr=3.0))
    assert three == pytest.approx([3 * rate for rate in one])
    assert all(0 < rate <= 1 for rate in one)


@pytest.mark.parametrize("schedule", [name for name in SCHEDULES if not name.endswith("_by_step")])
def test_constant_within_an_epoch(schedule: Schedule) -> None:
    keys = {"warmup": 0.3} if schedule == "cosine" else {}
    found = rates(recipe(schedule, lr=0.1, **keys))
    assert all(found[at] == found[at - at % BATCHES] for at in range(len(found)))


def test_step_decay() -> None:
    expected = 3 * [1] + 2 * [0.1] + 5 * [0.01]
    assert rates(recipe("step", lr=1.0), batches=1) == pytest.approx(expected)


@given(st.integers(1, 12), st.integers(1, 20), st.floats(0, 0.9), st.sampled_from([0.0, 0.01]))
def test_cosine_by_step(epochs: int, batches: int, warmup: float, final: float) -> None:
    keys = {"lr": 1.0, "warmup": warmup, "final_lr": final}
    found = rates(recipe("cosine_by_step", **keys), epochs, batches)
    steps = epochs * batches
    rising = round(warmup * steps)
    assert found[:rising] == pytest.approx([(step + 1) / rising for step in range(rising)])
    for step in range(rising, steps):
        angle = math.pi * (step - rising) / (steps - rising)
        assert found[step] == pytest.approx(final + (1 - final) * (1 + math.cos(angle)) / 2)
    # An epoch of one batch is a step.
    by_step, by_epoch = (recipe(name, **keys) for name in ("cosine_by_step", "cosine"))
    assert rates(by_step, steps, 1) == rates(by_epoch, steps, 1)


def test_rates_are_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[float] = []
    sgd = eager(torch.optim.SGD)
    update = sgd.step

    def watched(optimizer: torch.optim.Optimizer) -> None:
        taken.append(optimizer.param_groups[0]["lr"])
        update(optimizer)

    monkeypatch.setattr(sgd, "step", watched)
    config = tiny_config("dsd", recipe={"lr_schedule": "cosine_by_step", "warmup": 0.5})
    train(config, tmp_path)
    expected = rates(config.recipe, 4, 5)
    factor = config.settings.final_lr_factor  # type: ignore[attr-defined]
    assert taken == expected[:15] + [rate * factor for rate in expected[15:]]
