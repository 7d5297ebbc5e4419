"""Layer sparsities spend their budget to the last zero, whichever layers stay dense."""

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
from acdc.sparsity.masks import count_zeros

SHAPES = st.lists(st.lists(st.integers(1, 20), min_size=2, max_size=4), min_size=2, max_size=6).map(
    lambda shapes: {str(number): shape for number, shape in enumerate(shapes)}
)


@given(SHAPES, st.floats(0.05, 0.99), st.data())
def test_given_sparsities_are_kept(
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
def test_every_layer_keeps_a_weight(
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
def test_a_sparsity_of_zero_is_dense(distribution: Distribution) -> None:
    layers = {"a": Layer((4, 3), "linear"), "b": Layer((5, 4), "linear")}
    assert layer_sparsities(layers, distribution, 0.0) == pytest.approx({"a": 0, "b": 0})


@given(
    st.lists(st.tuples(st.integers(1, 40), st.integers(1, 40)), min_size=2, max_size=6),
    st.floats(0.3, 0.99),
)
def test_erk_spends_its_budget(shapes: list[tuple[int, int]], sparsity: float) -> None:
    named = {str(number): shape for number, shape in enumerate(shapes)}
    sizes = {name: math.prod(shape) for name, shape in named.items()}
    sparsities = erk_sparsities(named, sparsity)
    assert all(-1e-12 <= value < 1 for value in sparsities.values())
    zeros = sum(sparsities[name] * sizes[name] for name in named)
    assert zeros == pytest.approx(sum(count_zeros(sparsity, n) for n in sizes.values()), abs=1e-6)


@pytest.mark.parametrize("shape", [(16, 34), (25, 11), (4, 4)])
def test_erk_at_sparsity_zero_is_dense_whatever_the_rounding(shape: tuple[int, int]) -> None:
    assert erk_sparsities({"a": shape, "b": (3, 3)}, 0.0) == pytest.approx({"a": 0, "b": 0})
    assert erk_sparsities({"a": shape}, 0.0) == pytest.approx({"a": 0})
