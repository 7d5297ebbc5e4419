"""The measurements during training: what they are, and that training does not notice them."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from acdc.config.run import RunConfig
from tests.support import train
from theory import curvature, experiment, network
from theory.experiments import bridge
from theory.noise import stream
from theory.outcome import Outcome

SMALL: dict[str, Any] = {
    "model": "resnet6_w32_s8", "dataset": "fashion_mnist_1k", "schedule": "cifar-20", "epochs": 12,
    "trials": 2, "images": 8, "recipe": {"batch_size": 500, "lr": 0.1}}  # fmt: skip
"""Ten phases in twelve epochs of two batches."""


def settings(**changes: Any) -> bridge.Settings:
    found = experiment.parse("bridge", SMALL | changes)
    return found


def first_run() -> RunConfig:
    mine = settings()
    return mine.config(mine.model, mine.sparsity, 1)


@pytest.fixture(scope="module")
def outcome() -> Outcome:
    return bridge.run(settings())


def test_training_does_not_notice_that_it_is_measured(tmp_path: Path) -> None:
    config = first_run()
    chosen = torch.arange(8)
    for epoch, trainer in network.train(config):
        buffers = {name: buffer.clone() for name, buffer in trainer.model.named_buffers()}
        state = torch.get_rng_state()
        if epoch in (3, 7):
            point = network.Point(trainer, chosen, epoch)
            point.hessian @ point.gradient
        assert torch.equal(torch.get_rng_state(), state)
        for name, buffer in trainer.model.named_buffers():
            assert torch.equal(buffer, buffers[name])
        measured = trainer.model.state_dict()
    train(config, tmp_path)
    alone = load_file(tmp_path / config.run_name / "sparse_last.safetensors")
    assert set(alone) == set(measured)
    for name, tensor in measured.items():
        assert torch.equal(tensor, alone[name]), name


def test_a_point_is_the_loss_of_one_batch_and_its_gradient() -> None:
    epoch, trainer = next(network.train(first_run()))
    chosen = torch.tensor([5, 3, 8, 1, 0, 2, 9])
    point = network.Point(trainer, chosen, epoch)
    inputs, labels = trainer.loader.samples(chosen)
    trainer.model.train()
    outputs = trainer.model(inputs)
    loss = -outputs.log_softmax(1)[torch.arange(7), labels].mean()
    found = torch.autograd.grad(loss, list(trainer.weights.values()))
    gradient = torch.cat([part.reshape(-1) for part in found]).double()
    assert point.loss == pytest.approx(float(loss.detach()), rel=1e-5)
    assert point.norm2 == pytest.approx(float(gradient.square().sum()), rel=1e-4)
    assert (point.gradient - gradient).abs().max() < 1e-5 * gradient.abs().max() + 1e-7
    weights = torch.cat([weight.detach().reshape(-1) for weight in trainer.weights.values()])
    assert set(point.kept(50).nonzero().flatten().tolist()) == set(
        weights.abs().topk(50).indices.tolist()
    )
    layerwise = point.layerwise(stream(0)).split_with_sizes(point.sizes)
    for mine, theirs in zip(layerwise, gradient.split_with_sizes(point.sizes), strict=True):
        assert float(mine.norm()) == pytest.approx(float(theirs.norm()), rel=1e-4)


def test_the_share_of_the_kept_weights_is_that_of_a_sort() -> None:
    epoch, trainer = next(network.train(first_run()))
    point = network.Point(trainer, torch.arange(16), epoch)
    gradient, weights = point.gradient.numpy(), np.abs(point.weights.numpy())
    for k in (50, 900):
        share = np.sum(gradient[np.argsort(-weights)[:k]] ** 2) / np.sum(gradient**2)
        found = network.first_order(point, {"kept": k}, stream(0))
        assert found["on_kept"] == pytest.approx(share, rel=1e-6)
        assert found["alpha"] == pytest.approx(
            2 * np.sort(gradient**2)[::-1][:k].sum() / point.loss, rel=1e-6
        )


def flattened(parts: list[torch.Tensor], loss: torch.Tensor) -> network.Point:
    """Return a point of a loss of one's own."""
    point = object.__new__(network.Point)
    point.loss = float(loss.detach())
    point.hessian = curvature.Hessian(loss, parts)
    point.gradient = point.hessian.gradient
    point.weights = curvature.flat(parts)
    point.sizes = [part.numel() for part in parts]
    return point


@pytest.mark.parametrize("scale", [0.0, 1.0])
def test_a_loss_that_is_flat_in_the_kept_weights_is_measured(scale: float) -> None:
    # The four largest weights do not enter; with scale 0 neither gradient nor loss is left.
    weights = torch.tensor([9.0, 8.0, 7.0, 6.0, 1.0, 2.0, 3.0, 0.5], requires_grad=True)
    point = flattened([weights], scale * weights[4:].pow(3).sum())
    found = network.first_order(point, {"kept": 4}, stream(0))
    found |= network.second_order(point, {"kept": 4}, found, 1, stream(0))
    assert found["curvature_kept"] == 0.0
    if scale:
        assert found["on_kept"] == 0.0
        assert found["curvature_all"] == pytest.approx(18.0, rel=1e-4)
    else:
        unknown = ("on_kept", "cpl_kept", "alpha_kept", "sparse_to_all", "asked_kept")
        assert all(math.isnan(found[name]) for name in unknown)
        assert found["beta"] == 0.0


