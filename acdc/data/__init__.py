"""Image sets, held in memory as bytes or read from files, split into training, validation, test.

The validation images are a fixed part of the training images, a tenth or, of sets in files, ten of
each class, the same for every seed and method: models and hyper-parameters are chosen on them, and
the test images are used once, at the end.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from acdc.config import Augmentation
    from acdc.data.folder import FolderSet
    from acdc.data.images import ImageSet

# What an image may undergo and still be of its class, by kind of set.
_UPRIGHT: tuple[Augmentation, ...] = ("none", "shift")
_FLIPPABLE: tuple[Augmentation, ...] = ("none", "shift", "shift_flip")
_IN_FILES: tuple[Augmentation, ...] = ("none", "crop_flip")


@dataclass(frozen=True)
class DatasetSpec:
    """What is known of a data set before it is loaded."""

    title: str
    channels: int
    size: int
    """Height and width in pixels."""
    classes: int
    training_images: int
    """Images that are trained on, the validation images not counted."""
    augmentations: tuple[Augmentation, ...]
    """Those that there are for such images and that leave them in their class."""
    load: Callable[[], ImageSet | FolderSet]
    verified: str = "checksums agree"
    """What loading has made sure of."""


def _digits() -> ImageSet:
    from acdc.data.digits import load

    return load()


def _fashion_mnist_10k() -> ImageSet:
    from acdc.data.fashion_mnist import load_embedded

    return load_embedded()


def _fashion_mnist_4k() -> ImageSet:
    from acdc.data.fashion_mnist import load_embedded

    return load_embedded(training_images=4_000)


def _fashion_mnist() -> ImageSet:
    from acdc.data.fashion_mnist import load_full

    return load_full()


def _imagenet() -> FolderSet:
    from acdc.data.folder import load_imagenet

    return load_imagenet()


DATASETS: dict[str, DatasetSpec] = {
    "digits": DatasetSpec("Digits (8 x 8)", 1, 8, 10, 1_294, _UPRIGHT, _digits),
    "fashion_mnist_4k": DatasetSpec(
        "Fashion-MNIST, 4,000 training images", 1, 28, 10, 4_000, _FLIPPABLE, _fashion_mnist_4k
    ),
    "fashion_mnist_10k": DatasetSpec(
        "Fashion-MNIST, 9,000 training images", 1, 28, 10, 9_000, _FLIPPABLE, _fashion_mnist_10k
    ),
    "fashion_mnist": DatasetSpec("Fashion-MNIST", 1, 28, 10, 54_000, _FLIPPABLE, _fashion_mnist),
    "imagenet": DatasetSpec(
        "ImageNet (ILSVRC 2012)", 3, 224, 1000, 1_271_167, _IN_FILES, _imagenet, "files counted"
    ),
}
