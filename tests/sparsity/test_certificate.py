"""A certificate holds for the models that were asked for, and for no others."""

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from acdc.models import build_model, layers_of
from acdc.sparsity.certificate import certify, objections
from acdc.sparsity.distributions import erk_sparsities
from acdc.sparsity.flops import LayerCost
from acdc.sparsity.layers import prunable_weights
from tests.support import tiny_config, train

A, B, C = LayerCost("a", 100, 2000), LayerCost("b", 300, 1200), LayerCost("c", 50, 100)


def certificate(**changes: Any) -> dict[str, Any]:
    """Return the certificate of three layers, the last one exempt, of which 90 % are pruned."""
    values: dict[str, Any] = {
        "kept": {"a": 25, "b": 15, "c": 50}, "nonzeros": {"a": 25, "b": 14, "c": 50},
        "exempt": ("c",), "tolerance": 0.0, "dead_filters": 3}  # fmt: skip
    return certify(changes.pop("requested", 0.9), (A, B, C), **(values | changes))


def test_counts_are_those_of_a_hand_count() -> None:
    found = certificate()
    assert found["holds"] is True
    assert found["failures"] == []
    assert found["pruned"] == 360 / 400
    assert found["achieved"] == pytest.approx(1 - 89 / 450)
    assert (found["dead_filters"], found["exempt"]) == (3, ["c"])
    assert [layer["flops"] for layer in found["layers"]] == [20 * 25, 4 * 14, 2 * 50]


def test_nonzero_outside_the_mask_fails() -> None:
    found = certificate(nonzeros={"a": 26, "b": 14, "c": 50})
    assert found["holds"] is False
    assert found["failures"] == ["a has 26 weights that are not zero, its mask keeps 25"]


@given(
    a=st.integers(0, 60), b=st.integers(0, 60), tolerance=st.sampled_from([0.0, 0.01, 0.0625, 1.0])
)
def test_it_allows_two_weights_a_layer_and_the_tolerance(a: int, b: int, tolerance: float) -> None:
    kept = {"a": a, "b": b, "c": 50}
    found = certificate(kept=kept, nonzeros=kept, tolerance=tolerance)
    assert found["holds"] == (abs(a + b - 40) <= 4 + 400 * tolerance)
    if not found["holds"]:
        zeros = 400 - a - b
        assert found["failures"] == [
            f"{zeros} of 400 weights are pruned ({zeros / 400:.4%}), 90.0000% were requested"
        ]


def test_an_exempt_layer_does_not_count_towards_the_request() -> None:
    kept = {"a": 25, "b": 15, "c": 0}
    assert certificate(kept=kept, nonzeros=kept)["pruned"] == certificate()["pruned"]
    assert not certificate(exempt=())["holds"]


@pytest.mark.parametrize("model", ["resnet20", "resnet50", "mobilenet_v1"])
@pytest.mark.parametrize("sparsity", [0.5, 0.8, 0.9, 0.95, 0.98])
def test_two_roundings_are_what_erk_needs(model: str, sparsity: float) -> None:
    """ERK's zeros are floors of shares of a sum of floors, on average one weight a layer less."""
    layers = layers_of(model, "fashion_mnist_4k")
    shares = erk_sparsities({name: layer.shape for name, layer in layers.items()}, sparsity)
    kept = {n: layer.size - math.floor(shares[n] * layer.size) for n, layer in layers.items()}
    costs = [LayerCost(name, layer.size, 2 * layer.size) for name, layer in layers.items()]
    found = certify(
        sparsity, costs, kept=kept, nonzeros=kept, exempt=(), tolerance=0.0, dead_filters=0
    )
    assert found["holds"], found["failures"]


def test_a_stored_certificate_is_judged_by_its_counts() -> None:
    assert objections(certificate(), 0.9, 450) == []
    assert objections(None, 0.9, 450) == ["there is no certificate"]
    wrong = copy.deepcopy(certificate())
    wrong["layers"][0]["nonzeros"] = 26
    assert objections(wrong, 0.9, 450) == ["a has 26 weights that are not zero, its mask keeps 25"]
    false = certificate() | {"holds": False}
    assert objections(false, 0.9, 450) == ["the certificate does not hold"]
    failing = certificate(requested=0.5)
    assert objections(failing, 0.5, 450) == failing["failures"]
    assert len(objections({}, 0.9, 450)) == 1
    without_counts = {key: value for key, value in certificate().items() if key != "layers"}
    assert "cannot be read" in objections(without_counts, 0.9, 450)[0]


def test_foreign_certificates_are_rejected() -> None:
    assert objections(certificate(), 0.8, 450) == ["it certifies 0.9, the run asks for 0.8"]
    fewer = copy.deepcopy(certificate())
    del fewer["layers"][2]
    assert "its layers have 400 weights, the model has 450" in objections(fewer, 0.9, 450)
    boasting = objections(certificate() | {"achieved": 0.99}, 0.9, 450)
    assert boasting == [f"it says 0.99 is zero, its layers say {1 - 89 / 450}"]
    for key in ("tolerance", "requested"):
        assert objections(certificate() | {key: math.nan}, 0.9, 450)


@pytest.mark.parametrize("method", ["dense", "acdc", "one_shot"])
def test_a_trained_model_is_certified_by_the_weights_on_disk(method: str, tmp_path: Path) -> None:
    config = tiny_config(method)
    result = train(config, tmp_path)
    names = list(prunable_weights(build_model(config.model, config.dataset, config.seed)))
    for product, records in result["products"].items():
        for which, record in records.items():
            found = record["certificate"]
            assert found["holds"], found["failures"]
            assert found["requested"] == (config.sparsity if product == "sparse" else 0)
            path = tmp_path / config.run_name / f"{product}_{which}.safetensors"
            stored = load_file(path)
            assert {layer["name"]: layer["nonzeros"] for layer in found["layers"]} == {
                name: int(torch.count_nonzero(stored[name])) for name in names
            }
            assert sum(layer["flops"] for layer in found["layers"]) == pytest.approx(
                record["inference_flops"]
            )
