"""Image sets, held in memory as bytes or read from files, split into training, validation, test.

The validation images are a fixed part of the training images, a tenth or, of sets in files, ten of
each class, the same for every seed and method: models and hyper-parameters are chosen on them, and
the test images are used once, at the end.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from acdc.data.places import Place

if TYPE_CHECKING:
    from acdc.config.recipe import Augmentation
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
    locate: Callable[[], Place] = Place
    """Looks for the files by their names, without reading them."""
    module: str = "acdc.data"
    """The module that loads the set."""
    relabelled: int = 0
    """Training images whose labels are drawn at random."""

    def missing(self) -> str | None:
        """Return what is missing and how to get it, one sentence, or None where all files are."""
        return self.locate().missing


def _read_by(module: str, load: tuple[Any, ...], locate: tuple[Any, ...]) -> dict[str, Any]:
    """Return how a set is read: functions of a module, which is imported when they are called.

    Args:
        module: its name.
        load: the function that loads the set, and its arguments.
        locate: likewise the one that looks for its files.
    """

    def later(function: str, *arguments: Any) -> Callable[[], Any]:
        return lambda: getattr(importlib.import_module(module), function)(*arguments)

    return {"module": module, "load": later(*load), "locate": later(*locate)}


def _fashion_mnist_subset(training_images: int | None = None) -> dict[str, Any]:
    load = ("load_embedded", training_images)
    return _read_by("acdc.data.fashion_mnist", load, ("locate_embedded",))


def _cifar(classes: int) -> DatasetSpec:
    name = f"cifar{classes}"
    description = (f"CIFAR-{classes}", 3, 32, classes, 45_000, _FLIPPABLE)
    how = _read_by("acdc.data.cifar", ("load", name), ("locate", name))
    return DatasetSpec(*description, **how)


def _relabelled(spec: DatasetSpec, count: int) -> DatasetSpec:
    """Return a set with random labels for some of its training images (paper, Section 4)."""

    def load() -> ImageSet:
        from acdc.data.images import ImageSet, relabel

        images = spec.load()
        assert isinstance(images, ImageSet)
        return relabel(images, count, spec.classes)

    title = f"{spec.title}, {count:,} images relabelled"
    return replace(spec, title=title, load=load, relabelled=count)


DATASETS: dict[str, DatasetSpec] = {
    "digits": DatasetSpec(
        "Digits (8 x 8)",
        *(1, 8, 10, 1_294, _UPRIGHT),
        **_read_by("acdc.data.digits", ("load",), ("locate",)),
    ),
    **{
        f"fashion_mnist_{thousands}k": DatasetSpec(
            f"Fashion-MNIST, {thousands},000 training images",
            *(1, 28, 10, 1000 * thousands, _FLIPPABLE),
            **_fashion_mnist_subset(1000 * thousands),
        )
        for thousands in (1, 2, 4)
    },
    "fashion_mnist_10k": DatasetSpec(
        "Fashion-MNIST, 9,000 training images",
        *(1, 28, 10, 9_000, _FLIPPABLE),
        **_fashion_mnist_subset(),
    ),
    "fashion_mnist": DatasetSpec(
        "Fashion-MNIST",
        *(1, 28, 10, 54_000, _FLIPPABLE),
        **_read_by("acdc.data.fashion_mnist", ("load_full",), ("locate_full",)),
    ),
    "cifar10": _cifar(10),
    "cifar100": _cifar(100),
    "imagenet": DatasetSpec(
        "ImageNet (ILSVRC 2012)",
        *(3, 224, 1000, 1_271_167, _IN_FILES),
        verified="files counted",
        **_read_by("acdc.data.folder", ("load_imagenet",), ("locate_imagenet",)),
    ),
}
# For the memorization experiment: 1,000 images of CIFAR-10 as in the paper, the same share of
# Fashion-MNIST, and of the small sets enough to measure an accuracy by.
DATASETS |= {
    f"{name}_relabelled": _relabelled(DATASETS[name], count)
    for name, count in (
        ("fashion_mnist_1k", 100),
        ("fashion_mnist_2k", 100),
        ("fashion_mnist", 1_200),
        ("cifar10", 1_000),
    )
}
