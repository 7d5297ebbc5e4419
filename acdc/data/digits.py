"""The 1,797 handwritten digits (8 x 8) that come with scikit-learn; for tests and quick checks."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np

from acdc.data.memory import CHECKSUMS, ImageSet, as_images, read_verified, split
from acdc.data.spec import ImageSpec, Location, absence

_FILE = Path("datasets", "data", "digits.csv.gz")
_SHA256 = "6ebb3d2fee246a4e99363262ddf8a00a3c41bee6014c373ed9d9216ba7f651b8"
_TEST_IMAGES = 360
_SHUFFLE_SEED = 1797
_REINSTALL = "reinstall scikit-learn"


def locate(spec: ImageSpec) -> Location:
    """Return where scikit-learn's file is."""
    package = importlib.util.find_spec("sklearn")
    if package is None or package.origin is None:
        return Location(
            missing="dataset=digits: comes with scikit-learn, which is not installed; install it"
        )
    path = Path(package.origin).parent / _FILE
    absent = absence(path)
    return Location(path.parent, f"{absent}; {_REINSTALL}" if absent else None)


def load(spec: ImageSpec, folder: Path) -> ImageSet:
    """Return the digits, the last 360 of a fixed shuffle as test images.

    Reads scikit-learn's file without importing scikit-learn, which takes longer than a short run.

    Raises:
        DataError: the file is missing or not the known one.
    """
    content = read_verified(folder / _FILE.name, _SHA256, _REINSTALL)
    table = np.array([line.split(",") for line in content.decode().splitlines()], dtype=np.float32)
    order = np.random.default_rng(_SHUFFLE_SEED).permutation(len(table))
    # Sixteen grey levels, spread over the range of a byte.
    pixels = (table[order, :-1] * (255 / 16)).round().astype(np.uint8).reshape(-1, 1, 8, 8)
    labels = table[order, -1]
    test = as_images(pixels[-_TEST_IMAGES:], labels[-_TEST_IMAGES:])
    return split(pixels[:-_TEST_IMAGES], labels[:-_TEST_IMAGES], test, CHECKSUMS)
