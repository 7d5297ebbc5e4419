"""The spread of the zeros over the layers is that of RigL's code, to the last zero."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from acdc.sparsity.distributions import erk_sparsities
from acdc.sparsity.masks import count_zeros


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


def test_erk_leaves_given_sparsities_as_they_are() -> None:
    assert erk_sparsities({"a": (4, 4)}, 0.5, custom={"a": 0.25}) == {"a": 0.25}
