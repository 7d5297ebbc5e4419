"""Images as byte tensors in memory, their splits and their normalisation."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from acdc.data.feed import Feed, FeedPlan, Split

# One split for all runs: it must not depend on a run's seed, or seeds would choose on other images.
_SPLIT_SEED = 2021
# Likewise: what one run memorizes is compared with what another does.
_RELABEL_SEED = 1000


@dataclass(frozen=True)
class Images:
    """Images (N, C, H, W) as uint8 and their labels (N,) as int64."""

    pixels: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def first(self, count: int | None) -> Images:
        """Return the first ``count`` images, or all."""
        return Images(self.pixels[:count], self.labels[:count])


@dataclass(frozen=True)
class Relabelled:
    """Training images whose labels were drawn at random."""

    numbers: Tensor
    """Which of the training images, ascending, (N,) as int64."""
    true_labels: Tensor
    """The labels that they had, (N,) as int64."""

    def __len__(self) -> int:
        return len(self.numbers)


@dataclass(frozen=True)
class ImageSet:
    """The three splits of a data set and the normalisation of its pixels."""

    training: Images
    validation: Images
    test: Images
    mean: Tensor
    """Per channel mean of the training pixels, in units of the byte values, shape (1, C, 1, 1)."""
    std: Tensor
    """Per channel standard deviation, likewise."""
    relabelled: Relabelled | None = None
    """The training images with random labels, in sets that have some."""

    @property
    def sizes(self) -> dict[Split, int]:
        """Images of each split."""
        return {
            "training": len(self.training),
            "validation": len(self.validation),
            "test": len(self.test),
        }

    def feed(self, plan: FeedPlan) -> Feed:
        """Return what gives a rank its batches."""
        from acdc.data.feed import MemoryFeed

        return MemoryFeed(self, plan)

    def normalise(self, pixels: Tensor) -> Tensor:
        """Return bytes as floats of zero mean and unit variance, channels last in memory."""
        return scale(pixels, self.mean, self.std).contiguous(memory_format=torch.channels_last)


def scale(pixels: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Return (x - mean) / std of bytes in single precision, in two passes and one allocation."""
    return torch.sub(pixels, mean).div_(std)


def split(pixels: np.ndarray, labels: np.ndarray, test: Images) -> ImageSet:
    """Set a fixed random tenth of the training images aside for validation.

    Args:
        pixels: uint8, (N, C, H, W).
        labels: (N,).
        test: the test images, as they are.
    """
    order = np.random.default_rng(_SPLIT_SEED).permutation(len(labels))
    held_out = len(labels) // 10
    chosen, rest = np.sort(order[:held_out]), np.sort(order[held_out:])
    training = as_images(pixels[rest], labels[rest])
    mean, std = moments(training.pixels)
    return ImageSet(
        training=training,
        validation=as_images(pixels[chosen], labels[chosen]),
        test=test,
        mean=mean,
        std=std,
    )


def relabel(images: ImageSet, count: int, classes: int) -> ImageSet:
    """Give some of the training images labels drawn uniformly from all classes (Appendix B.6).

    The draw is the same for all runs. One image in ``classes`` keeps its label by chance.
    """
    generator = np.random.default_rng(_RELABEL_SEED)
    chosen = np.sort(generator.permutation(len(images.training))[:count])
    numbers = torch.from_numpy(chosen)
    labels = images.training.labels.clone()
    relabelled = Relabelled(numbers, labels[numbers])
    labels[numbers] = torch.from_numpy(generator.integers(0, classes, count))
    return replace(images, training=Images(images.training.pixels, labels), relabelled=relabelled)


def moments(pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation of bytes by channel, each (1, C, 1, 1).

    By the counts of the 256 values, exactly, without a copy in floating point.
    """
    values = torch.arange(256, dtype=torch.float64)
    means, deviations = [], []
    for channel in pixels.unbind(1):
        counts = torch.bincount(channel.flatten(), minlength=256).double()
        number = counts.sum()
        mean = (counts * values).sum() / number
        means.append(mean)
        deviations.append(((counts * (values - mean).square()).sum() / (number - 1)).sqrt())
    shape = (1, -1, 1, 1)
    return torch.stack(means).float().view(shape), torch.stack(deviations).float().view(shape)


def as_images(pixels: np.ndarray, labels: np.ndarray) -> Images:
    """Return arrays as tensors."""
    return Images(
        torch.from_numpy(np.array(pixels)),  # a copy: files are read into read-only memory
        torch.from_numpy(labels.astype(np.int64)),
    )
