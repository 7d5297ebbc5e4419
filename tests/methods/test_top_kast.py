"""Top-KAST follows its definition: top D forward, D + M backward, gradient at the sparse point."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from acdc.sparsity.selection import magnitude_masks
from acdc.step import Step
from baselines.top_kast import (
    Exploration,
    Settings,
    TopKAST,
    exploration_gradient,
    exploration_penalty,
)
from tests.support import Drive, hashval, tiny_config


def settings(**changes: Any) -> dict[str, Any]:
    return {"backward_sparsity": 0.5, "dense_layers": []} | changes


@pytest.mark.parametrize("exploration", ["l2", "l1"])
def test_the_gradient_of_the_penalty_is_its_derivative(exploration: Exploration) -> None:
    weight = hashval((8, 10), 81).double().requires_grad_()
    backward = magnitude_masks({"": weight}, 0.5, "uniform")[""]
    forward = magnitude_masks({"": weight}, 0.8, "uniform")[""]
    exploration_penalty(weight, forward, backward, 0.2, exploration).backward()
    gradient = exploration_gradient(weight.detach(), forward, backward, 0.2, exploration)
    assert weight.grad is not None
    torch.testing.assert_close(gradient, weight.grad)


def top_kast(**changes: Any) -> Drive:
    return Drive(tiny_config("top_kast", sparsity=0.75, settings=settings(**changes)))


def stored(drive: Drive) -> dict[str, Tensor]:
    """Return the stored weights: the effective ones and what is parked."""
    method = drive.method
    assert isinstance(method, TopKAST)
    return {
        name: weight.detach() + method.stored.parked.get(name, torch.zeros(()))
        for name, weight in drive.weights.items()
    }


def test_only_the_backward_set_moves() -> None:
    drive = top_kast()
    method = drive.method
    assert isinstance(method, TopKAST)
    before: dict[str, Tensor] = {}
    backward: dict[str, Tensor] = {}
    moved_outside_forward = 0

    def prepare(step: Step) -> None:
        before.update({name: weight.clone() for name, weight in stored(drive).items()})
        backward.update(method.backward)

    def look(step: Step) -> None:
        nonlocal moved_outside_forward
        for name, now in stored(drive).items():
            inside = backward[name]
            assert torch.equal(now[~inside], before[name][~inside]), step
            assert bool((now[inside] != before[name][inside]).any())
            explored = inside & ~forward_of(name)
            moved_outside_forward += int((now[explored] != before[name][explored]).sum())

    def forward_of(name: str) -> Tensor:
        return magnitude_masks({name: before[name]}, 0.75, "uniform")[name]

    drive.run(look, before_step=prepare)
    assert moved_outside_forward > 0


def test_forward_and_backward_sets() -> None:
    drive = top_kast()
    method = drive.method
    assert isinstance(method, TopKAST)
    changes = 0
    last = dict(method.masks)

    def look(step: Step) -> None:
        nonlocal changes
        weights = stored(drive)
        forward = magnitude_masks(weights, 0.75, "uniform")
        backward = magnitude_masks(weights, 0.5, "uniform")
        for name, weight in drive.weights.items():
            assert torch.equal(method.masks[name], forward[name])
            assert torch.equal(method.backward[name], backward[name])
            assert not bool((method.masks[name] & ~method.backward[name]).any())
            assert torch.equal(weight.detach(), weights[name] * forward[name])
            changes += int((last[name] != forward[name]).any())
        last.update(method.masks)

    drive.run(look)
    assert changes > 0


def test_the_gradient_is_taken_at_the_sparse_point() -> None:
    drive = top_kast(exploration="none")
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
        assert weight.grad is not None
        torch.testing.assert_close(gradients[name], weight.grad)


def test_between_refreshes_the_sets_hold_still() -> None:
    drive = top_kast(refresh_interval=4)
    method = drive.method
    assert isinstance(method, TopKAST)
    last = dict(method.masks), dict(method.backward)
    changed: list[int] = []

    def look(step: Step) -> None:
        nonlocal last
        now = dict(method.masks), dict(method.backward)
        if any(not torch.equal(a[n], b[n]) for a, b in zip(now, last, strict=True) for n in a):
            changed.append(step.iteration)
        last = now

    drive.run(look)
    assert changed
    assert all((iteration + 1) % 4 == 0 for iteration in changed)


def test_momentum_outside_the_backward_set_is_zero() -> None:
    drive = top_kast()
    method = drive.method
    assert isinstance(method, TopKAST)

    def look(step: Step) -> None:
        for name, buffer in drive.momentum().items():
            assert bool((buffer[~method.backward[name]] == 0).all())

    drive.run(look)


@pytest.mark.parametrize("exploration", ["l2", "l1", "none"])
def test_pull_has_the_strength_of_weight_decay(exploration: str) -> None:
    drive = top_kast(exploration=exploration)
    method = drive.method
    assert isinstance(method, TopKAST)
    weights = stored(drive)
    for weight in drive.weights.values():
        weight.grad = torch.zeros_like(weight)
    method.before_step(Step(0, 0, 5))
    for name, weight in drive.weights.items():
        pull = weights[name].sign() if exploration == "l1" else weights[name]
        explored = method.backward[name] & ~method.masks[name]
        # The forward density is a quarter.
        factor = 1.0 if exploration == "none" else 4.0
        expected = 5e-4 * pull * (method.masks[name] + factor * explored)
        assert weight.grad is not None
        torch.testing.assert_close(weight.grad, expected)


def test_global_sets_rank_all_layers_together() -> None:
    drive = top_kast(distribution="global")
    method = drive.method
    assert isinstance(method, TopKAST)

    def look(step: Step) -> None:
        weights = stored(drive)
        forward = magnitude_masks(weights, 0.75, "global")
        backward = magnitude_masks(weights, 0.5, "global")
        assert sum(method.kept().values()) == 90 - 67
        for name in weights:
            assert torch.equal(method.masks[name], forward[name])
            assert torch.equal(method.backward[name], backward[name])
            assert not bool((method.masks[name] & ~method.backward[name]).any())

    drive.run(look)
    assert len({float(mask.float().mean()) for mask in method.masks.values()}) > 1


@pytest.mark.parametrize("refresh_interval", [1, 4])
@pytest.mark.parametrize(("explore_until", "epochs"), [(0.0, 0), (0.5, 2), (0.75, 3), (None, 4)])
def test_exploration_can_end_before_training_does(
    explore_until: float | None, epochs: int, refresh_interval: int
) -> None:
    drive = top_kast(explore_until=explore_until, refresh_interval=refresh_interval)
    method = drive.method
    assert isinstance(method, TopKAST)
    before: dict[str, Tensor] = {}

    def prepare(step: Step) -> None:
        before.update({name: weight.clone() for name, weight in stored(drive).items()})
        before.update({f"mask of {name}": mask for name, mask in method.masks.items()})

    def look(step: Step) -> None:
        explores = step.epoch < epochs
        for name, mask in method.masks.items():
            assert torch.equal(method.backward[name], mask) != explores
            if not explores:
                moved = stored(drive)[name] != before[name]
                assert not bool((moved & ~before[f"mask of {name}"]).any())
                assert not bool(drive.momentum()[name][~mask].any())
        densities = method.densities()
        assert (densities.gradient == densities.forward) != explores

    drive.run(look, before_step=prepare)


def test_dense_layers_decay() -> None:
    drive = top_kast(dense_layers=["first", "last"])
    method = drive.method
    assert list(method.masks) == ["hidden.weight"]
    densities = method.densities()
    assert densities.forward == {"conv.weight": 1.0, "hidden.weight": 0.25, "out.weight": 1.0}
    assert densities.gradient == {"conv.weight": 1.0, "hidden.weight": 0.5, "out.weight": 1.0}
    weights = stored(drive)
    for weight in drive.weights.values():
        weight.grad = torch.zeros_like(weight)
    method.before_step(Step(0, 0, 5))
    gradient = drive.weights["conv.weight"].grad
    assert gradient is not None
    torch.testing.assert_close(gradient, 5e-4 * weights["conv.weight"])


def test_regulariser_replaces_weight_decay() -> None:
    drive = top_kast()
    decays = {group["name"]: group["weight_decay"] for group in drive.optimizer.param_groups}
    assert decays == {"prunable": 0.0, "other": 5e-4}


@pytest.mark.parametrize(
    ("sparsity", "backward"), [(0.95, 0.9), (0.9, 0.8), (0.98, 0.96), (0.75, 0.5), (0.4, 0.0)]
)
def test_default_backward_set(sparsity: float, backward: float) -> None:
    assert Settings().resolved_backward_sparsity(sparsity) == backward
