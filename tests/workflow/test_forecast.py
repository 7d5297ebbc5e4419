"""Forecasts against what training recorded, brute force, hand counts and published counts."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from acdc.config.run import parse_run
from acdc.models import build_model
from acdc.sparsity.layers import prunable_weights
from acdc.sparsity.masks import count_nonzeros
from acdc.sparsity.selection import global_magnitude_masks
from tests.support import METHODS, Uninterrupted, tiny_config
from workflow.forecast import Outlook, Ranking, forecast, network
from workflow.plan import known_models, occupied

EXACT = 1e-6
"""Up to rounding: Top-KAST counts its backward set in single precision."""
MISSES = {
    # Filters that die in a sparse phase stay dead in the dense one after it.
    "acdc": (0.08, 0.25),
    "acdc_dense": (0.1, 0.25),
    "dsd": (0.06, 0.25),
    # Weights of all layers ranked together: trained ones differ from initial ones.
    "dpf": (0.03, 0.06),
    "one_shot": (EXACT, 0.05),
    "woodfisher": (0.03, 0.06),
    # Ranked by the gradients, which favours the first layers.
    "snip": (0.35, 0.35),
    # Here some updates are the last batch of an epoch, and grown weights are still zero.
    "rigl": (0.06, EXACT),
    "set": (0.06, 0.01),
    "snfs": (0.02, EXACT),
    # When the weights fall below the thresholds is a guess.
    "str": (0.8, 0.15),
}
"""How far training and inference FLOPs may be off; of all other methods they are exact."""


@pytest.mark.parametrize("method", METHODS)
def test_forecasts_agree_with_training(uninterrupted: Uninterrupted, method: str) -> None:
    config = tiny_config(method)
    folder, result = uninterrupted(config)
    expected = forecast(config)
    training, inference = MISSES.get(method, (EXACT, EXACT))
    assert expected.training_flops == pytest.approx(result["flops"]["training"], rel=training)
    assert set(expected.inference_flops) >= set(result["products"])
    for product, models in result["products"].items():
        flops = models["last"]["inference_flops"]
        assert expected.inference_flops[product] == pytest.approx(flops, rel=inference)
    kept = known_models(expected.storage, result).kept
    assert kept == pytest.approx(occupied(folder), rel=0.02)
    assert kept <= expected.storage.kept <= expected.storage.training


@pytest.mark.parametrize(
    ("method", "settings", "within"),
    [
        ("rigl", {"update_interval": 100, "distribution": "erk"}, EXACT),
        # Weights grown at random into dead filters stay zero.
        ("set", {"update_interval": 100}, 0.01),
        ("gmp", {"begin": 0.1, "end": 0.9, "updates": 7, "dense_layers": ["first"]}, EXACT),
        # Rounds the number of weights that it keeps.
        ("gmp", {"dialect": "tfmot", "begin": 0.25, "end": 0.75, "updates": 4}, 2e-4),
        ("gmp", {"dialect": "str", "begin": 0.0, "end": 0.99}, EXACT),
        ("dpf", {"distribution": "uniform", "update_interval": 3}, EXACT),
        ("top_kast", {"dense_layers": ["last"]}, EXACT),
    ],
)
def test_densities_that_schedules_fix_are_exact(
    uninterrupted: Uninterrupted, method: str, settings: dict[str, Any], within: float
) -> None:
    # Of its larger maps every weight sees something, so that grown ones do not stay zero.
    config = tiny_config(method, settings=settings, model="resnet8")
    _, result = uninterrupted(config)
    expected = forecast(config)
    assert expected.training_flops == pytest.approx(result["flops"]["training"], rel=within)


def test_initial_weights_ranked_together_as_by_masks() -> None:
    config = tiny_config("acdc", model="resnet20", settings={"dense_layers": ["first"]}, epochs=20)
    outlook = Outlook(config)
    weights = prunable_weights(build_model(config.model, config.dataset, config.seed))
    ranked = {name: weights[name].detach() for name in outlook.ranked}
    assert len(ranked) == len(weights) - 1
    for sparsity in (0.1, 0.5, 0.9, 0.98):
        kept = count_nonzeros(global_magnitude_masks(ranked, sparsity))
        found = outlook.together(sparsity)
        assert found.keys() == ranked.keys()
        counts = {name: found[name] * ranked[name].numel() for name in ranked}
        assert sum(counts.values()) == pytest.approx(sum(kept.values()))
        for name, count in kept.items():
            assert counts[name] == pytest.approx(count, abs=2 + 0.005 * count), name
    assert outlook.together(0.0) == {}


def test_a_sample_stands_for_a_large_layer() -> None:
    torch.manual_seed(0)
    weights = {"large": torch.randn(1000, 1000), "small": 2 * torch.randn(100, 100)}
    kept = count_nonzeros(global_magnitude_masks(weights, 0.9))
    found = Ranking.of(weights).kept([0, 1], sum(kept.values()))
    assert found.sum() == pytest.approx(sum(kept.values()))
    assert list(found) == pytest.approx(list(kept.values()), rel=0.02)


def test_images_and_computed_flops_by_hand() -> None:
    """1,294 images in batches of 256 are 1,280 an epoch."""
    dense = forecast(tiny_config("dense"))
    costs = network("resnet8_s2", "digits").costs
    an_image = 3 * sum(cost.flops for cost in costs)
    assert dense.images == 4 * 1280
    assert dense.training_flops == dense.own_flops == dense.computed_flops == 5120 * an_image
    snip = forecast(tiny_config("snip"))
    assert snip.computed_flops == (5120 + 63) * an_image
    # Prunes in epochs 1, 2 and 3, each time by four gradients of 50 images.
    woodfisher = forecast(tiny_config("woodfisher"))
    assert woodfisher.computed_flops == (5120 + 3 * 4 * 50) * an_image
    assert woodfisher.training_flops == dense.training_flops + woodfisher.own_flops
    one_shot = forecast(tiny_config("one_shot"))
    assert (one_shot.images, one_shot.own_flops, one_shot.storage.models) == (0, 0.0, 1)
    assert one_shot.training_flops == dense.training_flops
    # Dense in epochs 0 and 2; goes on after the latter.
    tuned, parent = forecast(tiny_config("acdc_dense")), forecast(tiny_config("acdc"))
    assert tuned.images == 1280
    assert tuned.training_flops == parent.training_flops + 1280 * an_image


def test_seeds_share_a_forecast() -> None:
    first = forecast(tiny_config("acdc", seed=1))
    assert forecast(tiny_config("acdc", seed=2)) is first


def test_the_papers_training_flops() -> None:
    """Section 4: at 90 %, AC/DC takes 58 % of the FLOPs of training ResNet50 dense."""
    config = parse_run(
        {
            "model": "resnet50",
            "dataset": "imagenet",
            "method": "acdc",
            "sparsity": 0.9,
            "epochs": 100,
            "recipe": {"batch_size": 256, "augmentation": "crop_flip"},
        }
    )
    found = forecast(config)
    assert found.computed_flops == 3 * 8_178_368_512 * 100 * (1_271_167 // 256 * 256)
    assert math.isclose(found.training_flops / found.computed_flops, 0.58, abs_tol=0.04)
