"""Names of the random augmentations of training images, and which of them suit a data set."""

from __future__ import annotations

from typing import Literal

Augmentation = Literal["none", "shift", "shift_flip", "crop_flip"]
"""``shift``: by up to an eighth of the height, zeros coming in; ``shift_flip``: the same,
mirrored with probability 1/2; ``crop_flip``: a random crop of 8 to 100 % of the area, and that."""


def suitable(*, in_files: bool, upright: bool) -> tuple[Augmentation, ...]:
    """Return the augmentations that a data set allows.

    Args:
        in_files: images are decoded from files, which are cropped, instead of held in memory.
        upright: a mirrored image is no longer of its class.
    """
    if in_files:
        return ("none",) if upright else ("none", "crop_flip")
    return ("none", "shift") if upright else ("none", "shift", "shift_flip")
