"""Sparse products need a compiler at installation, which CI has: nothing is skipped there."""

import os

import pytest

from acdc.kernels import library


@pytest.fixture(autouse=True)
def compiled() -> None:
    if library.library() is None and "CI" not in os.environ:
        pytest.skip("no compiler at installation")
