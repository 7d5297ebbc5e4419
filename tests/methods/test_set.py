"""SET grows at random: after steps as RigL restates it, or by sign after epochs as the original.

What it shares with other methods that move connections is tested in test_rewiring.
"""

from typing import Any

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from baselines.set import Settings, core_mask
from tests.support import Drive, tiny_config


def set_drive(**settings: Any) -> Drive:
    return Drive(tiny_config("set", settings={"update_interval": 3 / 20, "end": 0.7} | settings))


def original(**settings: Any) -> Drive:
    return Drive(tiny_config("set", settings={"dialect": "original"} | settings))


def test_update_times() -> None:
    drive = set_drive().run()
    assert drive.stepped == [True] * 20
    events = drive.method.events.drain()
    # After steps 1, 4, 7, 10 and 13: batches count from 0.
    assert [event["iteration"] for event in events] == [0, 3, 6, 9, 12]


def test_growth_reaches_every_position_about_equally_often() -> None:
    method = set_drive().method
    name = "hidden.weight"
    outside = ~method.masks[name]
    grown = torch.zeros(outside.shape)
    for draw in range(400):
        scores = method.growth(name, torch.Generator().manual_seed(draw))
        grown += scores == scores[outside].max()
    # Binomial(400, 1/36): mean 11.1, standard deviation 3.3; six of those upwards.
    assert int(grown[outside].sum()) == 400
    assert int(grown[outside].min()) > 0
    assert int(grown[outside].max()) < 31


def test_grown_connections_do_not_depend_on_the_gradient() -> None:
    def grown(lr: float) -> Tensor:
        config = tiny_config("set", settings={"end": 0.1, "anneal": "constant"}, recipe={"lr": lr})
        drive = Drive(config)
        before = drive.method.masks["hidden.weight"]
        # One update, after the first step; steps too small to change which weights are dropped.
        return drive.run().method.masks["hidden.weight"] & ~before

    assert torch.equal(grown(1e-9), grown(2e-9))
    assert int(grown(1e-9).sum()) > 0


def python_core(weight: list[float], fraction: float) -> list[bool]:
    """Follow the original's words: sort, find two thresholds, keep what is strictly beyond them."""
    values = sorted(weight)
    negative = sum(value < 0 for value in values)
    first_positive = sum(value <= 0 for value in values)
    at = min(len(values) - 1, first_positive + fraction * (len(values) - first_positive))
    low, high = values[int((1 - fraction) * negative)], values[int(at)]
    return [value < low or value > high for value in weight]


@given(
    st.lists(
        st.sampled_from([0.0, -0.0, 0.25, 0.5, -0.5, 1.0, -1.0, -2.0]), min_size=1, max_size=30
    ),
    st.sampled_from([0.0, 0.1, 0.3, 0.5, 0.9]),
)
def test_core_is_beyond_two_thresholds(weight: list[float], fraction: float) -> None:
    weight = [*weight, 0.0]  # a sparse layer has an inactive weight
    assert core_mask(torch.tensor(weight), fraction).tolist() == python_core(weight, fraction)


def test_the_original_drops_by_sign() -> None:
    positive = torch.arange(1.0, 11.0)  # 4 go: int(0.3 * 10) + 1
    negative = -torch.arange(1.0, 6.0) / 100  # 2 go: all but int(0.7 * 5)
    weight = torch.cat([positive, negative, torch.zeros(5)])
    kept = core_mask(weight, 0.3)
    assert weight[kept].tolist() == [*range(5, 11), *(-torch.arange(3.0, 6.0) / 100).tolist()]


def test_original_rewires_between_epochs() -> None:
    drive = original()
    method = drive.method
    assert set(method.masks) == {"conv.weight", "hidden.weight"}  # the last layer is dense
    counts, masks, last = method.kept(), dict(method.masks), drive.effective()
    grown_in_all = dropped_and_grown = 0
    for before in drive.walk():
        assert method.kept() == counts
        for name, mask in before.masks.items():
            assert torch.equal(method.masks[name], mask)  # nothing moves within an epoch
            if before.step.batch or not before.step.epoch:
                continue
            core = torch.tensor(python_core(last[name].reshape(-1).tolist(), 0.3))
            core = core.reshape(mask.shape)
            new = mask & ~core
            assert not bool((core & ~mask).any())
            assert torch.equal(before.stored[name], last[name] * core)
            assert not before.momentum[name].any()
            grown_in_all += int(new.sum())
            dropped_and_grown += int((new & masks[name]).sum())
        if before.step.batch == 0:
            assert torch.equal(before.weights["out.weight"], last["out.weight"])
            assert not before.momentum["out.weight"].any()
        masks, last = dict(before.masks), drive.effective()
    assert grown_in_all > 0
    assert dropped_and_grown > 0
    events = method.events.drain()
    assert [(e["iteration"], e["drop_fraction"]) for e in events] == [
        (5, 0.3), (10, 0.3), (15, 0.3)]  # fmt: skip
    assert sum(event["grown"] for event in events) == grown_in_all


def test_defaults_of_the_original() -> None:
    assert Settings(dialect="original") == Settings(
        dialect="original", distribution="er", dense_layers=("last",)
    )
    other = Settings(dialect="original", distribution="erk", dense_layers=())
    assert (other.distribution, other.dense_layers) == ("erk", ())
    assert Settings.model_validate(other.model_dump()) == other
    assert [s.variant() for s in (Settings(), Settings(dialect="original"), other)] == [
        "",
        "er-last-original",
        "erk-original",
    ]
