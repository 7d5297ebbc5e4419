"""Masks as values: exact counts, random masks, and what is counted of masks."""

import math

import torch
from hypothesis import given
from hypothesis import strategies as st

from acdc.sparsity.masks import count_nonzeros, count_zeros, mask_change, random_masks

SPARSITIES = st.floats(0, 1, exclude_max=True)


@given(
    st.lists(st.lists(st.integers(1, 6), min_size=1, max_size=4), min_size=1, max_size=4),
    SPARSITIES,
    st.integers(0, 2**32),
)
def test_random_masks(shapes: list[list[int]], sparsity: float, seed: int) -> None:
    named = {str(number): torch.Size(shape) for number, shape in enumerate(shapes)}
    sparsities = dict.fromkeys(named, sparsity)
    first = random_masks(named, sparsities, torch.Generator().manual_seed(seed))
    again = random_masks(named, sparsities, torch.Generator().manual_seed(seed))
    for name, shape in named.items():
        assert first[name].shape == shape
        assert int((~first[name]).sum()) == math.floor(sparsity * shape.numel())
        assert torch.equal(first[name], again[name])


def test_random_masks_are_uniform() -> None:
    generator = torch.Generator().manual_seed(0)
    draws = [random_masks({"w": torch.Size([20])}, {"w": 0.75}, generator)["w"] for _ in range(800)]
    counts = torch.stack(draws).sum(dim=0)
    # Binomial(800, 1/4): mean 200, standard deviation 12.2; six of those either way.
    assert int(counts.min()) > 126
    assert int(counts.max()) < 274


@given(SPARSITIES, st.integers(1, 10**7))
def test_count_zeros_leaves_at_least_one_weight(sparsity: float, size: int) -> None:
    zeros = count_zeros(sparsity, size)
    assert 0 <= zeros <= size
    assert zeros == int(sparsity * size)


def test_mask_change_by_hand() -> None:
    before = {"a": torch.tensor([1, 1, 0, 0]).bool(), "b": torch.tensor([1, 0]).bool()}
    after = {"a": torch.tensor([1, 0, 1, 0]).bool(), "b": torch.tensor([0, 1]).bool()}
    # Two weights came in, three are kept, one is in both, five in either, six in all.
    assert mask_change(before, after) == {"relative": 4 / 6, "of_kept": 2 / 3, "jaccard": 1 / 5}
    assert mask_change(after, after) == {"relative": 0.0, "of_kept": 0.0, "jaccard": 1.0}
    nothing = {name: torch.zeros_like(mask) for name, mask in after.items()}
    assert mask_change(nothing, nothing) == {"relative": 0.0, "of_kept": 0.0, "jaccard": 1.0}


def test_count_nonzeros_by_hand() -> None:
    tensors = {"a": torch.tensor([0.0, -0.0, 2.0]), "b": torch.tensor([[1.0, -1.0]])}
    assert count_nonzeros(tensors) == {"a": 1, "b": 2}
