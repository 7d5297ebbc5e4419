"""Batches of sets in memory: in the order of the seed, augmented within bounds, shared by ranks."""

from collections import Counter
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from acdc import seeds
from acdc.data import DATASETS
from acdc.data.augmentation import Augmentation
from acdc.data.loader import LoaderPlan, standardise
from acdc.data.memory import MemoryLoader
from acdc.data.shifts import PaddedImages, draw_shifts
from acdc.distributed import Ranks


def shifted(image: Tensor, down: int, right: int) -> Tensor:
    """Return an image (C, H, W) moved by whole pixels, zeros coming in, pixel by pixel."""
    _, height, width = image.shape
    result = torch.zeros_like(image)
    for row in range(height):
        for column in range(width):
            if 0 <= row - down < height and 0 <= column - right < width:
                result[:, row, column] = image[:, row - down, column - right]
    return result


def numbered_images(count: int, channels: int, size: int) -> Tensor:
    """Return images without any symmetry: all their pixels differ."""
    pixels = torch.arange(channels * size * size).remainder(251).add(1).to(torch.uint8)
    return pixels.reshape(1, channels, size, size).repeat(count, 1, 1, 1)


def reach_of(how: Augmentation, size: int) -> int:
    return max(size // 8, 1) if "shift" in how else 0


def augmented(images: torch.Tensor, how: Augmentation, seed: int) -> torch.Tensor:
    reach = reach_of(how, images.shape[2])
    shifts = draw_shifts(how, reach, len(images), torch.Generator().manual_seed(seed))
    return PaddedImages(images, reach).windows(torch.arange(len(images)), shifts)


@settings(max_examples=20)
@given(
    st.sampled_from(["flip", "shift", "shift_flip"]),
    st.integers(1, 2),
    st.sampled_from([4, 8, 16]),
    st.integers(0, 2**32),
)
def test_images_are_shifted(how: Augmentation, channels: int, size: int, seed: int) -> None:
    images = numbered_images(6, channels, size)
    images[1::2] = images[1::2].flip(2)
    out = augmented(images, how, seed)
    reach = reach_of(how, size)
    flips = (False, True) if "flip" in how else (False,)
    for image, moved in zip(images, out, strict=True):
        candidates = (
            shifted(image.flip(2) if flip else image, down, right)
            for flip in flips
            for down in range(-reach, reach + 1)
            for right in range(-reach, reach + 1)
        )
        assert any(torch.equal(moved, candidate) for candidate in candidates)


def test_shifts_and_flips_are_uniform() -> None:
    images = numbered_images(1800, 1, 8)
    out = augmented(images, "shift_flip", 0)
    counts = Counter(image.numpy().tobytes() for image in out)
    # 9 shifts, 2 orientations: 100 each on average, standard deviation 10; six of those either way.
    assert len(counts) == 18
    assert min(counts.values()) > 40
    assert max(counts.values()) < 160


def feed(augmentation: Augmentation, ranks: Ranks | None = None, **plan: Any) -> MemoryLoader:
    whole = {"seed": 1, "batch_size": 250, "device": torch.device("cpu")} | plan
    return MemoryLoader(
        DATASETS["digits"].load(),
        LoaderPlan(augmentation=augmentation, ranks=ranks or Ranks(), **whole),
    )


def test_batches_without_augmentation() -> None:
    images = DATASETS["digits"].load()
    order = torch.randperm(1294, generator=seeds.generator(1, "data_order", 3))
    batches = list(feed("none").training(3))
    assert [len(labels) for _, labels in batches] == [250] * 5
    expected = (images.training.pixels[order[:1250]].float() - images.mean) / images.std
    assert torch.equal(torch.cat([inputs for inputs, _ in batches]), expected)
    assert torch.equal(
        torch.cat([labels for _, labels in batches]), images.training.labels[order[:1250]]
    )
    inputs, labels = feed("shift").samples(order[:7])
    assert torch.equal(inputs, expected[:7])
    assert torch.equal(labels, images.training.labels[order[:7]])


def test_epochs_can_begin_at_any_batch() -> None:
    whole = list(feed("shift").training(2))
    for first in range(6):
        rest = list(feed("shift").training(2, first))
        assert len(rest) == 5 - first
        for (a, b), (c, d) in zip(rest, whole[first:], strict=True):
            assert torch.equal(a, c)
            assert torch.equal(b, d)


@pytest.mark.parametrize("count", [2, 5])
def test_ranks_share_batches_and_splits(count: int) -> None:
    shares = [feed("shift", Ranks(rank, count)) for rank in range(count)]
    whole = feed("shift")
    for parts in zip(whole.training(1), *(share.training(1) for share in shares), strict=True):
        (inputs, labels), *mine = parts
        assert torch.equal(torch.cat([x for x, _ in mine]), inputs)
        assert torch.equal(torch.cat([y for _, y in mine]), labels)
        assert {len(y) for _, y in mine} == {250 // count}
    for name in ("validation", "test"):
        together = [y for share in shares for _, y in share.evaluation(name)]
        assert torch.equal(torch.cat(together), torch.cat([y for _, y in whole.evaluation(name)]))


def test_inputs_are_channels_last() -> None:
    pixels = numbered_images(4, 3, 8)
    padded = PaddedImages(pixels, 1)
    shifts = draw_shifts("shift", 1, 4, torch.Generator().manual_seed(0))
    taken = padded.windows(torch.arange(4), shifts)
    assert taken.is_contiguous(memory_format=torch.channels_last)
    assert standardise(taken, torch.zeros(1, 3, 1, 1), torch.ones(1, 3, 1, 1)).is_contiguous(
        memory_format=torch.channels_last
    )
