"""The first restore: gradients of dead filters worked out by hand, and the library's own steps."""

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from acdc.step import Step
from acdc.training import loop
from tests.theory.support import outcome_of
from theory import experiment, network
from theory.experiments import restore
from theory.outcome import Outcome

SMALL: dict[str, Any] = {
    "models": ["resnet6_w32_s8"], "dataset": "fashion_mnist_1k", "schedule": "cifar-20",
    "epochs": 12, "sparsities": [0.9, 0.95], "trials": 2, "recipe": {"batch_size": 250, "lr": 0.1}
}  # fmt: skip
"""The first sparse phase is the second of twelve epochs, of four batches each."""


def settings(**changes: Any) -> restore.Settings:
    found = experiment.parse("restore", SMALL | changes)
    return found


@pytest.fixture(scope="module")
def outcome() -> Outcome:
    return restore.run(settings())


X = torch.tensor([[1.0, 0.5], [2.0, -1.0], [4.0, 0.0]], dtype=torch.float64)
C = torch.tensor([1.0, 0.0, -2.0], dtype=torch.float64)
"""Three images of two channels and one pixel, and the slopes of the loss in the outputs."""


def chain(blind: bool) -> nn.Module:
    """Return two convolutions with batch normalisation, the first of the first's filters dead."""
    model = nn.Sequential(
        *(nn.Conv2d(2, 2, 1, bias=False), nn.BatchNorm2d(2)),
        *(nn.Conv2d(2, 1, 1, bias=False), nn.BatchNorm2d(1)),
    ).double()
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[0.0, 0.0], [1.0, -0.5]])[..., None, None])
        model[1].weight.copy_(torch.tensor([0.5, 2.0]))
        model[2].weight.copy_(torch.tensor([[3.0, 0.0 if blind else 1.0]])[..., None, None])
        model[3].weight.fill_(1.5)
    return model


def loss(model: nn.Module) -> Tensor:
    return (model(X[..., None, None]).flatten() * C).sum()


@pytest.mark.parametrize("eps", [1e-5, 1e-3, 0.1])
def test_a_dead_filter_before_the_loss_by_hand(eps: float) -> None:
    first = nn.Sequential(*list(chain(blind=True).children())[:2])
    found = restore.filters_at(first, lambda m: (m(X[..., None, None])[:, 0, 0, 0] * C).sum(), eps)
    assert found.dead.tolist() == [True, False]
    assert found.weight.tolist() == pytest.approx([0.0, math.sqrt(1.25)])
    # The output is constant: normalisation takes away the mean and multiplies by gamma / sqrt(eps).
    by_hand = 0.5 / math.sqrt(eps) * np.linalg.norm((C - C.mean()).numpy() @ X.numpy())
    assert found.gradient.tolist() == pytest.approx([by_hand, 0.0], rel=1e-9)


@pytest.mark.parametrize("eps", [1e-5, 1e-3, 0.1])
def test_a_dead_filter_before_one_that_sees_nothing_else_by_hand(eps: float) -> None:
    found = restore.filters_at(chain(blind=True), loss, eps)
    assert found.dead.tolist() == [True, False, False]
    # Both outputs are constant: gamma / sqrt(eps) twice, and the weight between them.
    by_hand = 0.5 * 3.0 * 1.5 / eps * np.linalg.norm((C - C.mean()).numpy() @ X.numpy())
    assert float(found.gradient[0]) == pytest.approx(by_hand, rel=1e-9)


@pytest.mark.parametrize("eps", [1e-5, 1e-2])
def test_gradients_are_those_of_differences(eps: float) -> None:
    model = chain(blind=False)
    found = restore.filters_at(model, loss, eps)
    model[1].eps = model[3].eps = eps
    for index, (layer, row) in enumerate([(0, 0), (0, 1), (2, 0)]):
        weight, slopes = model[layer].weight.data, []
        for column in range(2):
            ends = []
            for move in (1e-7, -1e-7):
                weight[row, column] += move
                ends.append(float(loss(model).detach()))
                weight[row, column] -= move
            slopes.append((ends[0] - ends[1]) / 2e-7)
        assert float(found.gradient[index]) == pytest.approx(np.linalg.norm(slopes), rel=1e-3)


def test_the_network_is_left_as_it_was() -> None:
    model = chain(blind=False).eval()
    before = copy.deepcopy(model.state_dict())
    restore.filters_at(model, loss, 0.1)
    assert model[1].eps == model[3].eps == 1e-5
    assert not model.training
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_exponents_are_those_of_one_or_two_constant_outputs() -> None:
    config = settings().config("resnet6_w32_s8", 0.95, 1)
    (row, last), _ = restore.at_restore(config, (1e-9, 1e-8))
    assert row["dead_reached"] > 1
    assert row["exponent"] == pytest.approx(-0.5, abs=1e-3)
    assert min(abs(row["exponent_max"] + each) for each in (0.5, 1.0)) < 1e-3
    assert math.isnan(last["exponent"])


