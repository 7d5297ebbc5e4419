"""Fashion-MNIST: a subset that comes with the suite, and the full set where the user has it.

Xiao, Rasul, Vollgraf 2017; MIT licence, Zalando SE (LICENSE beside the files). The embedded subset
is the first 10,000 training images and all 10,000 test images, in the IDX format of the original;
``python -m acdc.data.fashion_mnist FOLDER`` made it from the original files.
"""

from __future__ import annotations

import gzip
import hashlib
import struct
import sys
import zlib
from dataclasses import replace
from importlib import resources
from pathlib import Path

import numpy as np

from acdc.data.images import ImageSet, as_images, split
from acdc.data.places import Place, nowhere, roots
from acdc.errors import DataError

EMBEDDED_TRAINING_IMAGES = 10_000

# sha256 of the uncompressed IDX content, so that neither compressor nor its settings matter.
_EMBEDDED = {
    "train-images-idx3-ubyte.gz": "ed2e37ed5a3a57d212141a69fe0a0de5a7126ffba14ac3f7e76f5f52cc04b1f0",  # noqa: E501
    "train-labels-idx1-ubyte.gz": "a69f2dad024ca220a8c4d85f621fdf929042d40c444abde2868903e9220ad517",  # noqa: E501
    "t10k-images-idx3-ubyte.gz": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte.gz": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}
_FULL = {
    "train-images-idx3-ubyte.gz": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",  # noqa: E501
    "train-labels-idx1-ubyte.gz": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",  # noqa: E501
    "t10k-images-idx3-ubyte.gz": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte.gz": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}
_RESTORE = "restore it with: git checkout -- acdc/data"
_FETCH = "install Debian's package dataset-fashion-mnist or fetch it with torchvision"


def embedded_folder() -> Path:
    """Return the folder of the embedded subset."""
    return Path(str(resources.files("acdc.data"))) / "fashion_mnist_10k"


def full_folders() -> list[Path]:
    """Return where the full set is looked for: ACDC_DATA, torchvision's place, Debian's."""
    below = [root / "FashionMNIST" / "raw" for root in roots()]
    return [*roots()[:-1], *below, Path("/usr/share/datasets/fashion-mnist")]


def locate_embedded() -> Place:
    """Return where the embedded subset is."""
    return _place(embedded_folder(), _EMBEDDED, _RESTORE)


def locate_full() -> Place:
    """Return where the full set is: in the first folder that has one of its files."""
    for folder in full_folders():
        if any(_path(folder, name).exists() for name in _FULL):
            return _place(folder, _FULL, _FETCH)
    return nowhere(
        "fashion_mnist",
        full_folders(),
        "set ACDC_DATA to the folder that holds its four IDX files or torchvision's FashionMNIST "
        "folder, install Debian's package dataset-fashion-mnist, or use fashion_mnist_10k, which "
        "comes with the suite",
    )


def _place(folder: Path, checksums: dict[str, str], remedy: str) -> Place:
    absent = (name for name in checksums if not _path(folder, name).exists())
    first = next(absent, None)
    if first is None:
        return Place(folder)
    return Place(folder, _missing(folder / first, checksums[first], remedy))


def _missing(path: Path, digest: str, remedy: str) -> str:
    return f"data file {path} is missing (sha256 {digest} expected); {remedy}"


def _path(folder: Path, name: str) -> Path:
    """Return where a file is: compressed, or else not."""
    path = folder / name
    plain = path.with_suffix("")
    return plain if plain.exists() and not path.exists() else path


def load_embedded(training_images: int | None = None) -> ImageSet:
    """Return the embedded subset: 9,000 training, 1,000 validation, 10,000 test images.

    Args:
        training_images: use only so many of the training images; normalisation, validation and
            test images stay the same.

    Raises:
        DataError: a file is missing or damaged; names it and the checksums.
    """
    images = _load(embedded_folder(), _EMBEDDED, _RESTORE)
    return replace(images, training=images.training.first(training_images))


def load_full() -> ImageSet:
    """Return the full set: 54,000 training, 6,000 validation, 10,000 test images.

    Raises:
        DataError: it is nowhere; lists where it was looked for and how to get it.
    """
    place = locate_full()
    if place.folder is None:
        raise DataError(place.missing)
    return _load(place.folder, _FULL, _FETCH)


def _load(folder: Path, checksums: dict[str, str], remedy: str) -> ImageSet:
    arrays = [read_idx(folder, name, digest, remedy) for name, digest in checksums.items()]
    images, labels, test_images, test_labels = arrays
    return split(images[:, None], labels, as_images(test_images[:, None], test_labels))


def read_idx(folder: Path, name: str, digest: str, remedy: str) -> np.ndarray:
    """Return the array of one IDX file, compressed or not, after checking its content.

    Raises:
        DataError: missing, unreadable or not the content whose sha256 is ``digest``.
    """
    path = _path(folder, name)
    try:
        raw = path.read_bytes()
        content = gzip.decompress(raw) if path.suffix == ".gz" else raw
    except FileNotFoundError:
        raise DataError(_missing(path, digest, remedy)) from None
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(
            f"data file {path} cannot be read ({error}; content of sha256 {digest} expected); "
            f"{remedy}"
        ) from None
    actual = hashlib.sha256(content).hexdigest()
    if actual != digest:
        raise DataError(
            f"data file {path} is damaged: the sha256 of its content is {actual}, "
            f"{digest} is expected; {remedy}"
        )
    dimensions = content[3]
    shape = struct.unpack(f">{dimensions}I", content[4 : 4 + 4 * dimensions])
    return np.frombuffer(content, np.uint8, offset=4 + 4 * dimensions).reshape(shape)


def embed(source: Path) -> None:
    """Write the embedded subset from the folder of the original files."""
    target = embedded_folder()
    target.mkdir(parents=True, exist_ok=True)
    for name, digest in _FULL.items():
        array = read_idx(source, name, digest, "give the folder of the original files")
        subset = array[:EMBEDDED_TRAINING_IMAGES]
        header = bytes([0, 0, 8, subset.ndim]) + struct.pack(f">{subset.ndim}I", *subset.shape)
        content = header + subset.tobytes()
        # No file name and no time in the header: the same bytes whenever it is made.
        (target / name).write_bytes(gzip.compress(content, compresslevel=9, mtime=0))
        print(name, hashlib.sha256(content).hexdigest())


if __name__ == "__main__":
    embed(Path(sys.argv[1]))
