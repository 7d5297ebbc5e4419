"""Top-KAST follows its definition: top D forward, D + M backward, gradient at the sparse point."""

from typing import Any

import pytest
import torch

from acdc.methods.optimizer import optimizer_slots
from acdc.sparsity.selection import Scope, magnitude_masks
from acdc.step import Step
from baselines.top_kast import (
    Exploration,
    Settings,
    TopKAST,
    exploration_gradient,
    exploration_penalty,
)
from tests.support import OPTIMIZERS, Drive, hashval, stored_weights, tiny_config


def settings(**changes: Any) -> dict[str, Any]:
    return {"backward_sparsity": 0.5, "dense_layers": []} | changes


@pytest.mark.parametrize("exploration", ["l2", "l1"])
def test_the_gradient_of_the_penalty_is_its_derivative(exploration: Exploration) -> None:
    weight = hashval((8, 10), 81).double().requires_grad_()
    backward = magnitude_masks({"": weight}, 0.5, "uniform")[""]
    forward = magnitude_masks({"": weight}, 0.8, "uniform")[""]
    exploration_penalty(weight, forward, backward, 0.2, exploration).backward()
    gradient = exploration_gradient(weight.detach(), forward, backward, 0.2, exploration)
    torch.testing.assert_close(gradient, weight.grad)


def top_kast(optimizer: str = "sgd", **changes: Any) -> tuple[Drive, TopKAST]:
    recipe = OPTIMIZERS.get(optimizer, {})
    drive = Drive(tiny_config("top_kast", settings=settings(**changes), recipe=recipe))
    return drive, drive.method


@pytest.mark.parametrize("optimizer", ["sgd", *OPTIMIZERS])
def test_only_the_backward_set_moves(optimizer: str) -> None:
    drive, method = top_kast(optimizer)
    moved_outside_forward = 0
    backward = dict(method.backward)
    for before in drive.walk():
        for name, now in stored_weights(drive).items():
            inside, old = backward[name], before.stored[name]
            assert torch.equal(now[~inside], old[~inside]), before.step
            assert bool((now[inside] != old[inside]).any())
            explored = inside & ~magnitude_masks({name: old}, 0.75, "uniform")[name]
            moved_outside_forward += int((now[explored] != old[explored]).sum())
        backward.update(method.backward)
    assert moved_outside_forward > 0


@pytest.mark.parametrize("distribution", ["uniform", "global"])
def test_forward_and_backward_sets(distribution: Scope) -> None:
    drive, method = top_kast(distribution=distribution)
    changes = 0
    for before in drive.walk():
        weights = stored_weights(drive)
        forward = magnitude_masks(weights, 0.75, distribution)
        backward = magnitude_masks(weights, 0.5, distribution)
        for name in drive.weights:
            assert torch.equal(method.masks[name], forward[name])
            assert torch.equal(method.backward[name], backward[name])
            assert not bool((method.masks[name] & ~method.backward[name]).any())
            changes += int((before.masks[name] != forward[name]).any())
    assert changes > 0
    assert sum(method.kept().values()) == 90 - 67
    assert (list(method.kept().values()) == [5, 12, 6]) == (distribution == "uniform")


def test_the_gradient_is_taken_at_the_sparse_point() -> None:
    drive, _ = top_kast(exploration="none")
    drive.method.epoch_start(Step(0, 0, 5))
    point = drive.effective()
    assert sum(int((weight == 0).sum()) for weight in point.values()) == 14 - 1 + 36 + 18
    drive.loss(0).backward()
    gradients = {name: w.grad.clone() for name, w in drive.weights.items() if w.grad is not None}
    at_sparse_point = Drive(tiny_config("dense"))
    with torch.no_grad():
        for name, weight in at_sparse_point.weights.items():
            weight.copy_(point[name])
    at_sparse_point.loss(0).backward()
    for name, weight in at_sparse_point.weights.items():
        torch.testing.assert_close(gradients[name], weight.grad)


def test_between_refreshes_the_sets_hold_still() -> None:
    drive, method = top_kast(refresh_interval=4)
    backward = dict(method.backward)
    changed: list[int] = []
    for before in drive.walk():
        pairs = [(method.masks, before.masks), (method.backward, backward)]
        if any(not torch.equal(now[name], old[name]) for now, old in pairs for name in now):
            changed.append(before.step.iteration)
        backward.update(method.backward)
    assert changed
    assert all((iteration + 1) % 4 == 0 for iteration in changed)


