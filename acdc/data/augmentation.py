"""Names of the random augmentations of training images."""

from typing import Literal

Augmentation = Literal["none", "flip", "shift", "shift_flip", "crop_flip"]
"""``flip``: mirrored with probability 1/2; ``shift``: by up to an eighth of the height, zeros
coming in; ``crop``: to 8 to 100 % of the area; ``shift_flip`` and ``crop_flip``: both."""
