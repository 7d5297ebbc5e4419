"""Image sets held in memory as bytes, their splits, their normalisation and their loader."""

from __future__ import annotations

import functools
import gzip
import hashlib
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from acdc import seeds
from acdc.data.loader import (
    EVALUATION_BATCH,
    SPLIT_SEED,
    Batch,
    Dataset,
    Loader,
    LoaderPlan,
    Relabelled,
    Split,
    standardise,
)
from acdc.data.shifts import PaddedImages, draw_shifts
from acdc.errors import DataError

# The same for all runs: what one run memorizes is compared with what another does.
_RELABEL_SEED = 1000


@dataclass(frozen=True)
class Images:
    """Images (N, C, H, W) as uint8 and their labels (N,) as int64."""

    pixels: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, part: slice) -> Images:
        """Return some of the images."""
        return Images(self.pixels[part], self.labels[part])

    def to(self, device: torch.device) -> Images:
        """Return the images on a device."""
        return Images(self.pixels.to(device), self.labels.to(device))


@dataclass(frozen=True)
class ImageSet(Dataset[Images]):
    """A data set in memory and the normalisation of its pixels."""

    mean: Tensor
    """Of the training pixels by channel, in units of the byte values, (1, C, 1, 1)."""
    std: Tensor
    """Standard deviation, likewise."""
    relabelled: Relabelled | None = None
    """The training images with random labels; None: no label is random."""

    def loader(self, plan: LoaderPlan) -> MemoryLoader:
        return MemoryLoader(self, plan)

    def normalise(self, pixels: Tensor) -> Tensor:
        """Return bytes as floats of zero mean and unit variance, channels last in memory."""
        inputs = standardise(pixels, self.mean, self.std)
        return inputs.contiguous(memory_format=torch.channels_last)


class MemoryLoader(Loader):
    """Loads from images that lie in the device's memory as bytes."""

    def __init__(self, images: ImageSet, plan: LoaderPlan) -> None:
        super().__init__(images, plan)
        device = plan.device
        self.relabelled = images.relabelled
        self.labels = images.training.labels.to(device)
        self.mean, self.std = images.mean.to(device), images.std.to(device)
        height = images.training.pixels.shape[2]
        self.reach = max(height // 8, 1) if plan.augmentation.startswith("shift") else 0
        self.pixels = PaddedImages(images.training.pixels.to(device), self.reach)
        self.unmoved = torch.tensor([[self.reach], [self.reach], [0]], device=device)
        self.held_out: dict[Split, Images] = {
            "validation": images.validation[plan.ranks.slice(len(images.validation))].to(device),
            "test": images.test[plan.ranks.slice(len(images.test))].to(device),
        }

    def training(self, epoch: int, first: int = 0) -> Iterator[Batch]:
        plan = self.plan
        order = plan.order(self.sizes["training"], epoch).to(plan.device)
        labels = self.labels[order]
        drawn = None
        if plan.augmentation != "none":
            generator = seeds.generator(plan.seed, "augmentation", epoch)
            drawn = draw_shifts(plan.augmentation, self.reach, len(order), generator)
            drawn = drawn.to(plan.device)
        for mine in plan.shares(len(order), first):
            shifts = drawn[:, mine] if drawn is not None else self.unmoved
            yield self.normalise(self.pixels.windows(order[mine], shifts)), labels[mine]

    def evaluation(self, split: Split) -> Iterator[Batch]:
        images = self.held_out[split]
        for start in range(0, len(images), EVALUATION_BATCH):
            part = images[start : start + EVALUATION_BATCH]
            inputs = self.normalise(part.pixels)
            yield inputs.contiguous(memory_format=torch.channels_last), part.labels

    def samples(self, chosen: Tensor) -> Batch:
        chosen = chosen.to(self.plan.device)
        return self.normalise(self.pixels.windows(chosen, self.unmoved)), self.labels[chosen]

    def normalise(self, pixels: Tensor) -> Tensor:
        """Return bytes as floats of zero mean and unit variance over the training images."""
        return standardise(pixels, self.mean, self.std)


def split(
    pixels: np.ndarray, labels: np.ndarray, test: Images, verified: str = "nothing"
) -> ImageSet:
    """Return a data set whose validation images are a fixed random tenth of the training images.

    Args:
        pixels: of the training images, (N, C, H, W) as uint8.
        labels: of the training images, (N,).
        test: the test images.
        verified: what has been verified of the images.
    """
    order = np.random.default_rng(SPLIT_SEED).permutation(len(labels))
    held_out = len(labels) // 10
    chosen, rest = np.sort(order[:held_out]), np.sort(order[held_out:])
    training = as_images(pixels[rest], labels[rest])
    validation = as_images(pixels[chosen], labels[chosen])
    mean, std = moments(training.pixels)
    return ImageSet(training, validation, test, mean, std, verified=verified)


def relabel(images: ImageSet, count: int, classes: int) -> ImageSet:
    """Return the data set with ``count`` training labels drawn uniformly from all classes.

    The draw is the same for all runs. One image in ``classes`` keeps its label by chance (Appendix
    B.6 of the paper).
    """
    generator = np.random.default_rng(_RELABEL_SEED)
    numbers = torch.from_numpy(np.sort(generator.permutation(len(images.training))[:count]))
    labels = images.training.labels.clone()
    true, drawn = labels[numbers], torch.from_numpy(generator.integers(0, classes, count))
    relabelled = Relabelled(numbers, true, true != drawn)
    labels[numbers] = drawn
    return replace(images, training=Images(images.training.pixels, labels), relabelled=relabelled)


def moments(pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation of bytes by channel, each (1, C, 1, 1).

    Computed exactly from the counts of the 256 values, without a copy in floating point.
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


CHECKSUMS = "checksums match"
# Runs that follow one another in a process read the same files.
_decompress = functools.lru_cache(maxsize=4)(gzip.decompress)


def read_verified(path: Path, digest: str, remedy: str) -> bytes:
    """Return the content of a file, decompressed if its name ends in gz.

    Raises:
        DataError: the file is unreadable, or its content has another sha256; says how to get it.
    """
    try:
        raw = path.read_bytes()
        content = _decompress(raw) if path.suffix == ".gz" else raw
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(
            f"data file {path} (sha256 {digest}) cannot be read ({error}); {remedy}"
        ) from None
    actual = hashlib.sha256(content).hexdigest()
    if actual != digest:
        raise DataError(
            f"data file {path} is damaged: its content has sha256 {actual}, not {digest}; {remedy}"
        )
    return content
