"""CIFAR is read as torchvision lays it out, verified before it is unpickled, moved by four."""

import hashlib
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from acdc import seeds
from acdc.data import DATASETS, cifar
from acdc.data.command import examine
from acdc.data.loader import LoaderPlan
from acdc.data.shifts import draw_shifts
from acdc.errors import DataError
from acdc.vision import torchvision_module

Name = str
NAMES: tuple[Name, Name] = ("cifar10", "cifar100")
TRAINING, TEST = 300, 20  # images of each file


class Made:
    """A small set in torchvision's layout, whose checksums torchvision's class takes for its own.

    The real files cannot come with the suite; reader and integrity check are the real ones.
    """

    def __init__(self, name: Name, root: Path, patch: pytest.MonkeyPatch) -> None:
        self.name, self.root = name, root
        self.classes = DATASETS[name].classes
        self.reader: Any = getattr(torchvision_module("torchvision.datasets"), name.upper())
        self.folder = root / self.reader.base_folder
        self.folder.mkdir(parents=True)
        random = np.random.default_rng(5)
        self.pixels: dict[str, np.ndarray] = {}
        self.labels: dict[str, list[int]] = {}
        for attribute, count in (("train_list", TRAINING), ("test_list", TEST)):
            made = []
            for file, _ in getattr(self.reader, attribute):
                self.pixels[file] = random.integers(0, 256, (count, 3072), dtype=np.uint8)
                self.labels[file] = random.integers(0, self.classes, count).tolist()
                key = "labels" if name == "cifar10" else "fine_labels"
                made.append(
                    [file, self.write(file, {"data": self.pixels[file], key: self.labels[file]})]
                )
            patch.setattr(self.reader, attribute, made)
        meta = dict(self.reader.meta)
        words = [f"class {label}" for label in range(self.classes)]
        meta["md5"] = self.write(meta["filename"], {meta["key"]: words})
        patch.setattr(self.reader, "meta", meta)

    def write(self, file: str, content: Any) -> str:
        """Write a file as the original is, and return its md5."""
        raw = pickle.dumps(content, protocol=2)
        (self.folder / file).write_bytes(raw)
        return hashlib.md5(raw).hexdigest()

    def images(self, part: str) -> tuple[np.ndarray, np.ndarray]:
        """Return images (N, 3, 32, 32) and labels in the order of the files."""
        files = [file for file, _ in getattr(self.reader, f"{part}_list")]
        pixels = np.concatenate([self.pixels[file] for file in files])
        return pixels.reshape(-1, 3, 32, 32), np.concatenate([self.labels[file] for file in files])


Make = Callable[[Name], Made]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ACDC_DATA", str(tmp_path / "sets"))
    return lambda name: Made(name, tmp_path / "sets", monkeypatch)


@pytest.mark.parametrize("name", NAMES)
def test_folder_and_files(name: Name) -> None:
    reader: Any = getattr(torchvision_module("torchvision.datasets"), name.upper())
    listed = [file for file, _ in (*reader.train_list, *reader.test_list)]
    assert list(cifar._FILES[name]) == [*listed, reader.meta["filename"]]
    assert cifar._FOLDERS[name] == reader.base_folder


@pytest.mark.parametrize("name", NAMES)
def test_specs(name: Name) -> None:
    spec = DATASETS[name]
    assert (spec.channels, spec.image_size) == (3, 32)
    assert spec.classes == {"cifar10": 10, "cifar100": 100}[name]
    assert spec.training_images == 50_000 - 50_000 // 10
    assert spec.augmentations == ("none", "flip", "shift", "shift_flip")


@pytest.mark.parametrize("name", NAMES)
def test_images_and_labels(name: Name, make: Make) -> None:
    made = make(name)
    found = DATASETS[name].load()
    pixels, labels = made.images("train")
    assert found.sizes == {
        "training": len(labels) - len(labels) // 10,
        "validation": len(labels) // 10,
        "test": TEST,
    }

    def written(pixels: Any, labels: Any) -> list[tuple[bytes, int]]:
        return [
            (np.ascontiguousarray(image).tobytes(), int(label))
            for image, label in zip(pixels, labels, strict=True)
        ]

    def read(images: Any) -> list[tuple[bytes, int]]:
        return written(images.pixels.numpy(), images.labels)

    assert sorted(read(found.training) + read(found.validation)) == sorted(written(pixels, labels))
    assert read(found.test) == written(*made.images("test"))
    normal = found.normalise(found.training.pixels).double()
    assert torch.allclose(normal.mean(dim=(0, 2, 3)), torch.zeros(3).double(), atol=1e-5)


