"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009), read by torchvision from where it downloads them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from acdc.data.memory import CHECKSUMS, ImageSet, as_images, split
from acdc.data.spec import ImageSpec, Location, absence, not_found, roots
from acdc.errors import DataError
from acdc.vision import torchvision_module

# Copied from torchvision's classes, so that locating the files does not import it.
_FOLDERS = {"cifar10": "cifar-10-batches-py", "cifar100": "cifar-100-python"}
_FILES = {
    "cifar10": (*(f"data_batch_{n}" for n in range(1, 6)), "test_batch", "batches.meta"),
    "cifar100": ("train", "test", "meta"),
}


def locate(spec: ImageSpec) -> Location:
    """Return where a data set is: torchvision's folder of it below ACDC_DATA or ``data``.

    Folders named after the data set are searched too: torchvision lets users choose one.
    """
    name = spec.source
    folders = [parent / _FOLDERS[name] for root in roots() for parent in (root, root / name)]
    for folder in filter(Path.is_dir, folders):
        for file in _FILES[name]:
            if absent := absence(folder / file):
                return Location(folder, f"{absent}; {_download(name, folder.parent)}")
        return Location(folder)
    remedy = f"set ACDC_DATA to the folder that holds {_FOLDERS[name]}, or "
    return not_found(name, folders, remedy + _download(name, roots()[0]))


def _download(name: str, root: Path) -> str:
    # Not the plain import, which fails beside a CPU torch.
    code = (
        "from acdc.vision import torchvision_module as module; "
        f"module('torchvision.datasets').{name.upper()}({str(root)!r}, download=True)"
    )
    return f'fetch it with: python -c "{code}"'


def load(spec: ImageSpec, folder: Path) -> ImageSet:
    """Return a data set: 45,000 training, 5,000 validation, 10,000 test images.

    torchvision compares the md5 of every file before it unpickles any.

    Raises:
        DataError: a file is missing, unreadable or not the known one; says how to fetch it.
    """
    reader = getattr(torchvision_module("torchvision.datasets"), spec.source.upper())
    root = folder.parent
    remedy = _download(spec.source, root)
    try:
        training, test = (reader(root, train=part) for part in (True, False))
    except RuntimeError:
        raise DataError(f"{_damage(reader, folder)}; {remedy}") from None
    except OSError as error:
        raise DataError(
            f"data file {error.filename} cannot be read ({error.strerror}); {remedy}"
        ) from None
    held_out = as_images(_pixels(test), np.array(test.targets))
    return split(_pixels(training), np.array(training.targets), held_out, CHECKSUMS)


def _damage(reader: Any, folder: Path) -> str:
    """Name the file that differs from torchvision's checksums, which torchvision does not."""
    md5 = torchvision_module("torchvision.datasets.utils").calculate_md5
    meta = [reader.meta["filename"], reader.meta["md5"]]
    for file, expected in [*reader.train_list, *reader.test_list, meta]:
        found = md5(folder / file)
        if found != expected:
            return f"data file {folder / file} is damaged: its md5 is {found}, not {expected}"
    return f"data folder {folder} is damaged"


def _pixels(part: Any) -> np.ndarray:
    """Return the images of one of torchvision's data sets, (N, 3, 32, 32)."""
    pixels: np.ndarray = part.data.transpose(0, 3, 1, 2)
    return pixels
