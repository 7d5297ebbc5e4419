"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009), read by torchvision from where it downloads them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np

from acdc.data.images import ImageSet, as_images, split
from acdc.data.places import Place, nowhere, roots
from acdc.errors import DataError

Name = Literal["cifar10", "cifar100"]

# What torchvision's classes say, for those who only want to know whether the files are there.
_FOLDERS: dict[Name, str] = {"cifar10": "cifar-10-batches-py", "cifar100": "cifar-100-python"}
_FILES: dict[Name, tuple[str, ...]] = {
    "cifar10": (*(f"data_batch_{n}" for n in range(1, 6)), "test_batch", "batches.meta"),
    "cifar100": ("train", "test", "meta"),
}


def locate(name: Name) -> Place:
    """Return where a set is: torchvision's folder of it below ACDC_DATA or ``data``.

    Folders named after the set are looked into, too: torchvision lets users choose one.
    """
    folders = [parent / _FOLDERS[name] for root in roots() for parent in (root, root / name)]
    for folder in filter(Path.is_dir, folders):
        for file in _FILES[name]:
            if not (folder / file).is_file():
                what = f"data file {folder / file} is missing"
                return Place(folder, f"{what}; {_download(name, folder.parent)}")
        return Place(folder)
    remedy = f"set ACDC_DATA to the folder that holds {_FOLDERS[name]}, or "
    return nowhere(name, folders, remedy + _download(name, roots()[0]))


def _download(name: Name, root: Path) -> str:
    # Not the plain import, which fails beside a CPU torch.
    code = (
        "from acdc.models.vision import torchvision_module as module; "
        f"module('torchvision.datasets').{name.upper()}({str(root)!r}, download=True)"
    )
    return f'fetch it with: python -c "{code}"'


def load(name: Name) -> ImageSet:
    """Return a set: 45,000 training, 5,000 validation, 10,000 test images.

    torchvision compares every file with its md5 checksum before it unpickles any.

    Raises:
        DataError: a file is missing, unreadable or not the one known; says how to fetch it.
    """
    from acdc.models.vision import torchvision_module

    place = locate(name)
    if place.folder is None or place.missing:
        raise DataError(place.missing)
    made = getattr(torchvision_module("torchvision.datasets"), name.upper())
    remedy = _download(name, place.folder.parent)
    try:
        training, test = (made(place.folder.parent, train=part) for part in (True, False))
    except RuntimeError:
        raise DataError(f"{_damage(made, place.folder)}; {remedy}") from None
    except OSError as error:
        raise DataError(
            f"data file {error.filename} cannot be read ({error.strerror}); {remedy}"
        ) from None
    held_out = as_images(_pixels(test), np.array(test.targets))
    return split(_pixels(training), np.array(training.targets), held_out)


def _damage(made: Any, folder: Path) -> str:
    """Say which file differs from the checksums of torchvision's class, which does not say it."""
    from acdc.models.vision import torchvision_module

    md5 = torchvision_module("torchvision.datasets.utils").calculate_md5
    meta = [made.meta["filename"], made.meta["md5"]]
    for file, expected in [*made.train_list, *made.test_list, meta]:
        found = md5(folder / file)
        if found != expected:
            return f"data file {folder / file} is damaged: its md5 is {found}, not {expected}"
    return f"data folder {folder} is damaged"


def _pixels(part: Any) -> np.ndarray:
    """Return the images of one of torchvision's sets, (N, 3, 32, 32)."""
    pixels: np.ndarray = part.data.transpose(0, 3, 1, 2)
    return pixels
