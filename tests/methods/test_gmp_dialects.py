"""GMP's dialects: their rules against plain Python, and when they update their masks."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from acdc.sparsity.flops import LayerCost
from acdc.step import Step
from baselines import _ramps
from baselines._dialects import (
    DIALECTS,
    DialectName,
    Histogram,
    histogram_threshold,
    smoothed_threshold,
)
from tests.support import Drive, tiny_config, train

EACH = pytest.mark.parametrize("dialect", DIALECTS)
USED: dict[str, dict[str, Any]] = {
    "zhu_gupta": {"updates": 3, "distribution": "global"},
    "contrib": {"updates": 3, "nbins": 255, "threshold_decay": 0.5},
    "ist": {"updates": 4, "distribution": "uniform"},
}


@given(
    st.lists(st.floats(0, 4, width=32), min_size=1, max_size=40),
    st.floats(0, 0.999),
    st.integers(1, 20),
)
def test_histogram_prunes_a_bin_too_few(scores: list[float], sparsity: float, nbins: int) -> None:
    threshold = histogram_threshold(torch.tensor(scores), sparsity, nbins)
    width = max(scores) / nbins
    assert threshold / width == pytest.approx(round(threshold / width)) if width else threshold == 0
    # What lies clearly below the threshold is less than wanted ...
    below = sum(score < threshold - 1e-5 * (1 + threshold) for score in scores)
    assert below == 0 or np.float32(below / len(scores)) < np.float32(sparsity)
    # ... and with one bin more it is not.
    with_next = sum(score < threshold + width + 1e-5 * (1 + threshold) for score in scores)
    assert with_next / len(scores) >= sparsity - 1e-6 or with_next == len(scores)


def test_smoothed_thresholds_by_hand() -> None:
    assert smoothed_threshold(0.5, 0.25, 0.0) == 0.5
    assert smoothed_threshold(0.5, 0.25, 0.5) == 0.375
    histogram = Histogram(4, 0.5)
    score = {"w": torch.tensor([1.0, 2.0, 3.0, 4.0])}
    rule = DIALECTS["contrib"].rule
    # The bins 0-1, 1-2, 2-3, 3-4 hold 0, 1, 1, 2 scores; less than half lie in the first two.
    for threshold in (1.0, 1.5):
        assert int(rule(score, 0.5, histogram)["w"].sum()) == 3
        assert histogram.thresholds == {"w": threshold}


FEW = st.sampled_from([0.0, 0.5, 1.0, 1.5, 2.0, 3.0])


@given(st.lists(FEW, min_size=1, max_size=30), st.floats(0, 0.999))
def test_rules_are_those_of_a_python_sort(scores: list[float], sparsity: float) -> None:
    size = len(scores)
    order = sorted(range(size), key=lambda i: (-scores[i], i))

    def ours(dialect: DialectName) -> list[bool]:
        masks = DIALECTS[dialect].rule({"w": torch.tensor(scores)}, sparsity, Histogram(1, 0.0))
        return list(masks["w"].tolist())

    exact = size - math.floor(sparsity * size)
    assert ours("zhu_gupta") == [i in order[:exact] for i in range(size)]
    ranked = sorted(scores, reverse=True)
    ceiling = ranked[math.ceil(size * (1 - sparsity)) - 1] if sparsity else -1.0
    assert ours("ist") == [score > ceiling for score in scores]


@given(st.integers(0, 60), st.integers(1, 60), st.integers(1, 30))
def test_update_grids_are_those_of_a_loop(begin: int, length: int, every: int) -> None:
    end = begin + length
    last, due = 0, []
    for step in range(1, end + 1):
        if step >= begin and step - last >= every:
            due.append(step)
            last = step
    assert [*_ramps.updates_since_last(begin, end, every)] == due
    loop = [i for i in range(begin, end + 1) if (i - begin) % every == 0]
    assert [*_ramps.updates_since_begin(begin, end, every)] == loop
    assert [*_ramps.updates_before_end(begin, end, every)] == [i for i in loop if i < end]
    even = _ramps.even_updates(begin, end, every)
    assert (even[0], even[-1], len(even)) == (begin, end, 1 + min(every, length))
    distances = np.diff(even)
    assert distances.max() - distances.min() <= 1


def drive_of(dialect: str, lr: float = 0.2) -> Drive:
    settings = {"dialect": dialect, "begin": 0.25, "end": 0.75, "initial_sparsity": 0.1}
    epochs = 8 if dialect == "ist" else 4
    settings |= USED[dialect]
    return Drive(tiny_config("gmp", settings=settings, recipe={"lr": lr}, epochs=epochs))


# In 4 epochs of 5 steps the ramp is from step 5 to 15, three updates are three steps apart. IST
# counts epochs: of 8 the ramp is from epoch 2 to 6, four updates are one epoch apart.
UPDATES = {
    "zhu_gupta": ([5, 8, 12, 15], [0, 0.3, 0.7, 1]),
    "contrib": ([5, 8, 11, 14], [0, 0.3, 0.6, 0.9]),
    "ist": ([10, 15, 20, 25], [0, 0.25, 0.5, 0.75]),
}


@EACH
def test_update_times_and_rates(dialect: str) -> None:
    drive = drive_of(dialect).run()
    events = drive.method.events.drain()
    steps, progress = UPDATES[dialect]
    assert [event["iteration"] for event in events] == steps
    expected = [0.75 - 0.65 * (1 - p) ** 3 for p in progress]
    assert [event["sparsity"] for event in events] == pytest.approx(expected)
    assert drive.method.sparsity_tolerance == (0 if dialect == "zhu_gupta" else 0.0125)
    last = Step(drive.config.epochs - 1, 4, 5)
    assert drive.method.product(last) == drive.method.phase(last) == "sparse"
    assert drive.method.product(Step(0, 4, 5)) is None


def test_ist_never_lets_a_weight_return() -> None:
    drive = drive_of("ist", lr=0.5)
    for before in drive.walk():
        for name, mask in before.masks.items():
            assert not bool((drive.method.masks[name] & ~mask).any())
    assert drive.method.masks


@EACH
def test_published_flops_are_the_mean_over_steps(dialect: str) -> None:
    drive = drive_of(dialect)
    costs = tuple(
        LayerCost(name, weight.numel(), (2 + i) * weight.numel())
        for i, (name, weight) in enumerate(drive.weights.items())
    )
    in_force: list[float] = []
    means: list[float] = []
    for before in drive.walk():
        # Every kept weight is counted, be it zero or not.
        kept = {
            name: int(before.masks[name].sum()) if name in before.masks else weight.numel()
            for name, weight in drive.weights.items()
        }
        in_force.append(3 * sum(cost.flops / cost.weights * kept[cost.name] for cost in costs))
        if before.step.batch == 4:
            means.append(drive.method.published_flops(costs))
    epochs = range(drive.config.epochs)
    assert means == pytest.approx([sum(in_force[5 * e : 5 * e + 5]) / 5 for e in epochs])
    assert means[0] == 3 * sum(cost.flops for cost in costs)
    assert means[-1] < means[1]


@pytest.mark.parametrize("dialect", ["contrib", "ist"])
def test_certificates_allow_what_the_ramp_misses(dialect: str, tmp_path: Path) -> None:
    settings = {"dialect": dialect, "begin": 0.25, "end": 0.75, "updates": 5}
    epochs = 8 if dialect == "ist" else 4
    result = train(tiny_config("gmp", settings=settings, epochs=epochs), tmp_path)
    certificate = result["products"]["sparse"]["last"]["certificate"]
    assert certificate["holds"]
    assert 0.7375 < certificate["pruned"] < 0.75
