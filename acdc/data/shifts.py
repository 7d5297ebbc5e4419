"""Shifts and mirroring of images in memory, a whole batch at a time."""

from __future__ import annotations

import torch
from torch import Tensor

from acdc.data.augmentation import Augmentation


def draw_shifts(
    augmentation: Augmentation, reach: int, count: int, generator: torch.Generator
) -> Tensor:
    """Draw how each image of an epoch is moved, uniform over ``reach`` pixels in each direction.

    Args:
        augmentation: ``shift``, or one that also mirrors, with probability 1/2.
        reach: pixels.
        count: images.
        generator: a CPU generator, so that all devices draw alike.

    Returns:
        First row and first column of each window in the padded image, and whether it is mirrored,
        (3, count) as int64.
    """
    corners = torch.randint(0, 2 * reach + 1, (2, count), generator=generator)
    mirrored = torch.zeros((1, count), dtype=torch.int64)
    if augmentation.endswith("flip"):
        mirrored = torch.randint(0, 2, (1, count), generator=generator)
    return torch.cat([corners, mirrored])


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

    def windows(self, chosen: Tensor, shifts: Tensor) -> Tensor:
        """Return one window of each chosen image, (N, C, H, W) bytes, channels last in memory."""
        first_row, first_column, mirrored = shifts
        corner = chosen * self.area + first_row * self.columns + first_column
        columns = torch.where(
            mirrored[:, None, None].bool(),
            self.width - 1 - self.column_offsets,
            self.column_offsets,
        )
        places = corner[:, None, None] + self.row_offsets + columns
        taken = self.flat.index_select(0, places.flatten())
        shape = (len(chosen), self.height, self.width, self.channels)
        return taken.view(shape).permute(0, 3, 1, 2)
