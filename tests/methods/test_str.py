"""STR's forward pass, gradients and thresholds are those of the original."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from acdc.step import Step
from baselines.str import STR, soft_threshold, soft_threshold_gradients
from tests.support import Drive, hashval, tiny_config


@pytest.mark.parametrize("s", [-200.0, -3.0, -1.0, 0.5])
def test_gradients_are_those_of_automatic_differentiation(s: float) -> None:
    weight = hashval((5, 7), 11)
    weight[0, :3] = 0.0
    weight.requires_grad_()
    scalar = torch.tensor(s, requires_grad=True)
    gradient = hashval((5, 7), 12)
    soft_threshold(weight, scalar).backward(gradient)
    with torch.no_grad():
        of_weight, of_s = soft_threshold_gradients(weight, scalar, gradient)
    assert torch.equal(of_weight, weight.grad)
    torch.testing.assert_close(of_s, scalar.grad)


def drive_str(**changes: Any) -> Drive:
    settings = {"s_init": -2.5} | changes.pop("settings", {})
    return Drive(tiny_config("str", settings=settings, **changes))


def method(drive: Drive) -> STR:
    return drive.method


def test_parameters_are_effective_weights() -> None:
    drive = drive_str()
    pruned = 0
    for _ in drive.walk():
        for name, weight in drive.weights.items():
            stored, mask = method(drive).dense[name], drive.method.masks[name]
            expected = soft_threshold(stored, method(drive).thresholds[name].detach())
            assert torch.equal(weight.detach(), expected)
            assert torch.equal(mask, stored.abs() > method(drive).thresholds[name].sigmoid())
            pruned += int((~mask).sum())
    assert pruned > 0


def test_steps_equal_autograd_through_the_threshold() -> None:
    drive = drive_str(settings={"st_decay": 0.01})
    recipe = drive.config.recipe
    stored = {n: w.clone().requires_grad_() for n, w in method(drive).dense.items()}
    thresholds = {n: torch.tensor(-2.5, requires_grad=True) for n in stored}
    others = [p for n, p in drive.model.named_parameters() if n not in stored]
    twins = [p.detach().clone().requires_grad_() for p in others]
    names = [n for n, _ in drive.model.named_parameters() if n not in stored]
    reference = torch.optim.SGD(
        [
            {"params": [*stored.values(), *twins], "weight_decay": recipe.weight_decay},
            {"params": list(thresholds.values()), "weight_decay": 0.01},
        ],
        lr=recipe.lr,
        momentum=recipe.momentum,
    )

    def look(step: Step) -> None:
        inputs, labels = drive.batch(step.iteration)
        parameters: dict[str, Tensor] = {
            n: soft_threshold(w, thresholds[n]) for n, w in stored.items()
        }
        parameters |= dict(zip(names, twins, strict=True))
        outputs = torch.func.functional_call(drive.model, parameters, (inputs,))
        reference.zero_grad()
        nn.functional.cross_entropy(outputs, labels).backward()
        reference.step()
        for name, weight in stored.items():
            torch.testing.assert_close(method(drive).dense[name], weight.detach())
            torch.testing.assert_close(
                method(drive).thresholds[name].detach(), thresholds[name].detach()
            )

    drive.run(look)
    assert any(float(s.detach()) != -2.5 for s in thresholds.values())


@pytest.mark.parametrize("st_decay", [None, 0.0, 0.25])
def test_weight_decay_of_thresholds(st_decay: float | None) -> None:
    drive = drive_str(settings={"s_init": -3200.0, "st_decay": st_decay})
    group = drive.optimizer.param_groups[-1]
    assert group["name"] == "thresholds"
    decay = drive.config.recipe.weight_decay if st_decay is None else st_decay
    assert group["weight_decay"] == decay
    # At this s the loss gives no gradient: the first two steps follow by hand.
    drive.run()
    rate, momentum = drive.config.recipe.lr, drive.config.recipe.momentum
    s, velocity = -3200.0, 0.0
    for _ in range(20):
        velocity = momentum * velocity + decay * s
        s -= rate * velocity
    for value in method(drive).thresholds.values():
        assert float(value.detach()) == pytest.approx(s, rel=1e-5)


def test_far_below_zero_the_thresholds_change_nothing() -> None:
    drive = drive_str(settings={"s_init": -3200.0})
    dense = Drive(tiny_config("dense"))
    assert drive.run().losses == dense.run().losses
    assert drive.method.phase(Step(0, 4, 5)) == "dense"


def test_dense_layers_have_no_threshold() -> None:
    drive = drive_str(settings={"dense_layers": ["first", "last"], "s_init": 0.0}).run()
    assert list(method(drive).thresholds) == ["hidden.weight"]
    assert drive.method.exempt == ("conv.weight", "out.weight")
    assert int((drive.weights["conv.weight"] == 0).sum()) == 0


def test_any_sparsity_holds_and_only_the_last_epoch_is_a_candidate() -> None:
    drive = drive_str()
    kept = sum(drive.method.kept().values())
    far = drive_str(sparsity=round(1 - kept / 90, 3) + 0.1)
    assert far.method.sparsity_tolerance == 1
    for epoch, product, phase in ((0, None, "ramp"), (3, "sparse", "sparse")):
        assert far.method.product(Step(epoch, 4, 5)) == product
        assert far.method.phase(Step(epoch, 4, 5)) == phase
