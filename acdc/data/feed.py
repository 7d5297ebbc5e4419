"""Feeds: what gives a rank its share of each batch, on its device and normalised.

Order and augmentation of an epoch are functions of seed, epoch and position in the epoch, never of
history: a feed can begin at any batch, and any number of ranks sees the same images.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

import torch
from torch import Tensor

from acdc import seeds
from acdc.data.images import Images, ImageSet, Relabelled, scale
from acdc.distributed import Ranks

if TYPE_CHECKING:
    from acdc.config.recipe import Augmentation

Split = Literal["training", "validation", "test"]
Batch = tuple[Tensor, Tensor]
"""Inputs (N, C, H, W) in single precision, channels last in memory, and labels (N,) as int64."""

EVALUATED_AT_ONCE = 500
"""Images of a batch in evaluation, which is kept small enough for a processor's cache."""


@dataclass(frozen=True)
class FeedPlan:
    """What a feed needs to know of the run."""

    seed: int
    batch_size: int
    """Images of a step over all ranks."""
    augmentation: Augmentation
    device: torch.device
    ranks: Ranks = field(default_factory=Ranks)
    workers: int = 2
    """Threads or processes that decode images, for sets that are not in memory."""

    def order(self, images: int, epoch: int) -> Tensor:
        """Return the order in which an epoch sees the training images."""
        return torch.randperm(images, generator=seeds.generator(self.seed, "data_order", epoch))

    def shares(self, images: int, first: int) -> Iterator[slice]:
        """Yield this rank's positions of each batch of an epoch, from batch ``first`` on."""
        share = self.ranks.slice(self.batch_size)
        for batch in range(first, images // self.batch_size):
            start = batch * self.batch_size
            yield slice(start + share.start, start + share.stop)


class Feed(Protocol):
    """Gives the batches of a data set to one rank."""

    sizes: Mapping[Split, int]
    """Images of each split, over all ranks."""
    relabelled: Relabelled | None
    """The training images with random labels, over all ranks, in sets that have some."""

    def training(self, epoch: int, first: int = 0) -> Iterator[Batch]:
        """Yield this rank's share of each batch of an epoch, augmented, from batch ``first`` on.

        The last images of an epoch, too few for a batch, are left out.
        """

    def evaluation(self, split: Split) -> Iterator[Batch]:
        """Yield this rank's share of a split, not augmented; together they yield it once."""

    def samples(self, chosen: Tensor) -> Batch:
        """Return training images by their numbers (on the CPU), not augmented."""

    def close(self) -> None:
        """Let go of what reads the images."""


@dataclass(frozen=True)
class Shifts:
    """How each image of an epoch is moved, by its position in the epoch."""

    rows: Tensor
    """First row that is taken of the padded image, (N,)."""
    columns: Tensor
    """First column, likewise."""
    mirrored: Tensor
    """Whether columns run backwards, (N,) of truth values."""


def draw_shifts(how: Augmentation, reach: int, count: int, generator: torch.Generator) -> Shifts:
    """Draw an epoch's augmentation: shifts uniform over ``reach`` pixels in each direction.

    Args:
        how: shift, or shift_flip: mirrored with probability one half.
        reach: pixels.
        count: images.
        generator: a CPU generator, so that devices draw alike.
    """
    rows, columns = torch.randint(0, 2 * reach + 1, (2, count), generator=generator)
    if how == "shift_flip":
        mirrored = torch.randint(0, 2, (count,), generator=generator).bool()
    else:
        mirrored = torch.zeros(count, dtype=torch.bool)
    return Shifts(rows, columns, mirrored)


class PaddedImages:
    """Images with a border of zeros, of which any windows can be taken in one operation."""

    def __init__(self, pixels: Tensor, reach: int) -> None:
        self.count, self.channels, self.height, self.width = pixels.shape
        border = (0, 0, reach, reach, reach, reach)
        last = pixels.permute(0, 2, 3, 1)
        padded = torch.nn.functional.pad(last, border) if reach else last.contiguous()
        self.columns = self.width + 2 * reach
        self.area = (self.height + 2 * reach) * self.columns
        self.flat = padded.reshape(-1, self.channels)
        device = pixels.device
        self.row_offsets = torch.arange(self.height, device=device)[:, None] * self.columns
        self.column_offsets = torch.arange(self.width, device=device)[None]

    def windows(self, chosen: Tensor, shifts: Shifts) -> Tensor:
        """Return one window of each chosen image, (N, C, H, W) bytes, channels last in memory."""
        corner = chosen * self.area + shifts.rows * self.columns + shifts.columns
        columns = torch.where(
            shifts.mirrored[:, None, None],
            self.width - 1 - self.column_offsets,
            self.column_offsets,
        )
        places = corner[:, None, None] + self.row_offsets + columns
        taken = self.flat.index_select(0, places.flatten())
        shape = (len(chosen), self.height, self.width, self.channels)
        return taken.view(shape).permute(0, 3, 1, 2)


class MemoryFeed:
    """Feeds from images that lie in the device's memory as bytes."""

    def __init__(self, images: ImageSet, plan: FeedPlan) -> None:
        self.plan = plan
        device = plan.device
        self.labels = images.training.labels.to(device)
        self.mean, self.std = images.mean.to(device), images.std.to(device)
        self.sizes: Mapping[Split, int] = images.sizes
        self.relabelled = images.relabelled
        self.reach = (
            0 if plan.augmentation == "none" else max(images.training.pixels.shape[2] // 8, 1)
        )
        self.pixels = PaddedImages(images.training.pixels.to(device), self.reach)
        # Nobody moves and nobody mirrors: the window in the middle.
        middle = torch.full((1,), self.reach, device=device)
        self.middle = Shifts(middle, middle, torch.zeros(1, dtype=torch.bool, device=device))
        self.held_out: dict[str, Images] = {}
        for split, whole in (("validation", images.validation), ("test", images.test)):
            mine = plan.ranks.slice(len(whole))
            self.held_out[split] = Images(
                whole.pixels[mine].to(device), whole.labels[mine].to(device)
            )

    def training(self, epoch: int, first: int = 0) -> Iterator[Batch]:
        plan, device = self.plan, self.plan.device
        order = plan.order(self.sizes["training"], epoch).to(device)
        labels = self.labels[order]
        generator = seeds.generator(plan.seed, "augmentation", epoch)
        moved = plan.augmentation != "none"
        if moved:
            drawn = draw_shifts(plan.augmentation, self.reach, len(order), generator)
            rows, columns = drawn.rows.to(device), drawn.columns.to(device)
            mirrored = drawn.mirrored.to(device)
        for mine in plan.shares(len(order), first):
            shifts = Shifts(rows[mine], columns[mine], mirrored[mine]) if moved else self.middle
            yield self.normal(self.pixels.windows(order[mine], shifts)), labels[mine]

    def evaluation(self, split: Split) -> Iterator[Batch]:
        images = self.held_out[split]
        pixels, labels = images.pixels, images.labels
        for start in range(0, len(images), EVALUATED_AT_ONCE):
            part = slice(start, start + EVALUATED_AT_ONCE)
            inputs = self.normal(pixels[part])
            yield inputs.contiguous(memory_format=torch.channels_last), labels[part]

    def samples(self, chosen: Tensor) -> Batch:
        chosen = chosen.to(self.plan.device)
        return self.normal(self.pixels.windows(chosen, self.middle)), self.labels[chosen]

    def normal(self, pixels: Tensor) -> Tensor:
        """Return bytes normalised by the training images."""
        return scale(pixels, self.mean, self.std)

    def close(self) -> None:
        """Nothing is open."""
