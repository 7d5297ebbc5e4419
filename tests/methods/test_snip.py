"""SNIP prunes once, before training, the weights whose removal changes the loss the least."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from acdc import seeds
from acdc.data import DATASETS
from acdc.distributed import Ranks
from acdc.models import build_model
from acdc.sparsity.layers import prunable_weights
from acdc.training.state import Engine, TrainState
from tests.support import Drive, brute_force_top_k, tiny_config


def snip(**changes: Any) -> Drive:
    return Drive(tiny_config("snip", **changes))


@pytest.mark.parametrize(
    ("dense_layers", "sparsity"),
    [((), 0.75), ((), 0.9), (("first",), 0.75), (("first", "last"), 0.5)],
)
def test_masks_keep_the_largest_sensitivities(
    dense_layers: tuple[str, ...], sparsity: float
) -> None:
    drive = snip(sparsity=sparsity, settings={"dense_layers": dense_layers})
    untouched = Drive(tiny_config("dense"))
    (gradients,) = untouched.gradients(1, 100, training=True)
    scores = {
        name: (weight.detach() * gradients[name]).abs()
        for name, weight in untouched.weights.items()
        if name in drive.method.masks
    }
    total = sum(score.numel() for score in scores.values())
    assert total == 90 - ("first" in dense_layers) * 18 - ("last" in dense_layers) * 24
    kept = total - math.floor(sparsity * total)
    masks = {name: mask.reshape(-1).tolist() for name, mask in drive.method.masks.items()}
    assert masks == brute_force_top_k(scores, kept)
    for name, weight in drive.weights.items():
        mask = drive.method.masks.get(name, torch.ones(()))
        assert torch.equal(weight, untouched.weights[name] * mask)


@pytest.mark.parametrize("images", [2, 64])
def test_gradient_is_of_one_training_batch(images: int) -> None:
    config = tiny_config("snip", sparsity=0.9, settings={"images": images})
    run = TrainState(config, Engine(), Ranks())
    run.begin()
    model = build_model(config.model, config.dataset, config.seed)
    data = DATASETS["digits"].load()
    chosen = run_order(run)[:images]
    model.train()
    outputs = model(data.normalise(data.training.pixels[chosen]))
    nn.functional.cross_entropy(outputs, data.training.labels[chosen]).backward()
    weights = prunable_weights(model)
    scores = torch.cat(
        [(w.detach() * w.grad).abs().reshape(-1) for w in weights.values() if w.grad is not None]
    )
    kept = torch.cat([run.method.masks[name].reshape(-1) for name in weights])
    threshold = sorted(scores.tolist(), reverse=True)[int(kept.sum()) - 1]
    assert int(kept.sum()) == len(scores) - math.floor(0.9 * len(scores))
    near = (scores - threshold).abs() <= 1e-5 * threshold
    assert torch.equal(kept[~near], (scores > threshold)[~near])
    assert int(near.sum()) < 10
    # The statistics of normalisation are as if nothing had happened.
    fresh = dict(build_model(config.model, config.dataset, config.seed).named_buffers())
    for name, buffer in run.model.named_buffers():
        assert torch.equal(buffer, fresh[name])
    assert run.model.training == build_model(config.model, config.dataset, config.seed).training


def run_order(run: TrainState) -> Tensor:
    """Return the order in which a run draws images for gradients outside of training."""
    generator = seeds.generator(run.config.seed, "gradient_samples")
    return torch.randperm(run.loader.sizes["training"], generator=generator)
