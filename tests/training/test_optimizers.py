"""Optimizers compute what their papers say, and act on masked weights as docs/methods.md states."""

from typing import Any

import pytest
import torch
from pytorch_optimizer.optimizer.lamb import Lamb
from torch import Tensor, nn

from acdc.config.recipe import Recipe
from acdc.distributed import Ranks
from acdc.methods.optimizer import optimizer_slots
from acdc.sparsity.layers import prunable_weights
from acdc.step import Step
from acdc.training.loop import Callbacks, train
from acdc.training.optimizers import build_optimizer, eager
from acdc.training.state import Engine, TrainState
from tests.support import METHOD_SETTINGS, OPTIMIZERS, Drive, TinyNet, stored_weights, tiny_config

OTHERS = list(OPTIMIZERS)


@pytest.mark.parametrize(
    ("kind", "keys"),
    [
        *(
            (torch.optim.SGD, {"momentum": momentum, "nesterov": nesterov})
            for momentum, nesterov in ((0.0, False), (0.9, False), (0.9, True))
        ),
        (torch.optim.AdamW, {}),
        (Lamb, {"weight_decouple": False, "adam_debias": True}),
    ],
)
def test_unwrapped_optimizers_are_the_same_to_the_bit(kind: Any, keys: dict[str, Any]) -> None:
    generator = torch.Generator().manual_seed(0)
    start = [torch.randn(4, 3, generator=generator), torch.randn(5, generator=generator)]
    ours, theirs = (
        this(
            [{"name": str(i), "params": [nn.Parameter(t.clone())]} for i, t in enumerate(start)],
            foreach=True,
            lr=0.1,
            weight_decay=1e-2,
            **keys,
        )
        for this in (eager(kind), kind)
    )
    for iteration in range(5):
        if iteration == 3:  # the states are interchangeable
            state = ours.state_dict()
            ours.load_state_dict(theirs.state_dict())
            theirs.load_state_dict(state)
        gradients = [torch.randn(t.shape, generator=generator) for t in start]
        for optimizer in (ours, theirs):
            optimizer.zero_grad(set_to_none=True)
            for group, gradient in zip(optimizer.param_groups, gradients, strict=True):
                assert group["params"][0].grad is None
                group["params"][0].grad = gradient.clone()
            optimizer.step()
        for one, other in zip(ours.param_groups, theirs.param_groups, strict=True):
            assert torch.equal(one["params"][0], other["params"][0])


@pytest.mark.parametrize("optimizer", ["sgd", *OTHERS])
def test_groups_and_hyperparameters_are_the_recipes(optimizer: str) -> None:
    more = {} if optimizer == "sgd" else {"betas": (0.8, 0.99)}
    recipe = Recipe(lr=0.3, weight_decay=0.2, optimizer=optimizer, **more)  # type: ignore[arg-type]
    model = TinyNet()
    groups = {group["name"]: group for group in build_optimizer(model, recipe).param_groups}
    weights = list(prunable_weights(model).values())
    assert all(a is b for a, b in zip(groups["prunable"]["params"], weights, strict=True))
    assert len(groups["other"]["params"]) == len(list(model.parameters())) - len(weights)
    for group in groups.values():
        assert (group["lr"], group["weight_decay"]) == (0.3, 0.2)
        assert group.get("betas", (0.8, 0.99)) == (0.8, 0.99)


