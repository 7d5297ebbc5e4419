"""RigL's update is the original's, conserves counts, and replaces the optimizer's step."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from acdc.errors import ConfigError
from acdc.flops import LayerCost, step_flops
from acdc.masks import erk_sparsities
from acdc.schedules import Step
from baselines.rigl import RigL, updated_mask
from tests.support import Drive, golden, nonzeros, tiny_config

CASES = golden("rigl_single_update")["cases"]


@pytest.mark.parametrize("number", range(len(CASES)), ids=[case["name"] for case in CASES])
def test_one_update_is_exactly_that_of_the_original(number: int) -> None:
    case = CASES[number]
    shape = case["shape"]

    def tensor(key: str) -> Tensor:
        return torch.tensor(case[key]).reshape(shape)

    weight, mask = tensor("weights"), tensor("mask").bool()
    updated, new = updated_mask(weight, mask, tensor("grad"), case["drop_fraction"])
    assert torch.equal(updated, tensor("out_mask").bool())
    # The original keeps dropped weights in store; ours are zero. Both see the same forward pass.
    assert torch.equal(
        weight.masked_fill(new, 0) * updated, tensor("out_weights") * tensor("out_mask")
    )
    assert torch.equal(tensor("momentum").masked_fill(new, 0), tensor("out_momentum"))
    assert int(mask.sum()) == case["n_active_before"]
    assert int(updated.sum()) == case["n_active_after"]


def brute_force_update(
    weight: list[float], mask: list[bool], gradient: list[float], dropped: int
) -> list[bool]:
    """Sort in plain Python, by score and then by index."""
    size = len(weight)
    drop_score = [abs(w) if m else 0.0 for w, m in zip(weight, mask, strict=True)]
    order = sorted(range(size), key=lambda i: (-drop_score[i], i))
    kept = set(order[: sum(mask) - dropped])
    rest = sorted((i for i in range(size) if i not in kept), key=lambda i: (-abs(gradient[i]), i))
    return [i in kept or i in rest[:dropped] for i in range(size)]


@given(st.data(), st.integers(1, 24), st.floats(0, 1, exclude_max=True))
def test_an_update_is_that_of_a_python_sort_and_conserves_the_count(
    data: Any, size: int, drop_fraction: float
) -> None:
    few = st.sampled_from([0.0, 1.0, -1.0, 0.5, -2.0])
    weight = data.draw(st.lists(few, min_size=size, max_size=size))
    gradient = data.draw(st.lists(few, min_size=size, max_size=size))
    mask = data.draw(st.lists(st.booleans(), min_size=size, max_size=size))
    old = torch.tensor(mask)
    updated, new = updated_mask(
        torch.tensor(weight) * old, old, torch.tensor(gradient), drop_fraction
    )
    dropped = int(np.float32(sum(mask)) * np.float32(drop_fraction))
    assert updated.tolist() == brute_force_update(weight, mask, gradient, dropped)
    assert int(updated.sum()) == sum(mask)
    assert torch.equal(new, updated & ~old)


@given(st.integers(0, 2**32), st.floats(0, 0.99))
def test_an_update_with_noise_conserves_the_count(seed: int, drop_fraction: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    weight, gradient, noise = torch.randn(3, 5, 7, generator=generator)
    mask = torch.rand(5, 7, generator=generator) < 0.4
    updated, _ = updated_mask(weight * mask, mask, gradient, drop_fraction, noise)
    assert int(updated.sum()) == int(mask.sum())


def test_noise_far_below_the_weights_changes_nothing() -> None:
    weight = torch.arange(1.0, 13.0)
    mask = torch.arange(12) % 2 == 0
    gradient = torch.arange(12.0).flip(0)
    noise = 1e-5 * torch.randn(12, generator=torch.Generator().manual_seed(1))
    plain, _ = updated_mask(weight * mask, mask, gradient, 0.5)
    noisy, _ = updated_mask(weight * mask, mask, gradient, 0.5, noise)
    assert torch.equal(plain, noisy)


def rigl(**settings: Any) -> Drive:
    config = tiny_config("rigl", settings={"update_interval": 3, "end": 0.7} | settings)
    return Drive(config)


def test_updates_come_at_step_zero_and_then_after_every_interval_of_optimizer_steps() -> None:
    drive = rigl()
    drive.run()
    # 20 batches; an update's own batch is not a step, so that updates are four batches apart.
    # They may come up to optimizer step 0.7 * 20 = 14.
    updates = [iteration for iteration, stepped in enumerate(drive.stepped) if not stepped]
    assert updates == [0, 4, 8, 12, 16]
    events = drive.method.events.drain()
    assert [event["iteration"] for event in events] == updates
    steps = [0, 3, 6, 9, 12]
    expected = [0.15 * (1 + math.cos(math.pi * step / 14)) for step in steps]
    assert [event["drop_fraction"] for event in events] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("end", "updates"),
    [
        (0.6, [0, 4, 8, 12, 16]),  # the fifth falls on optimizer step 12 = 0.6 * 20, the end itself
        (0.55, [0, 4, 8, 12]),
    ],
)
def test_the_step_at_which_updates_end_is_the_last_that_may_have_one(
    end: float, updates: list[int]
) -> None:
    drive = rigl(end=end).run()
    assert [batch for batch, stepped in enumerate(drive.stepped) if not stepped] == updates


def test_an_update_moves_no_weight_and_grown_weights_and_their_momentum_are_zero() -> None:
    # Updates in every other batch and many weights moved, so that dropped ones are grown again.
    drive = rigl(update_interval=1, drop_fraction=0.6, end=1.0)
    before: dict[str, Tensor] = {}
    old_masks: dict[str, Tensor] = {}
    old_momentum: dict[str, Tensor] = {}
    grown_in_all = had_momentum = 0

    def prepare(step: Step) -> None:
        before.update(drive.effective())
        old_masks.update(drive.method.masks)
        if step.iteration > 1:
            old_momentum.update(drive.momentum())

    def look(step: Step) -> None:
        nonlocal grown_in_all, had_momentum
        masks = drive.method.masks
        if drive.stepped[step.iteration]:
            assert all(torch.equal(masks[name], old_masks[name]) for name in masks)
            return
        for name, weight in drive.weights.items():
            grown = masks[name] & ~old_masks[name]
            stayed = masks[name] & old_masks[name]
            grown_in_all += int(grown.sum())
            assert bool((weight[grown] == 0).all())
            assert torch.equal(weight[stayed], before[name][stayed])
            assert bool((weight[~masks[name]] == 0).all())
            if step.iteration > 1:
                momentum = drive.momentum()[name]
                had_momentum += int((old_momentum[name][grown] != 0).sum())
                assert bool((momentum[grown] == 0).all())
                assert torch.equal(momentum[~grown], old_momentum[name][~grown])

    drive.run(look, before_step=prepare)
    assert grown_in_all > 0
    assert had_momentum > 0


def test_grown_weights_have_the_largest_dense_gradients_among_the_inactive() -> None:
    drive = rigl(drop_fraction=0.5, drop_noise=0.0)
    gradients: dict[str, Tensor] = {}
    expected: dict[str, list[bool]] = {}
    compared = 0

    def prepare(step: Step) -> None:
        masks = drive.method.masks
        for name, weight in drive.weights.items():
            assert weight.grad is not None
            gradients[name] = weight.grad.clone()
            fraction = 0.25 * (1 + math.cos(math.pi * drive.stepped.count(True) / 14))
            dropped = int(np.float32(int(masks[name].sum())) * np.float32(fraction))
            expected[name] = brute_force_update(
                weight.detach().reshape(-1).tolist(),
                masks[name].reshape(-1).tolist(),
                gradients[name].reshape(-1).tolist(),
                dropped,
            )

    def look(step: Step) -> None:
        nonlocal compared
        if not drive.stepped[step.iteration]:
            for name, mask in drive.method.masks.items():
                assert mask.reshape(-1).tolist() == expected[name]
                compared += 1

    drive.run(look, before_step=prepare)
    assert compared == 5 * 3


def test_the_number_of_active_weights_of_every_layer_never_changes() -> None:
    drive = rigl(distribution="erk")
    counts = {name: int(mask.sum()) for name, mask in drive.method.masks.items()}

    def look(step: Step) -> None:
        assert {name: int(mask.sum()) for name, mask in drive.method.masks.items()} == counts
        assert all(int((w != 0).sum()) <= counts[name] for name, w in drive.weights.items())

    drive.run(look)


def test_uniform_keeps_the_first_layer_dense_and_erk_follows_its_formula() -> None:
    uniform = rigl().method.masks
    assert {name: int((~mask).sum()) for name, mask in uniform.items()} == {
        "conv.weight": 0,
        "hidden.weight": 36,
        "out.weight": 18,
    }
    drive = rigl(distribution="erk")
    sparsities = erk_sparsities({n: w.shape for n, w in drive.weights.items()}, 0.75)
    zeros = {name: math.floor(s * drive.weights[name].numel()) for name, s in sparsities.items()}
    assert {name: int((~mask).sum()) for name, mask in drive.method.masks.items()} == zeros


def test_the_first_masks_follow_the_seed() -> None:
    def first(seed: int) -> Tensor:
        return Drive(tiny_config("rigl", seed=seed)).method.masks["hidden.weight"]

    assert torch.equal(first(1), first(1))
    assert not torch.equal(first(1), first(2))


@pytest.mark.parametrize("interval", [1, 3, 100])
def test_training_flops_are_those_of_its_appendix(interval: int) -> None:
    drive = rigl(update_interval=interval, distribution="erk")
    costs = tuple(
        LayerCost(name, weight.numel(), 2 * weight.numel())
        for name, weight in drive.weights.items()
    )
    densities = drive.method.densities()
    dense = sum(cost.flops for cost in costs)
    sparse = sum(2 * nonzeros({"": mask}) for mask in drive.method.masks.values())
    # Evci et al. 2020, Appendix H.
    expected = (3 * sparse * interval + 2 * sparse + dense) / (interval + 1)
    assert step_flops(costs, densities.forward, densities.gradient) == pytest.approx(expected)


def test_a_sparsity_of_zero_is_refused() -> None:
    with pytest.raises(ConfigError, match="sparsity: 0 leaves RigL nothing to move"):
        tiny_config("rigl", sparsity=0.0)


def test_updates_may_end_before_they_begin() -> None:
    drive = rigl(end=0.01)  # rounds to step 0
    drive.run()
    assert isinstance(drive.method, RigL)
    assert drive.stepped == [False] + [True] * 19
    assert drive.method.events.drain()[0]["grown"] == 0