@pytest.mark.parametrize(("optimizer", "count"), [("sgd", 1), ("adamw", 2), ("lamb", 2)])
def test_slots_outside_the_backward_set_are_zero(optimizer: str, count: int) -> None:
    drive, method = top_kast(optimizer)
    for _ in drive.walk():
        for name, weight in drive.weights.items():
            slots = optimizer_slots(drive.optimizer, weight)
            assert len(slots) == count
            assert not any(bool(slot[~method.backward[name]].any()) for slot in slots)


@pytest.mark.parametrize(("strength", "expected_strength"), [(None, 5e-4), (0.02, 0.02)])
@pytest.mark.parametrize("exploration", ["l2", "l1", "none"])
def test_pull_has_the_strength_of_weight_decay_or_its_own(
    exploration: str, strength: float | None, expected_strength: float
) -> None:
    drive, method = top_kast(exploration=exploration, exploration_strength=strength)
    weights = stored_weights(drive)
    for weight in drive.weights.values():
        weight.grad = torch.zeros_like(weight)
    method.before_step(Step(0, 0, 5))
    for name, weight in drive.weights.items():
        pull = weights[name].sign() if exploration == "l1" else weights[name]
        explored = method.backward[name] & ~method.masks[name]
        # The forward density is a quarter.
        factor = 1.0 if exploration == "none" else 4.0
        expected = expected_strength * pull * (method.masks[name] + factor * explored)
        torch.testing.assert_close(weight.grad, expected)


def test_dense_layers_keep_the_weight_decay() -> None:
    drive, method = top_kast(dense_layers=["first"], exploration_strength=0.02)
    (first,) = method.exempt
    drive.weights[first].grad = torch.zeros_like(drive.weights[first])
    for name in method.masks:
        drive.weights[name].grad = torch.zeros_like(drive.weights[name])
    decayed = 5e-4 * stored_weights(drive)[first]
    method.before_step(Step(0, 0, 5))
    torch.testing.assert_close(drive.weights[first].grad, decayed)


@pytest.mark.parametrize("refresh_interval", [1, 4])
@pytest.mark.parametrize(("explore_until", "epochs"), [(0.0, 0), (0.5, 2), (0.75, 3), (None, 4)])
def test_exploration_can_end_early(
    explore_until: float | None, epochs: int, refresh_interval: int
) -> None:
    drive, method = top_kast(explore_until=explore_until, refresh_interval=refresh_interval)
    for before in drive.walk():
        explores = before.step.epoch < epochs
        for name, mask in method.masks.items():
            assert torch.equal(method.backward[name], mask) != explores
            if not explores:
                moved = stored_weights(drive)[name] != before.stored[name]
                assert not bool((moved & ~before.masks[name]).any())
                assert not bool(drive.momentum()[name][~mask].any())
        densities = method.densities()
        assert (densities.gradient == densities.forward) != explores


def test_dense_layers_decay() -> None:
    drive, method = top_kast(dense_layers=["first", "last"])
    assert list(method.masks) == ["hidden.weight"]
    densities = method.densities()
    assert densities.forward == {"conv.weight": 1.0, "hidden.weight": 0.25, "out.weight": 1.0}
    assert densities.gradient == {"conv.weight": 1.0, "hidden.weight": 0.5, "out.weight": 1.0}
    weights = stored_weights(drive)
    for weight in drive.weights.values():
        weight.grad = torch.zeros_like(weight)
    method.before_step(Step(0, 0, 5))
    gradient = drive.weights["conv.weight"].grad
    torch.testing.assert_close(gradient, 5e-4 * weights["conv.weight"])


def test_regulariser_replaces_weight_decay() -> None:
    drive, _ = top_kast()
    decays = {group["name"]: group["weight_decay"] for group in drive.optimizer.param_groups}
    assert decays == {"prunable": 0.0, "other": 5e-4}


@pytest.mark.parametrize(
    ("sparsity", "backward"), [(0.95, 0.9), (0.9, 0.8), (0.98, 0.96), (0.75, 0.5), (0.4, 0.0)]
)
def test_default_backward_set(sparsity: float, backward: float) -> None:
    assert Settings().resolved_backward_sparsity(sparsity) == backward
