"""Decode, crop and resize one image file: the work of the worker processes.

The random crop is that of Szegedy et al. 2015 with the bounds of torchvision's RandomResizedCrop;
evaluation takes the centre as torchvision's ImageNet references do. Both are bit-identical to
torchvision's transforms of PIL images, which are slower.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from PIL import Image

from acdc.errors import DataError

_AREAS = (0.08, 1.0)
_RATIOS = (3 / 4, 4 / 3)
_ATTEMPTS = 10


class View(NamedTuple):
    """The size of a decoded image, in pixels."""

    size: int
    """Height and width."""
    resize: int
    """Length of the shorter side before the centre is taken."""


class Draw(NamedTuple):
    """What determines an image's random crop and flip, together with its own size."""

    key: int
    """64 bits that identify the epoch."""
    position: int
    """Of the image in the epoch's order."""


class Crop(NamedTuple):
    """A window of an image in pixels, and whether it is flipped horizontally."""

    left: int
    top: int
    width: int
    height: int
    mirrored: bool


def draw_crop(width: int, height: int, draw: Draw) -> Crop:
    """Draw a crop of 8 % to all of an image's area and of aspect ratio 3/4 to 4/3.

    A window that does not fit is redrawn up to ten times; then the largest central window with an
    aspect ratio within the bounds is taken.
    """
    # Counter-based: the draw of an image does not depend on those before it.
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


def read(path: str, view: View, draw: Draw | None) -> np.ndarray:
    """Return an image file as RGB bytes (size, size, 3).

    Args:
        path: of the image.
        view: the size.
        draw: of the random crop and flip; None: the centre.

    Raises:
        DataError: the file is missing, truncated, too large or not an image.
    """
    try:
        with Image.open(path) as file:
            file.load()
            image = file if file.mode == "RGB" else file.convert("RGB")  # which copies
    except Exception as error:  # of any kind, by Pillow's many readers
        raise DataError(
            f"data file {path} cannot be read as an image ({error}); restore it, or remove it and "
            "correct the number of images of the data set"
        ) from None
    if draw is None:
        return np.asarray(_centre(image, view))
    crop = draw_crop(*image.size, draw)
    window = (crop.left, crop.top, crop.left + crop.width, crop.top + crop.height)
    # Cropped first: pixels outside the window must not bleed into its border.
    resized = image.crop(window).resize((view.size, view.size), Image.Resampling.BILINEAR)
    pixels = np.asarray(resized)
    return pixels[:, ::-1] if crop.mirrored else pixels


def _centre(image: Image.Image, view: View) -> Image.Image:
    shorter = min(image.size)
    width, height = (view.resize * side // shorter for side in image.size)
    left, top = round((width - view.size) / 2), round((height - view.size) / 2)
    resized = image.resize((width, height), Image.Resampling.BILINEAR)
    return resized.crop((left, top, left + view.size, top + view.size))
