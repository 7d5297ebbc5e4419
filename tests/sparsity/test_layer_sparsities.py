"""The sparsities of a network's layers are the original's, whichever layers stay dense."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from acdc.errors import ConfigError
from acdc.sparsity.distributions import (
    Distribution,
    erk_sparsities,
    layer_sparsities,
    uniform_sparsities,
)
from acdc.sparsity.layers import Layer
from tests.support import golden, tiny_config

NAMES: dict[str, Distribution] = {
    "random": "uniform",
    "erdos_renyi_kernel": "erk",
    "erdos_renyi": "er",
}


def layer(hwio: list[int]) -> Layer:
    """Return a layer from TensorFlow's order of dimensions."""
    *kernel, inputs, outputs = hwio
    return Layer((outputs, inputs, *kernel), "convolution" if kernel else "linear")


RESNET50 = golden("resnet50_sparsity_distributions")
# Those that settings can express: custom layers are dense ones, and the power is 1.
EXPRESSIBLE = [
    case
    for case in RESNET50["cases"]
    if "erk_power_scale" not in case and not any(case["custom"].values())
]


@pytest.mark.parametrize("number", range(len(EXPRESSIBLE)))
def test_zeros_of_every_layer_of_resnet50_are_those_of_the_original(number: int) -> None:
    case = EXPRESSIBLE[number]
    layers = {one["name"]: layer(one["shape_hwio"]) for one in RESNET50["layers"]}
    ours = layer_sparsities(
        layers, NAMES[case["method"]], case["default_sparsity"], tuple(case["custom"])
    )
    assert list(ours) == list(case["layer_sparsities"])
    for name, expected in case["layer_sparsities"].items():
        assert ours[name] == pytest.approx(expected, rel=0, abs=1e-12)
        zeros = math.floor(ours[name] * layers[name].size)
        assert zeros == case["n_zeros_by_floor"][name]
    assert {name for name, value in ours.items() if value == 0} == set(case["dense_layers"])


def test_all_three_distributions_are_tested_with_and_without_dense_layers() -> None:
    seen = {(case["method"], bool(case["custom"])) for case in EXPRESSIBLE}
    assert seen == {(method, dense) for method in NAMES for dense in (True, False)}


SMALL = golden("small_sparsity_distributions")["cases"]


@pytest.mark.parametrize("key", SMALL)
def test_sparsities_of_small_nets_are_those_of_the_original(key: str) -> None:
    _, method, sparsity = key.split("|")
    layers = {f"l{i}": layer(shape) for i, shape in enumerate(SMALL[key]["shapes"])}
    ours = layer_sparsities(layers, NAMES[method], float(sparsity))
    assert ours == pytest.approx(SMALL[key]["sparsities"], rel=0, abs=1e-12)


SHAPES = st.lists(st.lists(st.integers(1, 20), min_size=2, max_size=4), min_size=2, max_size=6).map(
    lambda shapes: {str(number): shape for number, shape in enumerate(shapes)}
)


@given(SHAPES, st.floats(0.05, 0.99), st.data())
def test_layers_with_a_given_sparsity_are_as_if_they_were_not_there(
    shapes: dict[str, list[int]], sparsity: float, data: Any
) -> None:
    given_names = data.draw(st.sets(st.sampled_from(sorted(shapes)), max_size=len(shapes) - 1))
    custom = {name: data.draw(st.floats(0, 1)) for name in given_names}
    rest = {name: shape for name, shape in shapes.items() if name not in custom}
    assert erk_sparsities(shapes, sparsity, custom=custom) == {
        name: custom[name] if name in custom else erk_sparsities(rest, sparsity)[name]
        for name in shapes
    }
    assert uniform_sparsities(list(shapes), sparsity, custom=custom) == {
        name: custom.get(name, sparsity) for name in shapes
    }


@given(SHAPES, st.floats(0.05, 0.99), st.sampled_from(["uniform", "erk", "er"]), st.data())
def test_dense_layers_are_dense_and_every_other_layer_keeps_a_weight(
    shapes: dict[str, list[int]], sparsity: float, distribution: Distribution, data: Any
) -> None:
    layers = {name: Layer(tuple(shape), "linear") for name, shape in shapes.items()}
    dense = data.draw(st.sets(st.sampled_from(sorted(shapes)), max_size=len(shapes) - 1))
    pruned = [name for name in layers if name not in dense]
    wanted = sum(math.floor(sparsity * layers[name].size) for name in pruned)
    try:
        ours = layer_sparsities(layers, distribution, sparsity, dense)
    except ConfigError:
        assert wanted < len(pruned)  # less than one zero a layer may be none in each
        return
    zeros = {name: math.floor(ours[name] * layers[name].size) for name in layers}
    assert all(zeros[name] == 0 for name in dense)
    assert all(0 <= zeros[name] < layers[name].size for name in pruned)
    # Each layer rounds down, from shares of a total that is rounded down itself.
    assert wanted - len(pruned) - 1e-6 <= sum(zeros.values()) <= wanted + 1e-6


@given(
    st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=5),
    st.integers(2, 4),
)
def test_erdos_renyi_does_not_look_at_the_kernel(shapes: list[tuple[int, int]], width: int) -> None:
    # Even sizes, so that half of each layer is a whole number with any kernel.
    linear = {str(number): (2 * a, b) for number, (a, b) in enumerate(shapes)}
    square = {name: (*shape, width, width) for name, shape in linear.items()}
    assert erk_sparsities(square, 0.5, include_kernel=False) == pytest.approx(
        erk_sparsities(linear, 0.5, include_kernel=False)
    )


@pytest.mark.parametrize("distribution", ["uniform", "erk", "er"])
def test_a_sparsity_that_prunes_nothing_is_refused_before_training(distribution: str) -> None:
    with pytest.raises(
        ConfigError,
        match=f"sparsity: 1e-06 under settings.distribution {distribution} makes every layer "
        "dense; a higher one is accepted",
    ):
        tiny_config("rigl", sparsity=1e-6, settings={"distribution": distribution})


@pytest.mark.parametrize("distribution", ["uniform", "erk", "er"])
def test_a_sparsity_of_zero_is_dense(distribution: Distribution) -> None:
    layers = {"a": Layer((4, 3), "linear"), "b": Layer((5, 4), "linear")}
    assert layer_sparsities(layers, distribution, 0.0) == pytest.approx({"a": 0, "b": 0})
