"""N:M masks keep exactly N of every group, as the original's do; patterns that do not fit."""

import itertools
import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from acdc.errors import ConfigError
from acdc.sparsity.patterns import parse_pattern, pattern_masks
from tests.support import hashval, tiny_config


def brute_force(weight: Tensor, n: int, m: int) -> set[tuple[int, ...]]:
    """Return the kept indices: count along output, kernel position, input in plain Python."""
    outputs, inputs, *kernel = weight.shape
    places = [
        (output, channel, *position)
        for output in range(outputs)
        for position in itertools.product(*map(range, kernel))
        for channel in range(inputs)
    ]
    kept: set[tuple[int, ...]] = set()
    for start in range(0, len(places), m):
        group = places[start : start + m]
        # Python's sort leaves equals in their order.
        kept.update(sorted(group, key=lambda place: -abs(weight[place].item()))[:n])
    return kept


PATTERNS = st.sampled_from([(1, 2), (2, 4), (1, 4), (3, 4), (4, 8), (2, 3)])
TIED_VALUES = st.sampled_from([0.0, -0.0, 1.0, -1.0, 0.5, -2.0])


@st.composite
def cases(draw: st.DrawFn) -> tuple[Tensor, int, int]:
    """A weight whose size is a multiple of the group's but whose inputs need not be."""
    n, m = draw(PATTERNS)
    shape = draw(st.lists(st.integers(1, 4), min_size=2, max_size=4))
    shape[draw(st.integers(0, 1))] *= m
    size = math.prod(shape)
    values = draw(st.lists(TIED_VALUES, min_size=size, max_size=size))
    weight = torch.tensor(values).reshape(shape)
    if weight.dim() == 4 and draw(st.booleans()):
        weight = weight.to(memory_format=torch.channels_last)
    return weight, n, m


@given(cases())
def test_masks_are_a_python_sort_of_every_group(case: tuple[Tensor, int, int]) -> None:
    weight, n, m = case
    mask = pattern_masks({"w": weight}, n, m)["w"]
    assert set(map(tuple, mask.nonzero().tolist())) == brute_force(weight, n, m)
    assert mask.stride() == weight.stride()


@given(st.integers(1, 3), st.integers(1, 3), st.booleans())
def test_four_neighbouring_inputs_keep_two(outputs: int, fours: int, channels_last: bool) -> None:
    weight = hashval((outputs, 4 * fours, 3, 2), 7)
    if channels_last:
        weight = weight.to(memory_format=torch.channels_last)
    mask = pattern_masks({"w": weight}, 2, 4)["w"]
    for output, first, y, x in itertools.product(
        range(outputs), range(0, 4 * fours, 4), range(3), range(2)
    ):
        assert int(mask[output, first : first + 4, y, x].sum()) == 2


def test_flat_groups_run_on_from_one_filter_into_the_next() -> None:
    # Three inputs, two outputs, groups of two: the second group is of both filters.
    weight = torch.tensor([[1.0, 2.0, 5.0], [6.0, 3.0, 4.0]])
    mask = pattern_masks({"w": weight}, 1, 2)["w"]
    assert mask.int().tolist() == [[0, 1, 0], [1, 0, 1]]


def test_layers_are_masked_one_by_one() -> None:
    weights = {"a": hashval((2, 4), 1), "b": hashval((3, 8), 2)}
    masks = pattern_masks(weights, 1, 4)
    assert list(masks) == ["a", "b"]
    for name, weight in weights.items():
        assert torch.equal(masks[name], pattern_masks({name: weight}, 1, 4)[name])


@given(st.integers(1, 20), st.integers(1, 20))
def test_a_pattern_is_n_of_more_than_n(n: int, extra: int) -> None:
    assert parse_pattern(f"{n}:{n + extra}") == (n, n + extra)


def with_pattern(sparsity: float = 0.5, **settings: Any) -> Any:
    return tiny_config(
        "acdc",
        sparsity=sparsity,
        settings={"schedule": None, "phases": [["dense", 0, 2], ["sparse", 2, 4]]} | settings,
    )


def test_one_input_needs_dense_or_flat() -> None:
    with pytest.raises(ConfigError) as refusal:
        with_pattern(pattern="2:4")
    first = next(iter(with_pattern(pattern="2:4", dense_layers=["first"]).layers))
    assert first in str(refusal.value)
    with_pattern(pattern="2:4", dense_layers=[first])
    with_pattern(pattern="2:4", grouping="flat")


def test_the_sparsity_is_that_of_the_pattern() -> None:
    with pytest.raises(ConfigError, match=r"^sparsity=0\.5: .*0\.75"):
        with_pattern(pattern="1:4", grouping="flat")
    with_pattern(0.75, pattern="1:4", grouping="flat")
    with_pattern(0.25, pattern="3:4", grouping="flat")