class ReferenceLamb:
    """One tensor's LAMB as lamb.py of NVIDIA's Transformer-XL defines it, in double precision."""

    def __init__(self, weight: Tensor, recipe: Recipe) -> None:
        self.recipe = recipe
        self.average, self.square = (torch.zeros_like(weight.double()) for _ in range(2))

    def step(self, weight: Tensor, gradient: Tensor) -> Tensor:
        (b1, b2), gradient, weight = self.recipe.betas, gradient.double(), weight.double()
        self.average = b1 * self.average + (1 - b1) * gradient
        self.square = b2 * self.square + (1 - b2) * gradient**2
        update = self.average / (self.square.sqrt() + 1e-6) + self.recipe.weight_decay * weight
        norm, length = min(float(weight.norm()), 10.0), float(update.norm())
        ratio = norm / (length + 1e-6) if norm and length else 1.0
        return weight - self.recipe.lr * ratio * update


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_lamb_is_that_of_nvidias_transformer_xl(weight_decay: float) -> None:
    recipe = Recipe(optimizer="lamb", lr=0.1, weight_decay=weight_decay, betas=(0.8, 0.99))
    generator = torch.Generator().manual_seed(0)
    scales = {"norm above 10": 9.0, "norm below 10": 0.5, "zero": 0.0}
    net = nn.Module()
    for index, scale in enumerate(scales.values()):
        value = scale * torch.randn(4, 5, generator=generator)
        net.register_parameter(str(index), nn.Parameter(value))
    optimizer = build_optimizer(net, recipe)
    references = [ReferenceLamb(parameter, recipe) for parameter in net.parameters()]
    for _ in range(5):
        expected = []
        for parameter, reference in zip(net.parameters(), references, strict=True):
            parameter.grad = torch.randn(4, 5, generator=generator)
            expected.append(reference.step(parameter.detach(), parameter.grad))
        optimizer.step()
        for parameter, value in zip(net.parameters(), expected, strict=True):
            assert torch.allclose(parameter.double(), value, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("method", ["static", "rigl"])
def test_lambs_norms_are_of_the_whole_layer_as_it_is_stored(method: str) -> None:
    recipe = {"optimizer": "lamb", "lr": 0.1, "weight_decay": 0.1}
    drive = Drive(tiny_config(method, recipe=recipe), model=TinyNet())
    references = {n: ReferenceLamb(w, drive.config.recipe) for n, w in drive.weights.items()}
    expected: dict[str, Tensor] = {}

    def before(step: Step) -> None:
        stored = stored_weights(drive)
        for name, weight in drive.weights.items():
            gradient = weight.grad * drive.method.masks.get(name, torch.ones(()))
            expected[name] = references[name].step(stored[name], gradient)

    def after(step: Step) -> None:
        stored = stored_weights(drive)
        for name, value in expected.items():
            mask = drive.method.masks.get(name, torch.ones(()))
            kept = value * mask if method == "static" else value
            assert torch.allclose(stored[name].double(), kept, rtol=1e-4, atol=1e-6)
            assert torch.equal(drive.weights[name], stored[name] * mask)

    # RigL's first update takes the place of the very first step.
    first = 0 if method == "static" else 1
    drive.run(until=first)
    drive.run(after, before_step=before, first=first, until=first + 2)


@pytest.mark.parametrize("optimizer", OTHERS)
def test_a_grown_weight_starts_with_both_averages_at_zero(optimizer: str) -> None:
    settings = {"update_interval": 0.15, "drop_fraction": 0.6, "anneal": "constant"}
    drive = Drive(tiny_config("rigl", settings=settings, recipe=OPTIMIZERS[optimizer]))
    grown = kept = 0
    for before in drive.walk():
        if drive.stepped[-1] or before.step.iteration == 0:  # no update, or one before any step
            continue
        for name, mask in drive.method.masks.items():
            new = mask & ~before.masks[name]
            slots = optimizer_slots(drive.optimizer, drive.weights[name])
            assert len(slots) == 2
            assert all(not bool(slot[new].any()) for slot in slots)
            grown += int(new.sum())
            kept += sum(int((slot[mask & ~new] != 0).sum()) for slot in slots)
    assert grown
    assert kept


@pytest.mark.parametrize("optimizer", OTHERS)
def test_the_first_step_of_a_restored_weight_is_that_of_a_new_optimizer(optimizer: str) -> None:
    recipe = OPTIMIZERS[optimizer] | {"weight_decay": 0.0, "clip_norm": None, "lr": 0.005}
    settings = METHOD_SETTINGS["acdc"] | {"distribution": "uniform"}
    # Long enough for the averages of the pruned weights to decay.
    drive = Drive(tiny_config("acdc", settings=settings, recipe=recipe), batches=60)
    pruned: dict[str, Tensor] = {}
    start: dict[str, Tensor] = {}

    def before(step: Step) -> None:
        if step.epoch == 1:
            pruned.update({name: ~mask for name, mask in drive.method.masks.items()})
        start.update(drive.effective())

    drive.run(before_step=before, until=2 * 60 + 1)
    rate = drive.config.recipe.lr
    for name, weight in drive.weights.items():
        change = weight.detach() - start[name]
        if optimizer == "lamb":
            expected = ReferenceLamb(weight, drive.config.recipe).step(start[name], weight.grad)
            longest, length = rate * start[name].norm(), change.norm()
        else:
            expected = start[name] - rate * weight.grad / (weight.grad.abs() + 1e-8)
            longest, length = torch.tensor(rate), change.abs().max()
        assert torch.allclose(weight.double(), expected.double(), rtol=1e-4, atol=1e-7)
        assert float(length) <= float(longest) * 1.0001
        assert bool(pruned[name].any())
        assert bool(change[pruned[name] & (weight.grad != 0)].all())


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_clipping_counts_the_gradients_that_the_optimizer_receives(
    precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config(
        "static", model="resnet8_s4", precision=precision, recipe={"clip_norm": 1.4}
    )
    state = TrainState(config, Engine(), Ranks())
    state.begin()
    parameters = list(state.model.parameters())
    dense: list[float] = []
    masked: list[list[Tensor]] = []
    received: list[list[Tensor]] = []

    def gradients() -> list[Tensor]:
        return [p.grad.clone() for p in parameters if p.grad is not None]

    def norm(tensors: list[Tensor]) -> float:
        return sum(float(t.double().square().sum()) for t in tensors) ** 0.5

    mask, update = state.method.before_step, state.optimizer.step

    def before_step(step: Step) -> bool:
        dense.append(norm(gradients()))
        stepped = mask(step)
        masked.append(gradients())
        return stepped

    def optimizer_step() -> None:
        received.append(gradients())
        update()

    monkeypatch.setattr(state.method, "before_step", before_step)
    monkeypatch.setattr(state.optimizer, "step", optimizer_step)
    train(state, Callbacks(), Step(0, 0, state.batches))
    clipped = 0
    for whole, before, after in zip(dense, masked, received, strict=True):
        factor = min(1.0, 1.4 / norm(before))
        clipped += factor < 1
        assert norm(before) < whole
        for one, other in zip(before, after, strict=True):
            assert torch.allclose(factor * one, other, rtol=1e-4, atol=1e-8)
    assert 0 < clipped < len(received)
