"""The sets that come with the suite: what their checksums say, split once for all."""

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
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from acdc.data import DATASETS, cifar, command, fashion_mnist
from acdc.data.memory import as_images, moments, split
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


@given(st.integers(0, 2**32), st.integers(1, 3), st.integers(2, 40))
def test_moments(seed: int, channels: int, size: int) -> None:
    pixels = torch.randint(
        0, 256, (3, channels, size, 2), generator=torch.Generator().manual_seed(seed)
    ).to(torch.uint8)
    mean, std = moments(pixels)
    exact = pixels.double()
    assert torch.allclose(mean.double(), exact.mean(dim=(0, 2, 3), keepdim=True), rtol=1e-6)
    assert torch.allclose(std.double(), exact.std(dim=(0, 2, 3), keepdim=True), rtol=1e-6)


def flip_a_bit(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)


def change_content(path: Path) -> None:
    content = bytearray(gzip.decompress(path.read_bytes()))
    content[-1] ^= 1
    path.write_bytes(gzip.compress(bytes(content), 1))


def folder_instead(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGES: list[Callable[[Path], object]] = [
    Path.unlink, lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    flip_a_bit, change_content, lambda path: path.write_bytes(b"no gzip at all"), folder_instead
]  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("dataset", ["digits", "fashion_mnist_10k"])
def test_damaged_files_are_named(
    dataset: str, damage: Callable[[Path], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
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
    damage(path)
    with pytest.raises(DataError) as caught:
        DATASETS[dataset].load()
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    if damage is not folder_instead:
        assert (DATASETS[dataset].missing() is not None) == (damage is Path.unlink)
    found = command.examine(DATASETS[dataset])
    assert (found.state, found.problem) == ("incomplete", str(caught.value))
    assert found.folder == path.parent


def test_a_folder_around_a_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some tools unpack x.gz to x/x."""
    for name in NAMES:
        (tmp_path / name).write_bytes((fashion_mnist.embedded_folder() / name).read_bytes())
    monkeypatch.setattr(fashion_mnist, "embedded_folder", lambda: tmp_path)
    path = tmp_path / NAMES[2]
    path.unlink()
    path.with_suffix("").mkdir()
    (path.with_suffix("") / path.stem).touch()
    with pytest.raises(DataError, match=f"{path.with_suffix('')}.* a folder"):
        DATASETS["fashion_mnist_1k"].load()
    assert command.examine(DATASETS["fashion_mnist_1k"]).state == "incomplete"


def digits_file() -> Path:
    spec = importlib.util.find_spec("sklearn")
    return Path(spec.origin).parent / "datasets" / "data" / "digits.csv.gz"


def test_digits_without_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DataError, match="comes with scikit-learn, which is not installed"):
        DATASETS["digits"].load()


@pytest.mark.parametrize("layout", ["folder", "torchvision", "uncompressed"])
def test_layouts_of_full_sets(layout: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_a_missing_set_names_folders_and_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fashion_mnist, "full_folders", lambda: [tmp_path / "a", tmp_path / "b"])
    with pytest.raises(DataError) as caught:
        DATASETS["fashion_mnist"].load()
    text = str(caught.value)
    for part in (str(tmp_path / "a"), str(tmp_path / "b"), "ACDC_DATA", "fashion_mnist_10k"):
        assert part in text


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
    assert error.startswith("error: data sets: cifar10 is missing, imagenet is missing. ")


def test_check_writes_what_it_found_if_all_is_there(acdc_data: AcdcData, tmp_path: Path) -> None:
    manifest = tmp_path / "sets.json"
    assert acdc_data("check", "digits", "cifar10", "--manifest", manifest)[0] == 3
    assert not manifest.exists()
    assert acdc_data("check", "digits", "kjv_tiny", "--manifest", manifest)[0] == 0
    images = {"training": 1294, "validation": 143, "test": 360}
    tokens = {"training": 31370, "validation": 1895, "test": 1447}
    assert json.loads(manifest.read_text()) == {
        "digits": {"title": "Digits (8 x 8)", "images": images},
        "kjv_tiny": {"title": "King James Version, 36 chapters", "tokens": tokens},
    }
    assert acdc_data("check", "cifar11")[0] == ConfigError.exit_status


def test_check_fails_on_incomplete_sets_only(acdc_data: AcdcData, tmp_path: Path) -> None:
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
    assert error.startswith("error: data sets: imagenet is incomplete. data folder ")
