"""Names of the random augmentations of training images."""

from typing import Literal

Augmentation = Literal["none", "shift", "shift_flip", "crop_flip"]
"""``shift``: by up to an eighth of the height, zeros coming in; ``shift_flip``: the same,
mirrored with probability 1/2; ``crop_flip``: a random crop of 8 to 100 % of the area, and that."""
