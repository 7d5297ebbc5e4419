"""The 1,797 handwritten digits (8 x 8) that come with scikit-learn; for tests and quick checks."""

from __future__ import annotations

import numpy as np

from acdc.data.images import ImageSet, as_images, split
from acdc.errors import DataError

_TEST_IMAGES = 360
_SHUFFLE_SEED = 1797


def load() -> ImageSet:
    """Return the digits, the last 360 of a fixed shuffle as test images.

    Raises:
        DataError: scikit-learn's file is missing or is not the one known.
    """
    from sklearn.datasets import load_digits

    bunch = load_digits()
    if bunch.images.shape != (1797, 8, 8):
        raise DataError(
            f"digits: scikit-learn holds images of shape {bunch.images.shape}; "
            "(1797, 8, 8) is accepted"
        )
    order = np.random.default_rng(_SHUFFLE_SEED).permutation(len(bunch.target))
    # Sixteen grey levels, spread over the range of a byte.
    pixels = (bunch.images[order, None] * (255 / 16)).round().astype(np.uint8)
    labels = bunch.target[order]
    test = as_images(pixels[-_TEST_IMAGES:], labels[-_TEST_IMAGES:])
    return split(pixels[:-_TEST_IMAGES], labels[:-_TEST_IMAGES], test)
