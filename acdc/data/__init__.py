"""Image sets held in memory as bytes, split into training, validation and test images.

The validation images are a fixed tenth of the training images, the same for every seed and method:
models and hyper-parameters are chosen on them, and the test images are used once, at the end.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from acdc.data.images import ImageSet


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
    flippable: bool
    """Whether a mirrored image is still of its class."""
    load: Callable[[], ImageSet]


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


DATASETS: dict[str, DatasetSpec] = {
    "digits": DatasetSpec("Digits (8 x 8)", 1, 8, 10, 1_294, False, _digits),
    "fashion_mnist_4k": DatasetSpec(
        "Fashion-MNIST, 4,000 training images", 1, 28, 10, 4_000, True, _fashion_mnist_4k
    ),
    "fashion_mnist_10k": DatasetSpec(
        "Fashion-MNIST, 9,000 training images", 1, 28, 10, 9_000, True, _fashion_mnist_10k
    ),
    "fashion_mnist": DatasetSpec("Fashion-MNIST", 1, 28, 10, 54_000, True, _fashion_mnist),
}
