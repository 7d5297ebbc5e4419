"""The spread of the zeros over the layers is that of RigL's code, to the last zero."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from acdc.sparsity.distributions import erk_sparsities, uniform_sparsities
from acdc.sparsity.masks import count_zeros
from tests.support import golden


def _pytorch_order(hwio: list[int]) -> list[int]:
    *kernel, inputs, outputs = hwio
    return [outputs, inputs, *kernel]


RESNET50 = golden("resnet50_sparsity_distributions")


@pytest.mark.parametrize("number", range(16))
def test_sparsity_distributions_over_resnet50_are_those_of_the_original(number: int) -> None:
    case = RESNET50["cases"][number]
    shapes = {layer["name"]: _pytorch_order(layer["shape_hwio"]) for layer in RESNET50["layers"]}
    sparsity = case["default_sparsity"]
    if case["method"] == "random":
        ours = uniform_sparsities(list(shapes), sparsity, custom=case["custom"])
    else:
        ours = erk_sparsities(
            shapes,
            sparsity,
            custom=case["custom"],
            power=case.get("erk_power_scale", 1.0),
            include_kernel=case["method"] == "erdos_renyi_kernel",
        )
    assert list(ours) == list(case["layer_sparsities"])
    for name, expected in case["layer_sparsities"].items():
        assert ours[name] == pytest.approx(expected, rel=0, abs=1e-12)
    for name, zeros in case.get("n_zeros_by_floor", {}).items():
        assert count_zeros(ours[name], math.prod(shapes[name])) == zeros


def test_all_sixteen_cases_of_the_original_are_tested() -> None:
    assert len(RESNET50["cases"]) == 16
    assert sum("n_zeros_by_floor" in case for case in RESNET50["cases"]) == 12


@pytest.mark.parametrize("key", golden("small_sparsity_distributions")["cases"])
def test_erk_on_small_nets_that_need_several_rounds_is_that_of_the_original(key: str) -> None:
    case = golden("small_sparsity_distributions")["cases"][key]
    shapes = {f"l{i}": _pytorch_order(shape) for i, shape in enumerate(case["shapes"])}
    ours = erk_sparsities(shapes, float(key.rsplit("|", 1)[1]))
    assert ours == pytest.approx(case["sparsities"], rel=0, abs=1e-12)


@given(
    st.lists(st.tuples(st.integers(1, 40), st.integers(1, 40)), min_size=2, max_size=6),
    st.floats(0.3, 0.99),
)
def test_erk_spends_the_wanted_budget_within_the_bounds_of_every_layer(
    shapes: list[tuple[int, int]], sparsity: float
) -> None:
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


def test_erk_leaves_given_sparsities_as_they_are() -> None:
    assert erk_sparsities({"a": (4, 4)}, 0.5, custom={"a": 0.25}) == {"a": 0.25}