def test_epochs_without_a_denominator_are_left_out_and_told(outcome: Outcome) -> None:
    config = first_run()
    total = sum(layer.size for layer in config.layers.values())
    counts = {"0.01": round(0.01 * total), "kept": bridge.kept(config)}
    rows = [dict(row) for row in outcome.trials]
    first = next(row for row in rows if row["phase"] == "dense")
    first |= {"cpl_kept": math.nan, "layerwise_kept": 0.0}
    at_end = next(row for row in rows if not math.isnan(row["curvature_all"]))
    at_end |= {"sparse_to_all": math.nan, "asked_0.01": math.nan, "asked_kept": math.nan}
    again = Outcome("bridge", settings())
    again.trials = rows
    bridge.judge(again, counts, total)
    found = {each.id: each for each in again.statements}
    for name in ("concentration_dense", "concentration_beyond_layers", "phases_alike"):
        assert "Left out: 1 epochs" in found[name].note
        assert math.isfinite(found[name].measured.value)
    for name in ("sparse_smoothness", "condition"):
        assert "Left out: 1 epochs" in found[name].note
    assert "Left out" not in found["concentration_sparse"].note
    assert not any("Left out" in each.note for each in outcome.statements)


def test_ratios_to_nothing_are_unknown() -> None:
    assert network.ratio(3.0, 2.0) == 1.5
    for bottom in (0.0, -1.0, math.nan):
        assert math.isnan(network.ratio(1.0, bottom))
    assert math.isnan(network.concentration(torch.zeros(4), 2))


def test_concentration_by_hand() -> None:
    vector = torch.tensor([1.0, -3.0, 0.0, 2.0])
    assert [network.concentration(vector, k) for k in (1, 2, 4)] == pytest.approx(
        [9 / 14, 13 / 14, 1.0]
    )


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5, 0.9])
def test_gaussian_concentration_is_that_of_a_long_gaussian_vector(share: float) -> None:
    n = 50_000
    drawn = torch.randn(n, dtype=torch.float64, generator=stream(0))
    sampled = network.concentration(drawn, round(share * n))
    assert network.gaussian_concentration(share) == pytest.approx(sampled, rel=0.02)


def test_rows_cover_the_epochs_and_curvatures_the_ends_of_phases(outcome: Outcome) -> None:
    rows = outcome.trials
    assert [(row["seed"], row["iterations"]) for row in rows] == [
        (seed, epoch) for seed in (1, 2) for epoch in range(1, 13)
    ]
    sparse = [row["iterations"] for row in rows[:12] if row["phase"] == "sparse"]
    assert sparse == [2, 4, 6, 7, 9, 11, 12]
    ends = [row["iterations"] for row in rows[:12] if not math.isnan(row["curvature_all"])]
    assert ends == [1, 2, 3, 4, 5, 7, 8, 9, 10, 12]
    for row in rows:
        assert row["cpl_0.01"] <= row["cpl_0.05"] <= row["cpl_kept"] <= 1.0
        assert row["on_kept"] <= row["cpl_kept"]
        assert row["alpha_kept"] == pytest.approx(
            2.0 * row["cpl_kept"] * row["gradient2"] / row["gap"]
        )
        if not math.isnan(row["curvature_all"]):
            # Cauchy's interlacing, up to the tolerance of Lanczos' iteration.
            sparse_ones = [row[f"curvature_{name}"] for name in ("kept", "leading", "gradient")]
            assert max(sparse_ones) <= 1.01 * row["curvature_all"]
            assert row["beta"] >= max(sparse_ones)
            asked = 160 * 0.05 * (row["beta"] / row["alpha_0.05"]) ** 2
            assert row["asked_0.05"] == pytest.approx(asked, rel=0.01)


def test_the_figure_has_every_line_and_the_sparse_phases(outcome: Outcome) -> None:
    panels = list(dict.fromkeys(row["panel"] for row in outcome.series))
    assert panels == ["cpl", "alpha", "smoothness", "condition"]
    shaded = [
        (row["x"], row["y"])
        for row in outcome.series
        if row["role"] == "phase" and row["panel"] == "cpl"
    ]
    assert shaded == [(1, 2), (3, 4), (5, 7), (8, 9), (10, 12)]
    lines = {row["line"] for row in outcome.series if row["panel"] == "smoothness"}
    assert len(lines) == len(bridge._CURVATURES) + 1
    for row in outcome.series:
        if row["role"] == "measured":
            assert row["low"] <= row["y"] * (1 + 1e-9)
            assert row["y"] <= row["high"] * (1 + 1e-9)


def test_statements_summarise_the_rows(outcome: Outcome) -> None:
    found = {statement.id: statement for statement in outcome.statements}
    ratios = []
    for seed in (1, 2):
        mine = [row for row in outcome.trials if row["seed"] == seed and row["phase"] == "dense"]
        ratios.append(np.mean([row["cpl_kept"] / row["gaussian_kept"] for row in mine]))
    assert found["concentration_dense"].measured.value == pytest.approx(np.sqrt(np.prod(ratios)))
    assert all(statement.trials == 2 for statement in outcome.statements)
    assert found["sparse_smoothness"].measured.value <= 1.01
    least = [
        min(
            row[f"asked_{name}"]
            for row in outcome.trials
            for name in ("0.01", "0.05", "kept")
            if row["seed"] == seed and not math.isnan(row["beta"])
        )
        for seed in (1, 2)
    ]
    assert found["condition"].measured.value == pytest.approx(np.sqrt(np.prod(least)))
    assert "Nothing here verifies" in found["condition"].note


def test_a_run_that_diverges_is_counted() -> None:
    found = bridge.run(settings(recipe={"batch_size": 500, "lr": 1e30}))
    assert [row["status"] for row in found.trials].count("diverged") == 2
    for statement in found.statements:
        assert statement.diverged == 2
        assert statement.verdict == "does not hold"