def test_gradient_and_jump_are_those_of_the_step_that_training_makes() -> None:
    config = settings().config("resnet6_w32_s8", 0.95, 1)
    (row, *_), _ = restore.at_restore(config, (1e-3, 1e-2))
    epoch, state = next(each for each in network.train(config) if each[0] == 2)
    weights = {name: weight for name, weight in state.weights.items() if weight.dim() == 4}
    before = [weight.detach().flatten(1).norm(dim=1) for weight in weights.values()]
    loop.begin_epoch(state, epoch)
    step = Step(epoch, 0, state.batches)
    state.model.train()
    loop.train_step(state, step, *next(iter(state.loader.training(epoch, 0))), 0)
    after = [weight.detach().flatten(1).norm(dim=1) for weight in weights.values()]
    gradients = [w.grad.flatten(1).norm(dim=1) for w in weights.values() if w.grad is not None]
    dead, live = torch.cat(before) == 0, torch.cat(before) > 0
    found = torch.cat(gradients)
    assert row["iterations"] == 2
    assert (row["dead"], row["live"]) == (int(dead.sum()), int(live.sum()))
    assert row["dead_max"] == pytest.approx(float(found[dead].max()), rel=1e-4)
    assert row["live_max"] == pytest.approx(float(found[live].max()), rel=1e-4)
    jump = torch.cat(after)[dead].max() / torch.cat(before)[live].median()
    assert row["jump"] == pytest.approx(float(jump), rel=1e-4)


def test_the_dense_phase_that_sparsities_share_changes_nothing(outcome: Outcome) -> None:
    alone, _ = restore.at_restore(settings().config("resnet6_w32_s8", 0.95, 2), settings().eps)
    shared = [row for row in outcome.trials if (row["sparsity"], row["seed"]) == (0.95, 2)]
    assert [row | shared[0] for row in alone] == [row | shared[0] for row in shared]
    for one, other in zip(alone, shared, strict=True):
        assert all(other[key] == pytest.approx(one[key], nan_ok=True) for key in one)


def test_summary_leaves_out_filters_without_gradient() -> None:
    dead = torch.tensor([True, True, True, False, False])
    gradient = torch.tensor([0.0, 5.0, 7.0, 2.0, 0.0])
    assert restore.summary(restore.Filters(dead, gradient, gradient)) == {
        **{"dead": 3, "dead_reached": 2, "dead_median": 5.0, "dead_max": 7.0},
        **{"live": 2, "live_reached": 1, "live_median": 2.0, "live_max": 2.0},
    }
    none = restore.summary(restore.Filters(torch.zeros(2, dtype=torch.bool), *[torch.ones(2)] * 2))
    assert none["dead"] == 0
    assert "dead_max" not in none


def test_statements_and_lines_follow_from_the_rows(outcome: Outcome) -> None:
    name = "resnet6_w32_s8"
    assert [(row["seed"], row["sparsity"], row["eps"]) for row in outcome.trials] == [
        (seed, sparsity, eps)
        for seed in (1, 2)
        for sparsity in (0.9, 0.95)
        for eps in (1e-5, 1e-4, 1e-3, 1e-2)
    ]
    first = [row for row in outcome.trials if row["eps"] == 1e-5]
    found = {each.id.removesuffix(f"_{name}"): each for each in outcome.statements}
    assert set(found) == {"square_root", "inverse", "larger", "jump", "no_jump"}
    for key, eps in (("jump", 1e-5), ("no_jump", 1e-2)):
        jumps = [
            max(
                (r["dead_max"], r["jump"]) for r in outcome.trials if (r["seed"], r["eps"]) == each
            )[1]
            for each in ((1, eps), (2, eps))
        ]
        assert found[key].measured.value == pytest.approx(math.sqrt(math.prod(jumps)))
    distances = [
        abs(0.5 + np.median([row["exponent"] for row in first if row["seed"] == seed]))
        for seed in (1, 2)
    ]
    assert found["square_root"].measured.value == pytest.approx(np.mean(distances))
    for panel in (f"{name}_0.9", f"{name}_0.95"):
        drawn = [row for row in outcome.series if row["panel"] == panel]
        at = {(row["line"], row["x"]): row for row in drawn if row["role"] == "measured"}
        for row in outcome.trials:
            if f"{name}_{row['sparsity']:g}" == panel and row["dead_reached"]:
                point = at["dead, largest", row["eps"]]
                assert point["low"] <= row["dead_max"] <= point["high"]


def test_a_network_without_dead_filters_decides_nothing() -> None:
    found = outcome_of("restore", **SMALL | {"models": ["resnet8_s4"], "sparsities": [0.05]})
    assert {row["dead"] for row in found.trials} == {0}
    assert {each.verdict for each in found.statements} == {"undecided"}
    assert {row["line"] for row in found.series} == {"live, median"}


def test_a_run_that_diverges_is_counted() -> None:
    found = restore.run(settings(recipe={"batch_size": 500, "lr": 1e30}))
    assert {row["status"] for row in found.trials} == {"diverged"}
    assert {(each.diverged, each.verdict) for each in found.statements} == {(2, "does not hold")}
