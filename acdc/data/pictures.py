"""Reading one image file: decoding, cropping, resizing. What the workers of a folder feed do.

The random crop is that of Szegedy et al. 2015 with the bounds of torchvision's RandomResizedCrop,
the evaluation's view that of its ImageNet references: both are bit-identical to torchvision on PIL
images, which spends more time on calls.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from PIL import Image

from acdc.errors import DataError

SIZE = 224
"""Height and width of what is read, in pixels."""
SHORTER_SIDE = 256
"""To what the shorter side is resized before the centre is taken, in pixels."""
_AREAS = (0.08, 1.0)
_RATIOS = (3 / 4, 4 / 3)
_ATTEMPTS = 10


class Draw(NamedTuple):
    """What an image's random crop and flip are a function of, beside its own size."""

    key: int
    """Of the epoch, 64 bits."""
    position: int
    """In the epoch's order."""


class Crop(NamedTuple):
    """A window of an image in pixels, and whether it is mirrored."""

    left: int
    top: int
    width: int
    height: int
    mirrored: bool


def draw_crop(width: int, height: int, draw: Draw) -> Crop:
    """Draw a crop of 8 % to all of an image's area and of ratio 3/4 to 4/3, mirrored or not.

    The window that does not fit is drawn again up to ten times; then the largest one in the middle
    whose ratio is within the bounds is taken.
    """
    # A generator that counts: any image of any epoch is drawn without those before it.
    counter = np.random.Philox(key=draw.key, counter=[0, 0, 0, draw.position])
    uniform = np.random.Generator(counter).random(2 * _ATTEMPTS + 3).tolist()
    mirrored = uniform.pop() < 0.5
    across, down = uniform.pop(), uniform.pop()
    low, high = (math.log(ratio) for ratio in _RATIOS)
    for attempt in range(0, 2 * _ATTEMPTS, 2):
        area = width * height * (_AREAS[0] + (_AREAS[1] - _AREAS[0]) * uniform[attempt])
        ratio = math.exp(low + (high - low) * uniform[attempt + 1])
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(across * (width - w + 1)), int(down * (height - h + 1))
            return Crop(left, top, w, h, mirrored)
    w, h = min(width, round(height * _RATIOS[1])), min(height, round(width / _RATIOS[0]))
    return Crop((width - w) // 2, (height - h) // 2, w, h, mirrored)


def read(path: str, draw: Draw | None) -> np.ndarray:
    """Return an image file as RGB bytes (224, 224, 3), cropped at random or, undrawn, its centre.

    Raises:
        DataError: the file is missing, no image or truncated.
    """
    try:
        with Image.open(path) as file:
            file.load()
            image = file if file.mode == "RGB" else file.convert("RGB")  # which copies
    except (OSError, SyntaxError, ValueError) as error:
        raise DataError(
            f"data file {path} cannot be read as an image ({error}); fetch it anew"
        ) from None
    if draw is None:
        return np.asarray(_centre(image))
    crop = draw_crop(*image.size, draw)
    window = (crop.left, crop.top, crop.left + crop.width, crop.top + crop.height)
    # Cropped first: what lies outside must not bleed into the border.
    pixels = np.asarray(image.crop(window).resize((SIZE, SIZE), Image.Resampling.BILINEAR))
    return pixels[:, ::-1] if crop.mirrored else pixels


def _centre(image: Image.Image) -> Image.Image:
    shorter = min(image.size)
    width, height = (SHORTER_SIDE * side // shorter for side in image.size)
    left, top = round((width - SIZE) / 2), round((height - SIZE) / 2)
    resized = image.resize((width, height), Image.Resampling.BILINEAR)
    return resized.crop((left, top, left + SIZE, top + SIZE))
