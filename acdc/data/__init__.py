"""Image data sets: their table, and how they are located, loaded, augmented and batched.

A data set is an entry of ``DATASETS`` and a module with two functions, ``locate(spec)`` and
``load(spec)``; images in class folders need the entry alone.

Validation images are a fixed part of the training images, the same for every seed and method: a
tenth, or, of images in files, ten per class. Models and hyper-parameters are chosen on them; the
test images are used once, at the end.
"""

from __future__ import annotations

from dataclasses import replace

from acdc.data.spec import ClassFolders, DatasetSpec, ImageSpec, TextSpec

__all__ = ["DATASETS", "IMAGES", "ClassFolders", "DatasetSpec", "ImageSpec", "TextSpec"]


_FASHION_MNIST = ImageSpec(
    title="Fashion-MNIST",
    channels=1,
    image_size=28,
    classes=10,
    training_images=54_000,
    module="acdc.data.fashion_mnist",
    source="full",
)
_CIFAR10 = ImageSpec(
    title="CIFAR-10",
    channels=3,
    image_size=32,
    classes=10,
    training_images=45_000,
    module="acdc.data.cifar",
    source="cifar10",
)

IMAGES: dict[str, ImageSpec] = {
    "digits": ImageSpec(
        title="Digits (8 x 8)",
        channels=1,
        image_size=8,
        classes=10,
        training_images=1_294,
        module="acdc.data.digits",
        upright=True,
    ),
    **{
        name: replace(
            _FASHION_MNIST,
            title=f"Fashion-MNIST, {images:,} training images",
            training_images=images,
            source="embedded",
        )
        for name, images in (
            ("fashion_mnist_1k", 1_000),
            ("fashion_mnist_2k", 2_000),
            ("fashion_mnist_4k", 4_000),
            ("fashion_mnist_10k", 9_000),
        )
    },
    "fashion_mnist": _FASHION_MNIST,
    "cifar10": _CIFAR10,
    "cifar100": replace(_CIFAR10, title="CIFAR-100", classes=100, source="cifar100"),
    "imagenet": ImageSpec(
        title="ImageNet (ILSVRC 2012)",
        channels=3,
        image_size=224,
        classes=1000,
        training_images=1_271_167,
        module="acdc.data.folder",
        source="imagenet",
        folders=ClassFolders(
            resize=256,
            mean=(0.485, 0.456, 0.406),
            std=(0.229, 0.224, 0.225),
            test_images=50_000,
        ),
    ),
}
# For the memorization experiment: 1,000 images of CIFAR-10 as in the paper, the same share of
# Fashion-MNIST, and of its subsets enough for a precise accuracy.
IMAGES |= {
    f"{name}_relabelled": replace(
        IMAGES[name],
        title=f"{IMAGES[name].title}, {count:,} images relabelled",
        relabelled=count,
    )
    for name, count in (
        ("fashion_mnist_1k", 100),
        ("fashion_mnist_2k", 100),
        ("fashion_mnist_4k", 200),
        ("fashion_mnist", 1_200),
        ("cifar10", 1_000),
    )
}

_KJV = TextSpec(
    title="King James Version",
    vocabulary=6_992,
    training_tokens=826_659,
    module="acdc.data.kjv",
    source="all",
)
TEXTS: dict[str, TextSpec] = {
    "kjv_tiny": replace(
        _KJV,
        title="King James Version, 36 chapters",
        vocabulary=944,
        training_tokens=31_370,
        source="tiny",
    ),
    "kjv_small": replace(
        _KJV,
        title="King James Version, a fifth",
        vocabulary=2_195,
        training_tokens=175_914,
        source="small",
    ),
    "kjv": _KJV,
    "wikitext103": TextSpec(
        title="WikiText-103",
        vocabulary=267_735,
        training_tokens=103_227_021,
        module="acdc.data.wikitext",
    ),
}

DATASETS: dict[str, DatasetSpec] = {**IMAGES, **TEXTS}
"""All data sets by name."""
