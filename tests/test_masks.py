"""Selections keep exact counts, break ties by position, and agree with the originals."""

from __future__ import annotations

import math
from typing import Any
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from acdc import masks
from acdc.masks import (
    count_nonzeros,
    count_zeros,
    erk_sparsities,
    global_magnitude_masks,
    kth_largest,
    layer_magnitude_masks,
    mask_change,
    random_masks,
    released_acdc_masks,
    top_k_mask,
    top_k_masks,
    uniform_sparsities,
)
from tests.support import golden, hashval

DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
SPARSITIES = st.floats(0, 1, exclude_max=True)


def brute_force_top_k(scores: dict[str, Tensor], k: int) -> dict[str, list[bool]]:
    """Sort (score descending, layer, index) in plain Python and keep the first k."""
    entries = [
        (-value, layer, index)
        for layer, score in enumerate(scores.values())
        for index, value in enumerate(score.double().reshape(-1).tolist())
    ]
    kept = {(layer, index) for _, layer, index in sorted(entries)[:k]}
    return {
        name: [(layer, index) in kept for index in range(score.numel())]
        for layer, (name, score) in enumerate(scores.items())
    }


def as_lists(masks: dict[str, Tensor]) -> dict[str, list[bool]]:
    return {name: mask.reshape(-1).tolist() for name, mask in masks.items()}


# Few distinct values, so that ties are the rule; both zeros; values that differ in the last bit.
TIED_VALUES = st.sampled_from([0.0, -0.0, 1.0, 1.0, 2.0, 0.5, 1.0 + 2.0**-23, 3e-45, 65504.0])


@st.composite
def layers(draw: st.DrawFn, values: st.SearchStrategy[float] = TIED_VALUES) -> dict[str, Tensor]:
    """One to four tensors of random shapes, of one random floating dtype."""
    dtype = draw(st.sampled_from(DTYPES))
    result = {}
    for number in range(draw(st.integers(1, 4))):
        shape = draw(st.lists(st.integers(1, 4), min_size=1, max_size=3))
        size = math.prod(shape)
        flat = draw(st.lists(values, min_size=size, max_size=size))
        result[f"layer{number}"] = torch.tensor(flat, dtype=torch.float64).to(dtype).reshape(shape)
    return result


# Up to how many scores are partitioned; none: every selection is by radix.
SELECTIONS = pytest.mark.parametrize("few", [0, 1 << 22], ids=["radix", "partition"])


@SELECTIONS
@given(scores=layers(), data=st.data())
def test_kth_largest_is_the_kth_of_a_full_sort(
    few: int, scores: dict[str, Tensor], data: Any
) -> None:
    everything = torch.cat([score.double().reshape(-1) for score in scores.values()])
    k = data.draw(st.integers(1, len(everything)))
    with mock.patch.object(masks, "_FEW", few):
        value, above = kth_largest(list(scores.values()), k)
    ordered = sorted(everything.tolist(), reverse=True)
    assert value == ordered[k - 1]
    assert above == sum(other > ordered[k - 1] for other in ordered)