@pytest.mark.parametrize("below", ["", "cifar100"])
@pytest.mark.parametrize("root", ["sets", "data"])
def test_folders_searched(root: str, below: str, make: Make, tmp_path: Path) -> None:
    made = make("cifar100")
    target = tmp_path / root / below / made.folder.name
    target.parent.mkdir(parents=True, exist_ok=True)
    made.folder.rename(target)
    assert (
        DATASETS["cifar100"].locate().folder
        == (Path(root) if root == "data" else tmp_path / root) / below / target.name
    )
    assert DATASETS["cifar100"].load().sizes["test"] == TEST


class Exploit:
    """Unpickling it writes a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.target,)


@pytest.mark.parametrize("how", ["gone", "truncated", "bit flipped", "hostile"])
@pytest.mark.parametrize("file", ["data_batch_4", "batches.meta"])
def test_a_damaged_file_is_named_and_not_unpickled(
    file: str, how: str, make: Make, tmp_path: Path
) -> None:
    made = make("cifar10")
    path = made.folder / file
    raw = bytearray(path.read_bytes())
    expected = hashlib.md5(raw).hexdigest()
    if how == "gone":
        path.unlink()
    elif how == "truncated":
        path.write_bytes(raw[: len(raw) // 2])
    elif how == "bit flipped":
        raw[len(raw) // 2] ^= 1
        path.write_bytes(raw)
    else:
        made.write(file, Exploit(tmp_path / "unpickled"))
    for name in ("cifar10", "cifar10_relabelled"):
        with pytest.raises(DataError) as refusal:
            DATASETS[name].load()
        text = str(refusal.value)
        assert text.startswith(f"data file {path} is {'missing' if how == 'gone' else 'damaged'}")
        assert how == "gone" or expected in text
        assert "CIFAR10(" in text
        assert "\n" not in text
        assert (DATASETS[name].missing() is not None) == (how == "gone")
        assert examine(DATASETS[name]).state == "incomplete"
    assert not (tmp_path / "unpickled").exists()
    # It would have been written.
    made.write(file, Exploit(tmp_path / "unpickled"))
    pickle.loads(path.read_bytes())
    assert (tmp_path / "unpickled").exists()


def test_a_file_that_links_to_itself_is_missing(make: Make) -> None:
    made = make("cifar100")
    (made.folder / "test").unlink()
    (made.folder / "test").symlink_to("test")
    with pytest.raises(DataError, match="test is missing"):
        DATASETS["cifar100"].load()


def test_a_missing_set_names_folders_and_remedy(make: Make, tmp_path: Path) -> None:
    missing = DATASETS["cifar10"].missing()
    assert missing is not None
    for part in (
        str(tmp_path / "sets" / "cifar-10-batches-py"),
        str(tmp_path / "sets" / "cifar10" / "cifar-10-batches-py"),
        ", data/cifar-10-batches-py",
        "set ACDC_DATA to the folder that holds cifar-10-batches-py",
    ):
        assert part in missing
    with pytest.raises(DataError) as refusal:
        DATASETS["cifar10"].load()
    assert str(refusal.value) == missing
    assert DATASETS["cifar10_relabelled"].missing() == missing
    assert examine(DATASETS["cifar10"]).state == "missing"


@pytest.mark.parametrize("name", NAMES)
def test_the_download_command_runs(name: Name, make: Make) -> None:
    missing = DATASETS[name].missing()
    assert missing is not None
    code = missing.split('python -c "')[1].removesuffix('"')
    made = make(name)
    # The files are there and whole, so that torchvision fetches nothing.
    before = {path: path.stat().st_mtime_ns for path in made.folder.iterdir()}
    exec(code, {})
    assert {path: path.stat().st_mtime_ns for path in made.folder.iterdir()} == before
    assert not list(made.root.glob("*.tar.gz"))


def test_shift_flip_is_torchvisions_padded_crop(make: Make) -> None:
    make("cifar10")
    images = DATASETS["cifar10"].load()
    count = images.sizes["training"]
    plan = LoaderPlan(
        seed=3, batch_size=count, augmentation="shift_flip", device=torch.device("cpu")
    )
    inputs, _ = next(images.loader(plan).training(7))
    functional: Any = torchvision_module("torchvision.transforms.functional")
    drawn = draw_shifts("shift_flip", 4, count, seeds.generator(3, "augmentation", 7))

    def theirs(position: int, number: int) -> Tensor:
        padded = functional.pad(images.training.pixels[number], 4)
        top, left = drawn[:2, position].tolist()
        window = functional.crop(padded, top, left, 32, 32)
        return functional.hflip(window) if drawn[2, position] else window

    order = plan.order(count, 7).tolist()
    expected = torch.stack([theirs(at, number) for at, number in enumerate(order)])
    assert torch.equal(inputs, images.normalise(expected))
    # Anywhere within the four pixels, both ways round.
    assert set(drawn[0].tolist()) == set(drawn[1].tolist()) == set(range(9))
    assert 0 < int(drawn[2].sum()) < count
