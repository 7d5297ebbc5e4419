"""Small image files in class folders, for tests of data sets in files."""

from pathlib import Path

import numpy as np
from PIL import Image

from acdc.data import ClassFolders, ImageSpec

CLASSES, TRAIN, VALIDATION, TEST = ("bee", "cat", "yak"), 20, 2, 5  # images per class
SIZE = 32
FOLDERS = ClassFolders(
    resize=36, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), test_images=15
)


def picture(seed: int, width: int, height: int) -> Image.Image:
    """Return a smooth picture with noise, so that crops, flips and resizing all show."""
    coarse = np.random.default_rng(seed).integers(0, 256, (9, 9, 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))
    noise = np.random.default_rng(seed + 1).integers(-20, 21, smooth.shape)
    return Image.fromarray((smooth + noise).clip(0, 255).astype(np.uint8))


def make(root: Path) -> Path:
    for part, count in (("train", TRAIN), ("val", TEST)):
        for label, name in enumerate(CLASSES):
            folder = root / part / name
            folder.mkdir(parents=True)
            for number in range(count):
                seed = 1000 * (part == "val") + 100 * label + number
                size = (40 + 17 * number % 60, 30 + 13 * number % 50)
                picture(seed, *size).save(folder / f"{name}_{number}.JPEG", quality=90)
    return root


def spec_of(
    root: Path,
    classes: int = len(CLASSES),
    training_images: int = len(CLASSES) * (TRAIN - VALIDATION),
    folders: ClassFolders = FOLDERS,
) -> ImageSpec:
    return ImageSpec(
        title="Pictures",
        channels=3,
        image_size=SIZE,
        classes=classes,
        training_images=training_images,
        module="acdc.data.folder",
        source=str(root),
        folders=folders,
    )