@SELECTIONS
@pytest.mark.parametrize("dtype", DTYPES)
def test_kth_largest_of_spread_magnitudes_at_every_k(
    few: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(masks, "_FEW", few)
    numbers = torch.randn(150, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    values = (numbers.abs() * 10.0 ** torch.linspace(-9, 3, 150, dtype=torch.float64)).to(dtype)
    ordered = sorted(values.double().tolist(), reverse=True)
    found = [kth_largest([values[:70], values[70:]], k)[0] for k in range(1, 151)]
    assert found == ordered


@pytest.mark.parametrize("k", [0, 4])
def test_kth_largest_refuses_a_k_that_does_not_exist(k: int) -> None:
    with pytest.raises(ValueError, match="1 to 3 is accepted"):
        kth_largest([torch.ones(3)], k)


@given(layers(), st.data())
def test_top_k_keeps_the_largest_and_of_ties_the_earlier_layer_and_lower_index(
    scores: dict[str, Tensor], data: Any
) -> None:
    k = data.draw(st.integers(0, sum(score.numel() for score in scores.values())))
    masks = top_k_masks(scores, k)
    assert as_lists(masks) == brute_force_top_k(scores, k)
    assert all(masks[name].shape == score.shape for name, score in scores.items())


@given(layers(), st.data())
def test_a_smaller_selection_is_a_subset_of_a_larger_one(
    scores: dict[str, Tensor], data: Any
) -> None:
    total = sum(score.numel() for score in scores.values())
    small, large = sorted(data.draw(st.tuples(st.integers(0, total), st.integers(0, total))))
    inner, outer = top_k_masks(scores, small), top_k_masks(scores, large)
    assert not any(bool((inner[name] & ~outer[name]).any()) for name in scores)


def test_a_mask_follows_positions_in_memory_formats_other_than_the_default() -> None:
    weight = torch.ones(2, 3, 2, 2).to(memory_format=torch.channels_last)
    expected = torch.zeros(24, dtype=torch.bool)
    expected[:7] = True
    for mask in (
        top_k_mask(weight, 7),
        global_magnitude_masks({"w": weight}, 17 / 24 + 1e-9)["w"],
        layer_magnitude_masks({"w": weight}, {"w": 17 / 24 + 1e-9})["w"],
    ):
        assert torch.equal(mask.contiguous().reshape(-1), expected)


SIGNED = st.sampled_from([0.0, -0.0, 1.0, -1.0, 0.25, -0.25, -3.0])


@given(layers(SIGNED), SPARSITIES)
def test_global_masks_are_those_of_a_python_sort_with_the_exact_count(
    weights: dict[str, Tensor], sparsity: float
) -> None:
    total = sum(weight.numel() for weight in weights.values())
    kept = total - math.floor(sparsity * total)
    masks = global_magnitude_masks(weights, sparsity)
    magnitudes = {name: weight.abs() for name, weight in weights.items()}
    assert as_lists(masks) == brute_force_top_k(magnitudes, kept)
    assert sum(count_nonzeros(masks).values()) == kept


@given(layers(SIGNED), st.data())
def test_layer_masks_keep_the_exact_count_of_every_layer(
    weights: dict[str, Tensor], data: Any
) -> None:
    sparsities = {name: data.draw(SPARSITIES) for name in weights}
    masks = layer_magnitude_masks(weights, sparsities)
    for name, weight in weights.items():
        kept = weight.numel() - math.floor(sparsities[name] * weight.numel())
        assert as_lists({name: masks[name]}) == brute_force_top_k({name: weight.abs()}, kept)


@given(
    st.lists(st.lists(st.integers(1, 6), min_size=1, max_size=4), min_size=1, max_size=4),
    SPARSITIES,
    st.integers(0, 2**32),
)
def test_random_masks_have_the_exact_count_and_follow_their_generator(
    shapes: list[list[int]], sparsity: float, seed: int
) -> None:
    named = {str(number): torch.Size(shape) for number, shape in enumerate(shapes)}
    sparsities = dict.fromkeys(named, sparsity)
    first = random_masks(named, sparsities, torch.Generator().manual_seed(seed))
    again = random_masks(named, sparsities, torch.Generator().manual_seed(seed))
    for name, shape in named.items():
        assert first[name].shape == shape
        assert int((~first[name]).sum()) == math.floor(sparsity * shape.numel())
        assert torch.equal(first[name], again[name])


def test_random_masks_reach_every_position_about_equally_often() -> None:
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
        ours = uniform_sparsities(list(shapes), sparsity, dense=list(case["custom"]))
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


PERCENTILES = golden("acdc_masks_schedules")["percentile"]


@pytest.mark.parametrize("number", range(len(PERCENTILES)))
def test_released_selection_has_the_originals_threshold_and_ties(number: int) -> None:
    case = PERCENTILES[number]
    masks = released_acdc_masks({"w": torch.tensor(case["values"])}, case["p"])
    assert masks["w"].tolist() == case["kept"]
    if case["k"] is not None:
        threshold, _ = kth_largest([torch.tensor(case["values"])], case["k"])
        assert threshold == pytest.approx(case["threshold"], abs=1e-7)


@pytest.mark.parametrize("number", range(len(golden("acdc_masks_schedules")["masks"])))
def test_released_selection_gives_the_originals_global_masks(number: int) -> None:
    case = golden("acdc_masks_schedules")["masks"][number]
    if "shapes" not in case:  # every |w| equal: all are dropped
        weights = {"w": torch.full((10,), 0.3) * torch.tensor([1.0, -1.0] * 5)}
        assert count_nonzeros(released_acdc_masks(weights, case["sparsity"])) == {"w": 0}
        assert case["n_kept"] == 0
        return
    weights = {name: hashval(case["shapes"][name], case["salts"][name]) for name in case["shapes"]}
    masks = released_acdc_masks(weights, case["sparsity"])
    for name, expected in case["masks"].items():
        assert masks[name].reshape(-1).float().tolist() == expected
    assert sum(count_nonzeros(masks).values()) == case["n_kept"] == case["ceil_k"] - 1


@pytest.mark.parametrize("sparsity", ["0.5", "0.9"])
def test_magnitude_masks_of_a_known_tensor_are_those_of_three_code_bases(sparsity: str) -> None:
    rules = golden("gmp_schedules_and_masks")["mask_rules_on_10x20_hash51"][sparsity]
    weights = {"w": hashval((10, 20), 51)}
    ours = layer_magnitude_masks(weights, {"w": float(sparsity)})["w"].reshape(-1).int().tolist()
    assert ours == rules["tfmot_topk_ge"]["mask"] == rules["str_gmp_sort"]["mask"]
    released = released_acdc_masks(weights, float(sparsity))["w"].reshape(-1).int().tolist()
    assert released == rules["acdc_woodfisher_percentile_gt"]["mask"]


@settings(max_examples=40)
@given(layers(SIGNED), SPARSITIES)
def test_released_selection_drops_all_ties_at_its_threshold(
    weights: dict[str, Tensor], sparsity: float
) -> None:
    values = {name: weight.float() for name, weight in weights.items()}
    scores = torch.cat([v.abs().reshape(-1) + 1e-4 for v in values.values()])
    masks = released_acdc_masks(values, sparsity)
    kept = torch.cat([mask.reshape(-1) for mask in masks.values()])
    if sparsity == 0:
        assert bool(kept.all())
    else:
        k = math.ceil(len(scores) * (1 - sparsity))
        assert torch.equal(kept, scores > sorted(scores.tolist(), reverse=True)[k - 1])


def test_mask_change_by_hand() -> None:
    before = {"a": torch.tensor([1, 1, 0, 0]).bool(), "b": torch.tensor([1, 0]).bool()}
    after = {"a": torch.tensor([1, 0, 1, 0]).bool(), "b": torch.tensor([0, 1]).bool()}
    # Two weights came in, three are kept, one is in both, five in either, six in all.
    assert mask_change(before, after) == {
        "relative": 4 / 6,
        "of_kept": 2 / 3,
        "jaccard": 1 / 5,
    }
    assert mask_change(after, after) == {"relative": 0.0, "of_kept": 0.0, "jaccard": 1.0}
    nothing = {name: torch.zeros_like(mask) for name, mask in after.items()}
    assert mask_change(nothing, nothing) == {"relative": 0.0, "of_kept": 0.0, "jaccard": 1.0}


def test_count_nonzeros_by_hand() -> None:
    tensors = {"a": torch.tensor([0.0, -0.0, 2.0]), "b": torch.tensor([[1.0, -1.0]])}
    assert count_nonzeros(tensors) == {"a": 1, "b": 2}
