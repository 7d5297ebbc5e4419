"""The data are what their checksums say, split once for all, and augmented within bounds."""

from __future__ import annotations

import gzip
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from acdc import seeds
from acdc.data import DATASETS, cifar, command, fashion_mnist
from acdc.data.augmentation import Augmentation
from acdc.data.loader import LoaderPlan, standardise
from acdc.data.memory import MemoryLoader, as_images, moments, split
from acdc.data.shifts import PaddedImages, draw_shifts
from acdc.distributed import Ranks
from acdc.errors import ConfigError, DataError

EMBEDDED = fashion_mnist._EMBEDDED
NAMES = list(EMBEDDED)
# Those that come with the suite.
HERE = [
    *("digits", "fashion_mnist_1k", "fashion_mnist_2k", "fashion_mnist_4k", "fashion_mnist_10k"),
    *("fashion_mnist_1k_relabelled", "fashion_mnist_2k_relabelled"),
]


def test_embedded_labels() -> None:
    def labels(name: str) -> list[int]:
        content = gzip.decompress((fashion_mnist.embedded_folder() / name).read_bytes())
        return list(content[8:])

    training, test = labels("train-labels-idx1-ubyte.gz"), labels("t10k-labels-idx1-ubyte.gz")
    assert (len(training), len(test)) == (10_000, 10_000)
    assert training[:10] == [9, 0, 0, 3, 0, 2, 7, 2, 5, 5]
    assert test[:10] == [9, 2, 1, 1, 6, 1, 4, 6, 5, 7]
    assert [test.count(label) for label in range(10)] == [1000] * 10


@pytest.mark.parametrize("name", HERE)
def test_specs_describe_the_sets(name: str) -> None:
    spec = DATASETS[name]
    data = spec.load()
    assert len(data.training) == spec.training_images
    rest = (143, 360) if name == "digits" else (1_000, 10_000)
    assert (len(data.validation), len(data.test)) == rest
    for images in (data.training, data.validation, data.test):
        assert images.pixels.dtype == torch.uint8
        assert images.labels.dtype == torch.int64
        assert images.pixels.shape == (len(images), spec.channels, spec.image_size, spec.image_size)
        assert sorted(images.labels.unique().tolist()) == list(range(spec.classes))


def test_digits_are_scikit_learns() -> None:
    data = DATASETS["digits"].load()
    parts = (data.training, data.validation, data.test)
    pixels = torch.cat([part.pixels for part in parts]).reshape(-1, 64).double() * 16 / 255
    labels = torch.cat([part.labels for part in parts])
    ours = torch.cat([pixels.round(), labels[:, None]], dim=1).numpy()
    theirs = np.loadtxt(digits_file(), delimiter=",")
    assert sorted(map(tuple, ours)) == sorted(map(tuple, theirs))


