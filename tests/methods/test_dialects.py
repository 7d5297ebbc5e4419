"""GMP in each dialect prunes what its code base prunes, when and for how long it does."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from acdc.errors import ConfigError
from acdc.methods.dialects import (
    DIALECTS,
    DialectName,
    Histogram,
    histogram_threshold,
    smoothed_threshold,
)
from acdc.methods.ramps import cubic_sparsity
from acdc.sparsity.flops import LayerCost
from acdc.sparsity.selection import layer_magnitude_masks
from acdc.step import Step
from baselines.gmp import GMP
from tests.support import Drive, golden, hashval, nonzeros, stored_weights, tiny_config, train

RULES = golden("gmp_schedules_and_masks")["mask_rules_on_10x20_hash51"]
DIALECT_OF_RULE = {
    "tfmot_topk_ge": "tfmot",
    "str_gmp_sort": "str",
    "acdc_woodfisher_percentile_gt": "ist",
    "granet_global_gt": "granet",
    "jaxpruner_topk": "jaxpruner",
}
USED: dict[str, dict[str, Any]] = {
    "zhu_gupta": {"updates": 3, "initial_sparsity": 0.1, "distribution": "global"},
    "contrib": {"updates": 3, "initial_sparsity": 0.1, "nbins": 255, "threshold_decay": 0.5},
    "tfmot": {"updates": 3, "initial_sparsity": 0.1},
    "ist": {"updates": 4, "initial_sparsity": 0.05, "distribution": "uniform"},
    "str": {"dense_layers": ["first"]},
    "jaxpruner": {"updates": 3},
    "granet": {"updates": 3, "distribution": "global"},
}


def test_every_dialect_can_be_named() -> None:
    assert set(get_args(DialectName)) == set(DIALECTS) == set(USED)


@pytest.mark.parametrize("sparsity", ["0.5", "0.9"])
@pytest.mark.parametrize("name", DIALECT_OF_RULE)
def test_masks_of_a_known_tensor_are_those_of_the_code_base(name: str, sparsity: str) -> None:
    expected = RULES[sparsity][name]
    dialect = DIALECTS[DIALECT_OF_RULE[name]]
    score = dialect.score(hashval((10, 20), 51), None)
    mask = dialect.rule({"w": score}, float(sparsity), Histogram(256, 0.0))["w"]
    assert int(mask.sum()) == expected["n_kept"]
    if "mask" in expected:
        assert mask.reshape(-1).int().tolist() == expected["mask"]


@pytest.mark.parametrize("sparsity", ["0.5", "0.9"])
@pytest.mark.parametrize(("nbins", "decay"), [(255, 0.9), (255, 0.0), (256, 0.0)])
def test_thresholds_by_histogram_are_those_of_contrib(
    nbins: int, decay: float, sparsity: str
) -> None:
    expected = RULES[sparsity][f"contrib_hist_nbins{nbins}_decay{decay}"]
    histogram = Histogram(nbins, decay)
    weight = hashval((10, 20), 51)
    mask = DIALECTS["contrib"].rule({"w": weight.abs()}, float(sparsity), histogram)["w"]
    assert histogram.thresholds["w"] == expected["threshold"]
    assert mask.reshape(-1).int().tolist() == expected["mask"]
    assert int(mask.sum()) == expected["n_kept"]


@given(
    st.lists(st.floats(0, 4, width=32), min_size=1, max_size=40),
    st.floats(0, 0.999),
    st.integers(1, 20),
)
def test_a_histogram_threshold_prunes_less_than_wanted_by_at_most_one_bin(
    scores: list[float], sparsity: float, nbins: int
) -> None:
    threshold = histogram_threshold(torch.tensor(scores), sparsity, nbins)
    width = max(scores) / nbins
    assert threshold / width == pytest.approx(round(threshold / width)) if width else threshold == 0
    # What lies clearly below the threshold is less than wanted ...
    below = sum(score < threshold - 1e-5 * (1 + threshold) for score in scores)
    assert below == 0 or np.float32(below / len(scores)) < np.float32(sparsity)
    # ... and with one bin more it is not.
    with_next = sum(score < threshold + width + 1e-5 * (1 + threshold) for score in scores)
    assert with_next / len(scores) >= sparsity - 1e-6 or with_next == len(scores)


def test_a_layer_of_zeros_has_the_threshold_zero() -> None:
    assert histogram_threshold(torch.zeros(5), 0.5, 256) == 0


def test_smoothed_thresholds_by_hand() -> None:
    assert smoothed_threshold(0.5, 0.25, 0.0) == 0.5
    assert smoothed_threshold(0.5, 0.25, 0.5) == 0.375
    histogram = Histogram(4, 0.5)
    score = {"w": torch.tensor([1.0, 2.0, 3.0, 4.0])}
    rule = DIALECTS["contrib"].rule
    # The bins 0-1, 1-2, 2-3, 3-4 hold 0, 1, 1, 2 scores; less than half lie in the first two.
    assert int(rule(score, 0.5, histogram)["w"].sum()) == 3
    assert histogram.thresholds == {"w": 1.0}
    assert int(rule(score, 0.5, histogram)["w"].sum()) == 3
    assert histogram.thresholds == {"w": 1.5}


FEW = st.sampled_from([0.0, 0.5, 1.0, 1.5, 2.0, 3.0])


@given(st.lists(FEW, min_size=1, max_size=30), st.floats(0, 0.999))
def test_rules_are_those_of_a_python_sort_with_ties(scores: list[float], sparsity: float) -> None:
    size = len(scores)
    ranked = sorted(scores, reverse=True)
    order = sorted(range(size), key=lambda i: (-scores[i], i))

    def ours(dialect: str) -> list[bool]:
        rule = DIALECTS[dialect].rule
        kept: list[bool] = rule({"w": torch.tensor(scores)}, sparsity, Histogram(1, 0.0))[
            "w"
        ].tolist()
        return kept

    rounded = round(float(np.float32(size) * (np.float32(1) - np.float32(sparsity))))
    at_least = ranked[max(rounded, 1) - 1]
    assert ours("tfmot") == [score >= at_least for score in scores]
    assert ours("jaxpruner") == [i in order[:rounded] for i in range(size)]
    exact = size - math.floor(sparsity * size)
    assert ours("str") == ours("zhu_gupta") == [i in order[:exact] for i in range(size)]
    ceiling = ranked[math.ceil(size * (1 - sparsity)) - 1] if sparsity else -1.0
    assert ours("ist") == [score > ceiling for score in scores]
    truncated = ranked[max(int(size * (1 - sparsity)), 1) - 1]
    assert ours("granet") == [score > truncated for score in scores]


def dialect_drive(dialect: str, lr: float = 0.2, **settings: Any) -> Drive:
    chosen = {"dialect": dialect, "begin": 0.25, "end": 0.75} | USED[dialect] | settings
    epochs = 8 if DIALECTS[dialect].by_epoch else 4
    return Drive(tiny_config("gmp", settings=chosen, recipe={"lr": lr}, epochs=epochs))


# 4 epochs of 5 steps: the ramp is from step 5 to 15, three updates are three steps apart. 8 epochs
# where these are counted: it is from epoch 2 to 6, four updates are one epoch apart.
UPDATES = {
    "zhu_gupta": [5, 8, 12, 15],
    "contrib": [5, 8, 11, 14],
    "tfmot": [5, 8, 11, 14],
    "ist": [10, 15, 20, 25],
    "str": [10, 15, 20, 25],
    "jaxpruner": [6, 9, 12, 15],
    "granet": [5, 8, 11, 14],
}


@pytest.mark.parametrize("dialect", USED)
def test_masks_change_when_the_code_base_updates_them(dialect: str) -> None:
    drive = dialect_drive(dialect)
    drive.run()
    events = drive.method.events.drain()
    assert [event["iteration"] for event in events] == UPDATES[dialect]
    rates = [event["sparsity"] for event in events]
    assert rates == sorted(rates)
    initial = USED[dialect].get("initial_sparsity", 0.0)
    progress = {
        "zhu_gupta": [0, 0.3, 0.7, 1],
        "contrib": [0, 0.3, 0.6, 0.9],
        "tfmot": [0, 0.3, 0.6, 0.9],
        "ist": [0, 0.25, 0.5, 0.75],
        "str": [0, 0.25, 0.5, 0.75],
        "jaxpruner": [0.2, 0.5, 0.8, 1],
        "granet": [0, 0.3, 0.6, 0.9],
    }[dialect]
    assert rates == pytest.approx([cubic_sparsity(p, initial, 0.75) for p in progress])
    missed = drive.method.sparsity_tolerance
    assert missed == (0 if dialect == "zhu_gupta" else 0.0125)


@pytest.mark.parametrize("dialect", USED)
def test_pruned_weights_are_zero_in_the_forward_pass_after_every_step(dialect: str) -> None:
    drive = dialect_drive(dialect)
    pruned = 0

    def look(step: Step) -> None:
        nonlocal pruned
        for name, mask in drive.method.masks.items():
            pruned += int((~mask).sum())
            assert bool((drive.weights[name][~mask] == 0).all())

    drive.run(look, at_epoch=look)
    assert pruned > 0
    last = Step(drive.config.epochs - 1, 4, 5)
    assert drive.method.product(last) == "sparse"
    assert drive.method.phase(last) == "sparse"
    assert drive.method.product(Step(0, 4, 5)) is None


@pytest.mark.parametrize("dialect", ["ist", "jaxpruner", "granet"])
def test_what_these_dialects_prune_never_returns(dialect: str) -> None:
    drive = dialect_drive(dialect, lr=0.5)
    last: dict[str, Tensor] = {}

    def look(step: Step) -> None:
        for name, mask in drive.method.masks.items():
            assert name not in last or not bool((mask & ~last[name]).any())
        last.update(drive.method.masks)

    drive.run(look)
    assert last


def test_in_tfmot_a_pruned_weight_may_return_with_the_value_of_its_last_step() -> None:
    drive = dialect_drive("tfmot", lr=4.0, updates=10, initial_sparsity=0.6)
    assert drive.method.gradient_masks() == {}
    returned = 0
    last: dict[str, Tensor] = {}
    momentum: dict[str, Tensor] = {}

    def look(step: Step) -> None:
        nonlocal returned
        momentum.update(drive.momentum())
        for name, mask in drive.method.masks.items():
            if name in last:
                back = mask & ~last[name]
                returned += int(back.sum())
                # From zero, one step of SGD.
                expected = -4.0 * momentum[name][back]
                assert torch.equal(drive.weights[name].detach()[back], expected)
        last.update(drive.method.masks)

    drive.run(look)
    assert returned > 0


def test_in_str_the_stored_weights_are_ranked_anew_after_every_step() -> None:
    drive = dialect_drive("str", lr=0.5)
    changed_within_an_epoch = 0
    last: dict[str, Tensor] = {}

    def look(step: Step) -> None:
        nonlocal changed_within_an_epoch
        assert isinstance(drive.method, GMP)
        if not drive.method.masks:
            return
        assert "conv.weight" not in drive.method.masks
        weights = {
            name: w for name, w in stored_weights(drive).items() if name in drive.method.masks
        }
        expected = layer_magnitude_masks(weights, dict.fromkeys(weights, drive.method.rate))
        for name, mask in drive.method.masks.items():
            assert torch.equal(mask, expected[name])
            if step.batch:
                changed_within_an_epoch += int((mask != last[name]).sum())
        last.update(drive.method.masks)

    drive.run(look)
    assert changed_within_an_epoch > 0


def test_an_update_at_step_zero_is_made_before_the_first_batch() -> None:
    drive = Drive(
        tiny_config("gmp", settings={"dialect": "tfmot", "begin": 0.0, "initial_sparsity": 0.5})
    )
    assert nonzeros(drive.weights) == 45
    assert drive.method.events.drain()[0]["iteration"] == 0


@pytest.mark.parametrize("dialect", USED)
def test_published_flops_are_the_mean_of_the_masks_in_force_at_each_step(dialect: str) -> None:
    drive = dialect_drive(dialect)
    costs = tuple(
        LayerCost(name, weight.numel(), (2 + i) * weight.numel())
        for i, (name, weight) in enumerate(drive.weights.items())
    )
    in_force: list[float] = []
    means: list[float] = []

    def prepare(step: Step) -> None:
        masks = drive.method.masks
        # Every kept weight is counted, be it zero or not.
        kept = {
            n: int(masks[n].sum()) if n in masks else w.numel() for n, w in drive.weights.items()
        }
        in_force.append(3 * sum(cost.flops / cost.weights * kept[cost.name] for cost in costs))

    def look(step: Step) -> None:
        if step.batch == 4:
            means.append(drive.method.published_flops(costs))

    drive.run(look, before_step=prepare)
    epochs = range(drive.config.epochs)
    assert means == pytest.approx([sum(in_force[5 * e : 5 * e + 5]) / 5 for e in epochs])
    assert means[0] == 3 * sum(cost.flops for cost in costs)
    assert means[-1] < means[1]


@pytest.mark.parametrize("dialect", USED)
def test_a_real_run_is_certified_where_its_ramp_ends_near_the_target(
    dialect: str, tmp_path: Path
) -> None:
    updates = {} if dialect == "str" else {"updates": 5}
    settings = {"dialect": dialect, "begin": 0.25, "end": 0.75} | updates
    epochs = 8 if DIALECTS[dialect].by_epoch else 4
    result = train(tiny_config("gmp", settings=settings, epochs=epochs), tmp_path)
    certificate = result["products"]["sparse"]["last"]["certificate"]
    if dialect in ("ist", "str"):
        # The last of four epochs of ramp is at three quarters of it.
        assert certificate["holds"]
        assert certificate["pruned"] == pytest.approx(0.75 * (1 - 0.25**3), abs=0.001)
    elif dialect == "granet":
        # Five updates end at four fifths of the ramp.
        assert certificate["holds"]
        assert certificate["pruned"] == pytest.approx(0.75 * (1 - 0.2**3), abs=0.001)
    elif dialect == "contrib":
        # The histogram prunes too few, by less than a bin.
        assert certificate["holds"]
        assert 0.7375 < certificate["pruned"] < 0.75
    else:
        assert certificate["holds"]
        assert certificate["pruned"] == pytest.approx(0.75, abs=0.001)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"dialect": "str", "updates": 7},
            r"settings\.updates: 7 means nothing to dialect str; the default 50 is accepted",
        ),
        ({"dialect": "jaxpruner", "initial_sparsity": 0.1}, r"settings\.initial_sparsity: 0\.1"),
        ({"nbins": 255}, r"settings\.nbins: 255 means nothing to dialect zhu_gupta"),
        ({"dialect": "tfmot", "threshold_decay": 0.9}, r"settings\.threshold_decay: 0\.9"),
        (
            {"dialect": "contrib", "distribution": "global"},
            r"settings\.distribution: global is not how dialect contrib ranks; null and uniform "
            "are accepted",
        ),
    ],
)
def test_settings_that_a_dialect_ignores_are_refused(
    settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        tiny_config("gmp", settings=settings)
