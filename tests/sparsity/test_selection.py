"""Selections keep exact counts, break ties by position, and agree with the originals."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from acdc.sparsity import topk
from acdc.sparsity.masks import count_nonzeros
from acdc.sparsity.released import released_masks
from acdc.sparsity.selection import (
    kth_largest,
    magnitude_masks,
    top_k_mask,
    top_k_masks,
    top_k_rows,
)
from tests.support import brute_force_top_k, hashval

DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
SPARSITIES = st.floats(0, 1, exclude_max=True)


def as_lists(masks: dict[str, Tensor]) -> dict[str, list[bool]]:
    return {name: mask.reshape(-1).tolist() for name, mask in masks.items()}


# Few distinct values, so that ties are the rule: both zeros, both signs, two that differ in the
# last bit, the smallest float32 and the largest float16.
VALUES = st.sampled_from(
    [0.0, -0.0, 1.0, -1.0, 0.5, -0.25, 1 + 2.0**-23, -3e-45, 65504.0, math.inf, -math.inf]
)


@st.composite
def layers(draw: st.DrawFn) -> dict[str, Tensor]:
    """One to four tensors of one random type, of random shapes, in random memory formats."""
    dtype = draw(st.sampled_from(DTYPES))
    result = {}
    for number in range(draw(st.integers(1, 4))):
        shape = draw(st.lists(st.integers(1, 4), min_size=1, max_size=4))
        size = math.prod(shape)
        flat = draw(st.lists(VALUES, min_size=size, max_size=size))
        tensor = torch.tensor(flat, dtype=torch.float64).to(dtype).reshape(shape)
        in_memory = draw(st.permutations(range(len(shape))))
        back = np.argsort(in_memory).tolist()
        result[f"layer{number}"] = tensor.permute(*in_memory).contiguous().permute(*back)
    return result


@contextmanager
def through(path: str) -> Iterator[None]:
    """Send even tiny layers through one of the ways to the threshold, in chunks of three."""
    sample = {"direct": 1 << 17, "sample": 4, "radix": 0}[path]
    changes: dict[str, Any] = {"_CHUNK": 3, "_RADIX_CHUNK": 3, "_SAMPLE": sample}
    if path == "radix":
        changes["_cut_by_sample"] = lambda *arguments: None
    with mock.patch.multiple(topk, **changes):
        yield


PATHS = pytest.mark.parametrize("path", ["direct", "sample", "radix"])


@PATHS
@given(scores=layers(), magnitudes=st.booleans(), data=st.data())
def test_kth_largest_is_the_kth_of_a_full_sort(
    path: str, scores: dict[str, Tensor], magnitudes: bool, data: Any
) -> None:
    values = [value for s in scores.values() for value in s.double().reshape(-1).tolist()]
    ordered = sorted(map(abs, values) if magnitudes else values, reverse=True)
    k = data.draw(st.integers(1, len(ordered)))
    with through(path):
        value, above = kth_largest(list(scores.values()), k, magnitudes=magnitudes)
    assert value == ordered[k - 1]
    assert above == sum(other > value for other in ordered)


@PATHS
@pytest.mark.parametrize("dtype", DTYPES)
def test_kth_largest_of_spread_values_at_every_k(path: str, dtype: torch.dtype) -> None:
    values = (hashval((40,), 5).sign() * 1.7 ** torch.arange(-20, 20).double()).to(dtype)
    ordered = sorted(values.double().tolist(), reverse=True)
    with through(path):
        found = [kth_largest([values[:17], values[17:]], k)[0] for k in range(1, 41)]
    assert found == ordered


@pytest.mark.parametrize("k", [0, 4])
def test_kth_largest_checks_k(k: int) -> None:
    with pytest.raises(ValueError, match="1 to 3"):
        kth_largest([torch.ones(3)], k)


@PATHS
@given(scores=layers(), magnitudes=st.booleans(), data=st.data())
def test_top_k_is_a_sort(path: str, scores: dict[str, Tensor], magnitudes: bool, data: Any) -> None:
    k = data.draw(st.integers(0, sum(score.numel() for score in scores.values())))
    with through(path):
        masks = top_k_masks(scores, k, magnitudes=magnitudes)
    ranked = {name: score.abs() if magnitudes else score for name, score in scores.items()}
    assert as_lists(masks) == brute_force_top_k(ranked, k)
    for name, score in scores.items():
        assert masks[name].shape == score.shape
        assert masks[name].stride() == score.stride()


@st.composite
def rows_and_counts(draw: st.DrawFn) -> tuple[Tensor, list[int]]:
    """Return scores (..., N) of one random type and memory format, and a k for each row."""
    dtype = draw(st.sampled_from(DTYPES))
    shape = draw(st.lists(st.integers(1, 4), min_size=1, max_size=3))
    flat = draw(st.lists(VALUES, min_size=math.prod(shape), max_size=math.prod(shape)))
    scores = torch.tensor(flat, dtype=torch.float64).to(dtype).reshape(shape)
    in_memory = draw(st.permutations(range(len(shape))))
    scores = scores.permute(*in_memory).contiguous().permute(*np.argsort(in_memory).tolist())
    rows = math.prod(shape[:-1])
    return scores, draw(st.lists(st.integers(0, shape[-1]), min_size=rows, max_size=rows))


@settings(max_examples=300)
@given(rows_and_counts(), st.booleans())
def test_each_row_keeps_its_own_top_k(case: tuple[Tensor, list[int]], magnitudes: bool) -> None:
    scores, counts = case
    rows = scores.reshape(-1, scores.shape[-1])
    ranked = rows.abs() if magnitudes else rows
    before = scores.clone()
    by_tensor = top_k_rows(
        scores, torch.tensor(counts).reshape(scores.shape[:-1]), magnitudes=magnitudes
    )
    assert by_tensor.shape == scores.shape
    assert by_tensor.dtype == torch.bool
    for row, score, mask, k in zip(
        rows, ranked, by_tensor.reshape(rows.shape), counts, strict=True
    ):
        assert as_lists({"": mask}) == brute_force_top_k({"": score}, k)
        assert torch.equal(mask, top_k_mask(row, k, magnitudes=magnitudes))
    # One k for all rows, as a number and as a tensor that broadcasts.
    for k in range(scores.shape[-1] + 1):
        by_number = top_k_rows(scores, k, magnitudes=magnitudes)
        for score, mask in zip(ranked, by_number.reshape(rows.shape), strict=True):
            assert as_lists({"": mask}) == brute_force_top_k({"": score}, k)
        assert torch.equal(by_number, top_k_rows(scores, torch.tensor(k), magnitudes=magnitudes))
    assert torch.equal(scores, before)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("k", [0, 1, 37, 499, 500])
def test_long_rows_with_and_without_ties(dtype: torch.dtype, k: int) -> None:
    generator = torch.Generator().manual_seed(k)
    spread = torch.randn(3, 500, dtype=torch.float64, generator=generator).to(dtype)
    tied = (2 * spread).round()
    for scores in (spread, tied, torch.zeros_like(spread)):
        expected = np.zeros((3, 500), dtype=bool)
        kept = np.argsort(-scores.double().abs().numpy(), axis=-1, kind="stable")[:, :k]
        np.put_along_axis(expected, kept, True, axis=-1)
        assert np.array_equal(top_k_rows(scores, k, magnitudes=True), expected)
        counts = torch.full((3,), k)
        assert np.array_equal(top_k_rows(scores, counts, magnitudes=True), expected)


def test_rows_are_selected_of_what_is_trained() -> None:
    weight = torch.nn.Parameter(torch.tensor([[3.0, -4.0, 1.0]]))
    assert top_k_rows(weight, 2).tolist() == [[True, False, True]]
    assert top_k_rows(weight, torch.tensor([2]), magnitudes=True).tolist() == [[True, True, False]]


@given(layers(), st.lists(VALUES, min_size=2, max_size=2), st.data())
def test_any_bracket_will_do(scores: dict[str, Tensor], ends: list[float], data: Any) -> None:
    k = data.draw(st.integers(1, sum(score.numel() for score in scores.values())))
    dtype = next(iter(scores.values())).dtype
    low, high = sorted(torch.tensor(ends, dtype=torch.float64).to(dtype).double().tolist())
    with mock.patch.object(topk, "_bracket", return_value=(low, high)):
        masks = top_k_masks(scores, k)
        threshold, _ = kth_largest(list(scores.values()), k)
    joined = torch.cat([score.double().reshape(-1) for score in scores.values()])
    assert threshold == sorted(joined.tolist(), reverse=True)[k - 1]
    assert as_lists(masks) == brute_force_top_k(scores, k)


@given(layers(), st.data())
def test_a_smaller_selection_is_in_a_larger_one(scores: dict[str, Tensor], data: Any) -> None:
    total = sum(score.numel() for score in scores.values())
    small, large = sorted(data.draw(st.tuples(st.integers(0, total), st.integers(0, total))))
    inner, outer = top_k_masks(scores, small), top_k_masks(scores, large)
    assert not any(bool((inner[name] & ~outer[name]).any()) for name in scores)


def large_layers(kind: str) -> dict[str, Tensor]:
    """Return 400,000 scores, more than a sample, whose sample is like them or deceives."""
    values = torch.randn(400_000, generator=torch.Generator().manual_seed(0))
    if kind == "mostly zero":
        values[torch.rand(400_000, generator=torch.Generator().manual_seed(1)) < 0.9] = 0
    if kind == "few values":
        values = (values * 4).round()
    if kind == "deceiving":
        values[:: _stride(400_000)] = 100  # what a sample sees, and it sees nothing else
    conv = values[:299_952].reshape(48, 6249).reshape(48, 2083, 3, 1)
    conv = conv.to(memory_format=torch.channels_last)
    return {"conv": conv, "linear": values[299_952:]}


def _stride(total: int) -> int:
    return total // topk._SAMPLE // 6 * 6 + 1


@pytest.mark.parametrize("kind", ["normal", "mostly zero", "few values", "deceiving"])
@pytest.mark.parametrize("density", [1e-5, 0.05, 0.1, 0.5, 0.95, 1 - 1e-5])
def test_a_sample_changes_nothing(kind: str, density: float) -> None:
    with mock.patch.object(topk, "_SAMPLE", 1 << 14):
        scores = large_layers(kind)
        k = int(density * 400_000)
        masks = top_k_masks(scores, k, magnitudes=True)
    joined = np.concatenate([score.abs().reshape(-1).numpy() for score in scores.values()])
    expected = np.zeros(400_000, dtype=bool)
    expected[np.argsort(-joined, kind="stable")[:k]] = True
    kept = np.concatenate([mask.reshape(-1).numpy() for mask in masks.values()])
    assert np.array_equal(kept, expected)


def test_only_a_deceiving_sample_takes_the_slow_path() -> None:
    with mock.patch.object(topk, "_SAMPLE", 1 << 14):
        for kind in ("normal", "mostly zero", "few values", "deceiving"):
            scores = list(large_layers(kind).values())
            with mock.patch.object(topk, "_cut_by_radix", wraps=topk._cut_by_radix) as slow:
                kth_largest(scores, 100_000, magnitudes=True)
            assert slow.called == (kind == "deceiving")


@pytest.mark.parametrize(
    "weight",
    [
        torch.ones(2, 3, 2, 2).to(memory_format=torch.channels_last),
        torch.ones(2, 3, 2, 2).transpose(0, 3),
        torch.ones(4, 12)[:, ::2],
        torch.ones(4, 1).expand(4, 6),
        torch.nn.Parameter(torch.ones(4, 6)),
    ],
    ids=["channels last", "transposed", "with gaps", "expanded", "parameter"],
)
def test_ties_ignore_the_layout(weight: Tensor) -> None:
    expected = torch.arange(24) < 7
    for mask in (
        top_k_mask(weight, 7),
        magnitude_masks({"w": weight}, 17 / 24 + 1e-9, "global")["w"],
        magnitude_masks({"w": weight}, 17 / 24 + 1e-9, "uniform")["w"],
    ):
        assert torch.equal(mask.reshape(-1), expected)


@given(layers(), SPARSITIES)
def test_global_masks_are_a_python_sort(weights: dict[str, Tensor], sparsity: float) -> None:
    total = sum(weight.numel() for weight in weights.values())
    kept = total - math.floor(sparsity * total)
    masks = magnitude_masks(weights, sparsity, "global")
    magnitudes = {name: weight.abs() for name, weight in weights.items()}
    assert as_lists(masks) == brute_force_top_k(magnitudes, kept)
    assert sum(count_nonzeros(masks).values()) == kept


@given(layers(), SPARSITIES)
def test_uniform_masks_are_sorts_of_each_layer(weights: dict[str, Tensor], sparsity: float) -> None:
    masks = magnitude_masks(weights, sparsity, "uniform")
    for name, weight in weights.items():
        kept = weight.numel() - math.floor(sparsity * weight.numel())
        assert as_lists({name: masks[name]}) == brute_force_top_k({name: weight.abs()}, kept)


@pytest.mark.parametrize("device", ["cpu", "cuda"][: 1 + torch.cuda.is_available()])
@given(scores=layers(), data=st.data())
def test_all_devices_select_the_same(device: str, scores: dict[str, Tensor], data: Any) -> None:
    k = data.draw(st.integers(0, sum(score.numel() for score in scores.values())))
    there = top_k_masks({name: score.to(device) for name, score in scores.items()}, k)
    here = {name: mask.cpu() for name, mask in there.items()}
    assert as_lists(here) == brute_force_top_k(scores, k)


@settings(max_examples=40)
@given(layers(), SPARSITIES, st.booleans())
def test_released_drops_ties(weights: dict[str, Tensor], sparsity: float, by_layer: bool) -> None:
    values = {name: weight.float() for name, weight in weights.items()}
    masks = released_masks(values, sparsity, "uniform" if by_layer else "global")
    groups = [[name] for name in values] if by_layer else [list(values)]
    for names in groups:
        scores = torch.cat([values[name].abs().reshape(-1) + 1e-4 for name in names])
        kept = torch.cat([masks[name].reshape(-1) for name in names])
        if sparsity == 0:
            assert bool(kept.all())
        else:
            k = math.ceil(len(scores) * (1 - sparsity))
            assert torch.equal(kept, scores > sorted(scores.tolist(), reverse=True)[k - 1])