@given(st.integers(10, 400))
def test_split_is_a_fixed_draw(count: int) -> None:
    # Each image spells its own index.
    index = np.arange(count)
    pixels = np.stack([index // 256, index % 256], axis=1).astype(np.uint8).reshape(-1, 1, 1, 2)

    def indices(images: Tensor) -> list[int]:
        flat = images.reshape(-1, 2).long()
        return (flat[:, 0] * 256 + flat[:, 1]).tolist()

    def parts() -> tuple[list[int], list[int], list[int]]:
        data = split(pixels, index, as_images(pixels[:1], index[:1]))
        assert data.training.labels.tolist() == indices(data.training.pixels)
        assert data.validation.labels.tolist() == indices(data.validation.pixels)
        return indices(data.training.pixels), indices(data.validation.pixels), [count]

    training, validation, _ = first = parts()
    assert sorted(training + validation) == list(range(count))  # disjoint, and nothing is lost
    assert len(validation) == count // 10
    np.random.seed(count)
    torch.manual_seed(count)
    assert parts() == first


def test_subsets_share_all_but_training_images() -> None:
    small, large = (DATASETS[f"fashion_mnist_{size}"].load() for size in ("4k", "10k"))
    assert torch.equal(small.training.pixels, large.training.pixels[:4_000])
    assert torch.equal(small.validation.pixels, large.validation.pixels)
    assert torch.equal(small.mean, large.mean)
    assert torch.equal(small.std, large.std)


def test_normalisation() -> None:
    data = DATASETS["fashion_mnist_10k"].load()
    normal = data.normalise(data.training.pixels).double()
    assert float(normal.mean()) == pytest.approx(0, abs=1e-5)
    assert float(normal.std()) == pytest.approx(1, abs=1e-5)
    assert normal.shape == data.training.pixels.shape


def damage(path: Path, how: str) -> None:
    raw = bytearray(path.read_bytes())
    if how == "missing":
        path.unlink()
    elif how == "truncated":
        path.write_bytes(raw[: len(raw) // 2])
    elif how == "bit flipped":
        raw[len(raw) // 2] ^= 1
        path.write_bytes(raw)
    elif how == "other content":
        content = bytearray(gzip.decompress(bytes(raw)))
        content[-1] ^= 1
        path.write_bytes(gzip.compress(bytes(content), 1))
    else:
        path.write_bytes(b"no gzip at all")


HOWS = ["missing", "truncated", "bit flipped", "other content", "not gzip"]


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("dataset", ["digits", "fashion_mnist_10k"])
def test_damaged_files_are_named(
    dataset: str, how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if dataset == "digits":
        path = tmp_path / "datasets" / "data" / "digits.csv.gz"
        path.parent.mkdir(parents=True)
        shutil.copy(digits_file(), path)
        moved = ModuleSpec("sklearn", None, origin=str(tmp_path / "__init__.py"))
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: moved)
    else:
        shutil.copytree(fashion_mnist.embedded_folder(), tmp_path / "fashion")
        path = tmp_path / "fashion" / NAMES[1]
        monkeypatch.setattr(fashion_mnist, "embedded_folder", lambda: path.parent)
    assert command.examine(DATASETS[dataset]).state == "there"
    damage(path, how)
    with pytest.raises(DataError) as caught:
        DATASETS[dataset].load()
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert (DATASETS[dataset].missing() is not None) == (how == "missing")
    found = command.examine(DATASETS[dataset])
    assert (found.state, found.folder, found.problem) == (
        *("incomplete", path.parent),
        str(caught.value),
    )


def digits_file() -> Path:
    spec = importlib.util.find_spec("sklearn")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "datasets" / "data" / "digits.csv.gz"


def test_digits_without_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DataError, match="comes with scikit-learn, which is not installed"):
        DATASETS["digits"].load()


@pytest.mark.parametrize("layout", ["folder", "torchvision", "uncompressed"])
def test_layouts_of_the_full_set(
    layout: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The embedded files stand in for the full ones, which cannot come with the suite.
    monkeypatch.setattr(fashion_mnist, "_FULL", EMBEDDED)
    monkeypatch.setenv("ACDC_DATA", str(tmp_path))
    folder = tmp_path / "FashionMNIST" / "raw" if layout == "torchvision" else tmp_path
    folder.mkdir(parents=True, exist_ok=True)
    for name in NAMES:
        raw = (fashion_mnist.embedded_folder() / name).read_bytes()
        if layout == "uncompressed":
            (folder / name.removesuffix(".gz")).write_bytes(gzip.decompress(raw))
        else:
            (folder / name).write_bytes(raw)
    full, embedded = DATASETS["fashion_mnist"].load(), DATASETS["fashion_mnist_10k"].load()
    assert torch.equal(full.training.pixels, embedded.training.pixels)
    assert torch.equal(full.test.labels, embedded.test.labels)


def test_a_missing_full_set_names_folders_and_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fashion_mnist, "full_folders", lambda: [tmp_path / "a", tmp_path / "b"])
    with pytest.raises(DataError) as caught:
        DATASETS["fashion_mnist"].load()
    text = str(caught.value)
    for part in (str(tmp_path / "a"), str(tmp_path / "b"), "ACDC_DATA", "fashion_mnist_10k"):
        assert part in text


def shifted(image: Tensor, down: int, right: int) -> Tensor:
    """Return an image (C, H, W) moved by whole pixels, zeros coming in, pixel by pixel."""
    _, height, width = image.shape
    result = torch.zeros_like(image)
    for row in range(height):
        for column in range(width):
            if 0 <= row - down < height and 0 <= column - right < width:
                result[:, row, column] = image[:, row - down, column - right]
    return result


def numbered_images(count: int, channels: int, size: int) -> Tensor:
    """Return images without any symmetry: all their pixels differ."""
    pixels = torch.arange(channels * size * size).remainder(251).add(1).to(torch.uint8)
    return pixels.reshape(1, channels, size, size).repeat(count, 1, 1, 1)


def augmented(images: torch.Tensor, how: Augmentation, seed: int) -> torch.Tensor:
    reach = max(images.shape[2] // 8, 1)
    shifts = draw_shifts(how, reach, len(images), torch.Generator().manual_seed(seed))
    return PaddedImages(images, reach).windows(torch.arange(len(images)), shifts)


@settings(max_examples=20)
@given(
    st.sampled_from(["shift", "shift_flip"]),
    st.integers(1, 2),
    st.sampled_from([4, 8, 16]),
    st.integers(0, 2**32),
)
def test_augmented_images_are_shifted_originals(
    how: Augmentation, channels: int, size: int, seed: int
) -> None:
    images = numbered_images(6, channels, size)
    images[1::2] = images[1::2].flip(2)
    out = augmented(images, how, seed)
    reach = max(size // 8, 1)
    flips = (False, True) if how == "shift_flip" else (False,)
    for image, moved in zip(images, out, strict=True):
        candidates = (
            shifted(image.flip(2) if flip else image, down, right)
            for flip in flips
            for down in range(-reach, reach + 1)
            for right in range(-reach, reach + 1)
        )
        assert any(torch.equal(moved, candidate) for candidate in candidates)


def test_shifts_and_flips_are_uniform() -> None:
    images = numbered_images(1800, 1, 8)
    out = augmented(images, "shift_flip", 0)
    counts: dict[bytes, int] = {}
    for image in out:
        counts[image.numpy().tobytes()] = counts.get(image.numpy().tobytes(), 0) + 1
    # 9 shifts, 2 orientations: 100 each on average, standard deviation 10; six of those either way.
    assert len(counts) == 18
    assert min(counts.values()) > 40
    assert max(counts.values()) < 160


def test_augmentation_is_a_function_of_its_generator() -> None:
    images = numbered_images(8, 1, 8)
    before = images.clone()
    first, again, other = (augmented(images, "shift", seed) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(images, before)


def feed(augmentation: Augmentation, ranks: Ranks | None = None, **plan: Any) -> MemoryLoader:
    whole = {"seed": 1, "batch_size": 250, "device": torch.device("cpu")} | plan
    return MemoryLoader(
        DATASETS["digits"].load(),
        LoaderPlan(augmentation=augmentation, ranks=ranks or Ranks(), **whole),
    )


def test_batches_without_augmentation() -> None:
    images = DATASETS["digits"].load()
    order = torch.randperm(1294, generator=seeds.generator(1, "data_order", 3))
    batches = list(feed("none").training(3))
    assert [len(labels) for _, labels in batches] == [250] * 5
    expected = (images.training.pixels[order[:1250]].float() - images.mean) / images.std
    assert torch.equal(torch.cat([inputs for inputs, _ in batches]), expected)
    assert torch.equal(
        torch.cat([labels for _, labels in batches]), images.training.labels[order[:1250]]
    )
    inputs, labels = feed("shift").samples(order[:7])
    assert torch.equal(inputs, expected[:7])
    assert torch.equal(labels, images.training.labels[order[:7]])


def test_epochs_can_begin_at_any_batch() -> None:
    whole = list(feed("shift").training(2))
    for first in range(6):
        rest = list(feed("shift").training(2, first))
        assert len(rest) == 5 - first
        for (a, b), (c, d) in zip(rest, whole[first:], strict=True):
            assert torch.equal(a, c)
            assert torch.equal(b, d)


@pytest.mark.parametrize("count", [2, 5])
def test_ranks_share_batches_and_splits(count: int) -> None:
    shares = [feed("shift", Ranks(rank, count)) for rank in range(count)]
    whole = feed("shift")
    for parts in zip(whole.training(1), *(share.training(1) for share in shares), strict=True):
        (inputs, labels), *mine = parts
        assert torch.equal(torch.cat([x for x, _ in mine]), inputs)
        assert torch.equal(torch.cat([y for _, y in mine]), labels)
        assert {len(y) for _, y in mine} == {250 // count}
    for name in ("validation", "test"):
        together = [y for share in shares for _, y in share.evaluation(name)]
        assert torch.equal(torch.cat(together), torch.cat([y for _, y in whole.evaluation(name)]))


def test_inputs_are_channels_last() -> None:
    pixels = numbered_images(4, 3, 8)
    padded = PaddedImages(pixels, 1)
    shifts = draw_shifts("shift", 1, 4, torch.Generator().manual_seed(0))
    taken = padded.windows(torch.arange(4), shifts)
    assert taken.is_contiguous(memory_format=torch.channels_last)
    assert standardise(taken, torch.zeros(1, 3, 1, 1), torch.ones(1, 3, 1, 1)).is_contiguous(
        memory_format=torch.channels_last
    )


@given(st.integers(0, 2**32), st.integers(1, 3), st.integers(2, 40))
def test_moments(seed: int, channels: int, size: int) -> None:
    pixels = torch.randint(
        0, 256, (3, channels, size, 2), generator=torch.Generator().manual_seed(seed)
    ).to(torch.uint8)
    mean, std = moments(pixels)
    exact = pixels.double()
    assert torch.allclose(mean.double(), exact.mean(dim=(0, 2, 3), keepdim=True), rtol=1e-6)
    assert torch.allclose(std.double(), exact.std(dim=(0, 2, 3), keepdim=True), rtol=1e-6)


# What is there


def cell(table: str, name: str, column: int) -> str:
    rows = [[text.strip() for text in line.split("|")[1:-1]] for line in table.splitlines()]
    return next(row[column] for row in rows if row and row[0] == name)


@pytest.fixture
def acdc_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, acdc: Any
) -> Callable[..., tuple[int, str, str]]:
    """Call ``acdc data``, sets being looked for in ``tmp_path``; return status, output, errors."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ACDC_DATA", str(tmp_path))
    return partial(acdc, "data")


IMPORTS = """
import sys
def check(*unwanted): print(sorted(set(unwanted) & set(sys.modules)))
from acdc.data import DATASETS
check("torch", "numpy", "PIL", "pydantic")
import torch
from acdc.data.loader import LoaderPlan
DATASETS["digits"].load().loader(LoaderPlan(1, 8, "shift", torch.device("cpu")))
check("torchvision", "sklearn", "PIL")
assert DATASETS["cifar10"].missing() is None  # its files are there, and empty
[spec.missing() for spec in DATASETS.values()]
check("torchvision", "sklearn", "scipy", "pandas")
"""


def test_sets_import_what_they_need(tmp_path: Path) -> None:
    folder = tmp_path / cifar._FOLDERS["cifar10"]
    folder.mkdir()
    for name in cifar._FILES["cifar10"]:
        (folder / name).write_bytes(b"")
    done = subprocess.run(
        [sys.executable, "-c", IMPORTS],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"ACDC_DATA": str(tmp_path)},
    )
    assert done.stdout == "[]\n[]\n[]\n"


AcdcData = Callable[..., tuple[int, str, str]]


def test_check_shows_the_state_of_sets(acdc_data: AcdcData) -> None:
    status, text, error = acdc_data("check", "digits", "fashion_mnist_2k", "cifar10", "imagenet")
    states = {"digits": "there", "fashion_mnist_2k": "there", "cifar10": "missing"}
    assert {name: cell(text, name, 1) for name in states} == states
    assert cell(text, "digits", 2) == "1,294 + 143 + 360"
    assert cell(text, "fashion_mnist_2k", 3) == "checksums match"
    assert "CIFAR10(" in text  # how to get it
    assert "train/CLASS/*.JPEG" in text
    assert status == DataError.exit_status
    assert error.startswith("error: data sets: cifar10 is missing, imagenet is missing; ")


def test_check_writes_what_it_found_if_all_is_there(acdc_data: AcdcData, tmp_path: Path) -> None:
    manifest = tmp_path / "sets.json"
    assert acdc_data("check", "digits", "cifar10", "--manifest", manifest)[0] == 3
    assert not manifest.exists()
    assert acdc_data("check", "digits", "--manifest", manifest)[0] == 0
    images = {"training": 1294, "validation": 143, "test": 360}
    digits = {"title": "Digits (8 x 8)", "images": images}
    assert json.loads(manifest.read_text()) == {"digits": digits}
    assert acdc_data("check", "cifar11")[0] == ConfigError.exit_status


def test_check_without_names_fails_on_incomplete_sets_only(
    acdc_data: AcdcData, tmp_path: Path
) -> None:
    status, text, _ = acdc_data("check")
    assert status == 0
    assert {cell(text, name, 1) for name in ("cifar10", "imagenet")} == {"missing"}
    # A folder of ImageNet as a copy that was cut short leaves it.
    for part in ("train", "val"):
        for label in range(1000):
            (tmp_path / "imagenet" / part / f"n{label:08}").mkdir(parents=True)
            (tmp_path / "imagenet" / part / f"n{label:08}" / "1.JPEG").touch()
    assert DATASETS["imagenet"].missing() is None
    status, text, error = acdc_data("check")
    assert status == DataError.exit_status
    assert cell(text, "imagenet", 1) == "incomplete"
    assert "not 1271167" in text
    assert error.startswith("error: data sets: imagenet is incomplete; ")
