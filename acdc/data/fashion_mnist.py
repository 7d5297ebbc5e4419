"""Fashion-MNIST: a subset that comes with the suite, and the full data set if installed.

Xiao, Rasul, Vollgraf 2017; MIT licence, Zalando SE (LICENSE beside the files). The embedded subset
is the first 10,000 training images and all 10,000 test images, in the IDX format of the original.
"""

from __future__ import annotations

import struct
from dataclasses import replace
from importlib import resources
from pathlib import Path

import numpy as np

from acdc.data.memory import CHECKSUMS, ImageSet, as_images, read_verified, split
from acdc.data.spec import ImageSpec, Location, absence, not_found, roots

# sha256 of the uncompressed IDX content, so that neither compressor nor its settings matter.
_TEST = {
    "t10k-images-idx3-ubyte.gz": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte.gz": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}
_EMBEDDED = {
    "train-images-idx3-ubyte.gz": "ed2e37ed5a3a57d212141a69fe0a0de5a7126ffba14ac3f7e76f5f52cc04b1f0",  # noqa: E501
    "train-labels-idx1-ubyte.gz": "a69f2dad024ca220a8c4d85f621fdf929042d40c444abde2868903e9220ad517",  # noqa: E501
    **_TEST,
}
_FULL = {
    "train-images-idx3-ubyte.gz": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",  # noqa: E501
    "train-labels-idx1-ubyte.gz": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",  # noqa: E501
    **_TEST,
}
_RESTORE = "restore it with: git checkout -- acdc/data"
_FETCH = "install Debian's package dataset-fashion-mnist or fetch it with torchvision"


def embedded_folder() -> Path:
    """Return the folder of the embedded subset."""
    return Path(str(resources.files("acdc.data"))) / "fashion_mnist_10k"


def full_folders() -> list[Path]:
    """Return the folders that may hold the full set: ACDC_DATA, torchvision's, Debian's."""
    below = [root / "FashionMNIST" / "raw" for root in roots()]
    return [*roots()[:-1], *below, Path("/usr/share/datasets/fashion-mnist")]


def locate(spec: ImageSpec) -> Location:
    """Return where the data set is; of the full one, the first folder with one of its files."""
    if spec.source == "embedded":
        return _location(embedded_folder(), _EMBEDDED, _RESTORE)
    for folder in full_folders():
        if any(_path(folder, name).exists() for name in _FULL):
            return _location(folder, _FULL, _FETCH)
    return not_found(
        "fashion_mnist",
        full_folders(),
        "set ACDC_DATA to the folder that holds its four IDX files or torchvision's FashionMNIST "
        f"folder, {_FETCH}, or use fashion_mnist_10k, which comes with the suite",
    )


def _location(folder: Path, checksums: dict[str, str], remedy: str) -> Location:
    for name, digest in checksums.items():
        if absent := absence(_path(folder, name)):
            return Location(folder, f"{absent} (sha256 {digest}); {remedy}")
    return Location(folder)


def _path(folder: Path, name: str) -> Path:
    """Return the path of a file, compressed or else not."""
    path = folder / name
    plain = path.with_suffix("")
    return plain if plain.exists() and not path.exists() else path


def load(spec: ImageSpec, folder: Path) -> ImageSet:
    """Return the data set, a tenth of the training images held out; 10,000 test images.

    Of the embedded subset the first ``spec.training_images`` are used; normalisation, validation
    and test images are the same for any number.

    Raises:
        DataError: a file is missing or damaged; names it and its checksum.
    """
    embedded = spec.source == "embedded"
    checksums, remedy = (_EMBEDDED, _RESTORE) if embedded else (_FULL, _FETCH)
    pixels, labels, test_pixels, test_labels = (
        read_idx(_path(folder, name), digest, remedy) for name, digest in checksums.items()
    )
    test = as_images(test_pixels[:, None], test_labels)
    images = split(pixels[:, None], labels, test, CHECKSUMS)
    return replace(images, training=images.training[: spec.training_images])


def read_idx(path: Path, digest: str, remedy: str) -> np.ndarray:
    """Return the array of one IDX file, compressed or not, after verifying its content."""
    content = read_verified(path, digest, remedy)
    dimensions = content[3]
    shape = struct.unpack(f">{dimensions}I", content[4 : 4 + 4 * dimensions])
    return np.frombuffer(content, np.uint8, offset=4 + 4 * dimensions).reshape(shape)
