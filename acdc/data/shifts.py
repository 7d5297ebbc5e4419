"""The augmentations ``shift`` and ``shift_flip`` of images in memory, a whole batch at a time."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from acdc.data.augmentation import Augmentation


@dataclass(frozen=True)
class Shifts:
    """How each image of an epoch is moved, by its position in the epoch."""

    rows: Tensor
    """First row of the window in the padded image, (N,)."""
    columns: Tensor
    """First column, (N,)."""
    mirrored: Tensor
    """Whether the image is flipped horizontally, (N,) as bool."""

    def to(self, device: torch.device) -> Shifts:
        """Return the shifts on a device."""
        return Shifts(self.rows.to(device), self.columns.to(device), self.mirrored.to(device))

    def part(self, chosen: slice) -> Shifts:
        """Return the shifts of some positions."""
        return Shifts(self.rows[chosen], self.columns[chosen], self.mirrored[chosen])


def draw_shifts(
    augmentation: Augmentation, reach: int, count: int, generator: torch.Generator
) -> Shifts:
    """Draw the shifts of an epoch, uniform over ``reach`` pixels in each direction.

    Args:
        augmentation: ``shift``, or ``shift_flip``, which mirrors with probability 1/2.
        reach: pixels.
        count: images.
        generator: a CPU generator, so that all devices draw alike.
    """
    rows, columns = torch.randint(0, 2 * reach + 1, (2, count), generator=generator)
    if augmentation == "shift_flip":
        mirrored = torch.randint(0, 2, (count,), generator=generator).bool()
    else:
        mirrored = torch.zeros(count, dtype=torch.bool)
    return Shifts(rows, columns, mirrored)


class PaddedImages:
    """Images with a border of zeros, from which a batch of windows is gathered in one operation.

    Args:
        pixels: (N, C, H, W) as uint8.
        reach: width of the border in pixels.
    """

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
