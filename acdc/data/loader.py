"""Loaders: what gives a rank its share of each batch, on its device and normalised.

Order and augmentation of an epoch are functions of seed, epoch and position in the epoch, never of
history: an epoch can be entered at any batch, and any number of ranks sees the same images.
"""

from __future__ import annotations

import abc
from collections.abc import Iterator, Sized
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, TypeVar

import torch
from torch import Tensor

from acdc import seeds
from acdc.data.augmentation import Augmentation
from acdc.distributed import Ranks

Split = Literal["training", "validation", "test"]
Batch = tuple[Tensor, Tensor]
"""Inputs (N, C, H, W) in single precision, channels last in memory, and labels (N,) as int64.
Of text: tokens (B, T), and the tokens that follow each of them, both as int64."""

SPLIT_SEED = 2021
"""Of the draw of validation images, the same for all runs: seeds must choose on the same images."""
EVALUATION_BATCH = 500
"""Images per batch in evaluation, small enough for a processor's cache."""


@dataclass(frozen=True)
class LoaderPlan:
    """What a loader needs to know of the run."""

    seed: int
    batch_size: int
    """Images per step over all ranks."""
    augmentation: Augmentation
    device: torch.device
    ranks: Ranks = field(default_factory=Ranks)
    workers: int = 2
    """Processes that decode images, for data sets in files."""
    segment: int = 0
    """Tokens of each stream per step, for text."""

    def order(self, images: int, epoch: int) -> Tensor:
        """Return the order in which an epoch sees the training images, (images,) as int64."""
        return torch.randperm(images, generator=seeds.generator(self.seed, "data_order", epoch))

    def shares(self, images: int, first: int) -> Iterator[slice]:
        """Yield this rank's positions of each batch of an epoch, starting at batch ``first``."""
        share = self.ranks.slice(self.batch_size)
        for batch in range(first, images // self.batch_size):
            start = batch * self.batch_size
            yield slice(start + share.start, start + share.stop)


@dataclass(frozen=True)
class Relabelled:
    """Training images whose labels were drawn at random."""

    numbers: Tensor
    """Indices into the training images, ascending, (N,) as int64."""
    true_labels: Tensor
    """Their original labels, (N,) as int64."""
    changed: Tensor
    """Whether the drawn label is another, (N,) as bool."""

    def __len__(self) -> int:
        return len(self.numbers)


ImagesT = TypeVar("ImagesT", bound=Sized)


@dataclass(frozen=True)
class Dataset(abc.ABC, Generic[ImagesT]):
    """The three splits of a data set that has been located and verified."""

    training: ImagesT
    validation: ImagesT
    test: ImagesT

    verified: str = field(default="nothing", kw_only=True)
    """What loading verified."""
    remark: str = field(default="", kw_only=True)
    """What else there is to know of the files."""

    @property
    def sizes(self) -> dict[Split, int]:
        """Images of each split."""
        return {
            "training": len(self.training),
            "validation": len(self.validation),
            "test": len(self.test),
        }

    @abc.abstractmethod
    def loader(self, plan: LoaderPlan) -> Loader:
        """Return what gives a rank its batches."""


class Loader(abc.ABC):
    """Gives the batches of a data set to one rank."""

    batches: int
    """Steps of an epoch."""
    batch_samples: int
    """What FLOPs are counted for, images or tokens: those of a step, over all ranks."""
    examples: int
    """Of which ``samples`` takes some: images or segments."""
    relabelled: Relabelled | None = None
    """The training images with random labels, over all ranks; None: no label is random."""

    def __init__(self, images: Dataset[Any], plan: LoaderPlan) -> None:
        self.plan = plan
        self.sizes = images.sizes
        """Images or tokens of each split, over all ranks."""
        self.remark = images.remark
        self.examples = self.sizes["training"]
        self.batches = self.examples // plan.batch_size
        self.batch_samples = plan.batch_size

    @abc.abstractmethod
    def training(self, epoch: int, first: int = 0) -> Iterator[Batch]:
        """Yield this rank's share of each batch of an epoch, augmented, from batch ``first``.

        The last images of an epoch, too few for a batch, are left out.
        """

    @abc.abstractmethod
    def evaluation(self, split: Split) -> Iterator[Batch]:
        """Yield this rank's share of a split, not augmented; all ranks yield each image once."""

    @abc.abstractmethod
    def samples(self, chosen: Tensor) -> Batch:
        """Return training images or segments by index (a CPU tensor), not augmented."""

    def close(self) -> None:  # noqa: B027
        """Release processes and memory; by default there are none to release."""


def standardise(pixels: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Return (x - mean) / std of bytes in single precision, in two passes and one allocation."""
    return torch.sub(pixels, mean).div_(std)
