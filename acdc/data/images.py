"""Images as byte tensors, and the operations on whole batches: shifting, flipping, normalising."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from acdc.config import Augmentation

# One split for all runs: it must not depend on a run's seed, or seeds would choose on other images.
_SPLIT_SEED = 2021


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

    def to(self, device: torch.device) -> Images:
        return Images(self.pixels.to(device), self.labels.to(device))


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

    def to(self, device: torch.device) -> ImageSet:
        return ImageSet(
            self.training.to(device),
            self.validation.to(device),
            self.test.to(device),
            self.mean.to(device),
            self.std.to(device),
        )

    def normalise(self, pixels: Tensor) -> Tensor:
        """Return bytes as floats of zero mean and unit variance, channels last in memory."""
        scaled = (pixels.float() - self.mean) / self.std
        return scaled.contiguous(memory_format=torch.channels_last)


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
    flat = training.pixels.double()
    return ImageSet(
        training=training,
        validation=as_images(pixels[chosen], labels[chosen]),
        test=test,
        mean=flat.mean(dim=(0, 2, 3), keepdim=True).float(),
        std=flat.std(dim=(0, 2, 3), keepdim=True).float(),
    )


def as_images(pixels: np.ndarray, labels: np.ndarray) -> Images:
    """Return arrays as tensors."""
    return Images(
        torch.from_numpy(np.array(pixels)),  # a copy: files are read into read-only memory
        torch.from_numpy(labels.astype(np.int64)),
    )


def augment(pixels: Tensor, how: Augmentation, generator: torch.Generator) -> Tensor:
    """Return a batch of bytes, each image shifted and perhaps mirrored by its own draw.

    Shifts are uniform over up to an eighth of the image's size in each direction, filled with
    zeros; a flip is horizontal, with probability one half. All draws are made on the CPU.

    Args:
        pixels: (N, C, H, W).
        how: which of the operations.
        generator: of the draws, on the CPU.
    """
    if how == "none":
        return pixels
    count, _, height, width = pixels.shape
    reach = max(height // 8, 1)
    rows, columns = torch.randint(0, 2 * reach + 1, (2, count), generator=generator)
    padded = torch.nn.functional.pad(pixels, (reach, reach, reach, reach))
    # Every shifted copy is a view of the padded image; indexing copies one view per image.
    views = padded.unfold(2, height, 1).unfold(3, width, 1)
    shifted = views[torch.arange(count), :, rows, columns]
    if how == "shift":
        return shifted
    flip = torch.randint(0, 2, (count, 1, 1, 1), generator=generator).bool().to(pixels.device)
    return torch.where(flip, shifted.flip(3), shifted)
