"""Data folders as people have them: untidy ones work, damaged ones are named."""

import io
import os
import struct
import subprocess
import sys
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from acdc.config.run import parse_run
from acdc.data import DATASETS, ImageSpec, cifar
from acdc.data.command import examine
from acdc.data.loader import LoaderPlan
from acdc.data.memory import ImageSet, as_images, split
from acdc.data.spec import Location
from acdc.data.workers import WorkerError
from acdc.errors import DataError
from acdc.run.lifecycle import Options, run
from tests.data.pictures import CLASSES, FOLDERS, make, picture, spec_of
from tests.support import Silent

PLAN = LoaderPlan(
    seed=7, batch_size=6, augmentation="crop_flip", device=torch.device("cpu"), workers=1
)


# And whether it could have been taken for a class or an image, so that it is remarked on.
LEFT_BEHIND = {
    "train/.ipynb_checkpoints/bee_1-checkpoint.JPEG": True, "val/.ipynb_checkpoints/a.txt": True,
    "train/bee/._bee_1.JPEG": True, "val/yak/._yak_1.png": True,
    "train/__MACOSX/bee/._bee_1.JPEG": True, "val/@eaDir/a.jpg": True,
    "train/lost+found/a.jpg": True, "train/.Trash-1000/bee_7.JPEG": True, "train/.DS_Store": True,
    "train/bee/.DS_Store": False, "train/bee/Thumbs.db": False, "train/Thumbs.db": False,
    "train/cat/desktop.ini": False, "train/cat/.ipynb_checkpoints/cat_1-checkpoint.JPEG": False,
    "__MACOSX/train/bee/._bee_1.JPEG": False}  # fmt: skip


def test_what_desktops_leave_behind_is_ignored(tmp_path: Path) -> None:
    root = make(tmp_path / "images")
    tidy = spec_of(root).load()
    for path, remarked in LEFT_BEHIND.items():
        missing = [place for place in (root / path, *(root / path).parents) if not place.exists()]
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text("no image")
        found = spec_of(root).load()
        assert found.training.classes == CLASSES, path
        for part in ("training", "validation", "test"):
            ours, theirs = getattr(found, part), getattr(tidy, part)
            assert [*map(ours.path, range(len(ours)))] == [*map(theirs.path, range(len(theirs)))]
        assert bool(found.remark) == remarked, path
        (root / path).unlink()
        for place in missing[1:]:
            place.rmdir()


@pytest.mark.parametrize(
    ("counts", "validation"),
    [
        ((9, 9, 9), 3), ((2, 3, 5), 3), ((1, 2, 1), 1), ((1, 1, 1), None), ((9, 10, 1), 1),
        ((1, 1, 30), 3)
    ],
)  # fmt: skip
def test_few_images(counts: tuple[int, ...], validation: int | None, tmp_path: Path) -> None:
    for name, count in zip(CLASSES, counts, strict=True):
        for part, images in (("train", count), ("val", 1)):
            (tmp_path / part / name).mkdir(parents=True)
            for number in range(images):
                picture(number, 40, 40).save(tmp_path / part / name / f"{number}.png")
    folders = replace(FOLDERS, test_images=None)
    spec = spec_of(tmp_path, 3, sum(counts) - (validation or 0), folders)
    if validation is None:
        with pytest.raises(DataError, match="no validation images"):
            spec.load()
        return
    images = spec.load()
    assert images.sizes["validation"] == validation
    # A class keeps an image to train on.
    assert set(images.training.labels) == {0, 1, 2}


def bomb(width: int, height: int) -> bytes:
    """Return a small PNG whose header claims a size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + checksum

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rows = zlib.compress(bytes(1000))
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    )


def jpeg() -> bytes:
    file = io.BytesIO()
    picture(3, 60, 50).save(file, "JPEG")
    return file.getvalue()


WHOLE = jpeg()
DAMAGED: dict[str, bytes | None] = {
    "a header of 65535 x 65535": bomb(65_535, 65_535),
    "a header of 20,000 x 20,000": bomb(20_000, 20_000), "a header of a line": bomb(2**31 - 1, 1),
    "a header of nothing": bomb(0, 10), "cut in half": WHOLE[: len(WHOLE) // 2],
    "cut in its header": WHOLE[:25], "empty": b"", "zeros": bytes(len(WHOLE)),
    "a page of HTML": b"<!DOCTYPE html><title>404</title>",
    "a pointer of Git LFS": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
    "another kind of file": b"GIF89a" + bytes(20),
    "a damaged chunk": bomb(30, 30)[:-20] + bytes(20), "gone": None}  # fmt: skip


def test_damaged_images_are_named(tmp_path: Path) -> None:
    images = spec_of(make(tmp_path / "images")).load()
    path = Path(images.training.path(11))
    loader = images.loader(PLAN)
    try:
        for how, content in DAMAGED.items():
            path.unlink(missing_ok=True)
            if content is not None:
                path.write_bytes(content)
            with pytest.raises(DataError) as refusal:
                list(loader.training(0))
            assert str(refusal.value).startswith(
                f"data file {path} cannot be read as an image ("
            ), how
            assert "\n" not in str(refusal.value)
            # The other files can still be read.
            assert sum(len(labels) for _, labels in loader.evaluation("test")) == len(images.test)
    finally:
        loader.close()


def test_a_folder_in_place_of_a_pickle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACDC_DATA", str(tmp_path))
    for file in cifar._FILES["cifar10"]:
        (tmp_path / cifar._FOLDERS["cifar10"] / file).mkdir(parents=True)
    with pytest.raises(DataError, match="data_batch_1 is a folder"):
        DATASETS["cifar10"].load()


@pytest.mark.parametrize("error", [PermissionError(13, "denied", "/x/y"), OSError(5, "I/O", "/x")])
def test_folders_that_cannot_be_read(error: OSError, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise error

    monkeypatch.setattr("acdc.data.digits.load", fail)
    assert str(error.filename) in examine(DATASETS["digits"]).problem
    monkeypatch.setattr("acdc.data.digits.locate", fail)
    assert str(error.filename) in examine(DATASETS["digits"]).problem


@pytest.mark.parametrize("part", ["share_memory_", "ProcessPoolExecutor"])
@pytest.mark.parametrize("error", [RuntimeError("unable to write"), FileNotFoundError(2, "none")])
def test_shared_memory_that_is_too_small(
    part: str, error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise error

    owner = torch.Tensor if part == "share_memory_" else sys.modules["acdc.data.workers"]
    images = spec_of(make(tmp_path / "images")).load()
    monkeypatch.setattr(owner, part, fail)
    with pytest.raises(WorkerError, match="/dev/shm"):
        images.loader(PLAN)


UNGUARDED = """
import sys
from pathlib import Path
import torch
from acdc.data.loader import LoaderPlan
from tests.data.pictures import spec_of
print("started")
plan = LoaderPlan(1, 6, "crop_flip", torch.device("cpu"), workers=2)
for epoch in range(2):
    loader = spec_of(Path(sys.argv[1])).load().loader(plan)
    print(sum(len(labels) for _, labels in loader.training(epoch)))
    loader.close()
"""


def test_a_script_without_a_guard(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(UNGUARDED)
    done = subprocess.run(
        [sys.executable, tmp_path / "script.py", make(tmp_path / "images")],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert (done.returncode, done.stdout) == (0, "started\n54\n54\n"), done.stderr


def locate(spec: ImageSpec) -> Location:
    return Location()


def load(spec: ImageSpec, folder: None) -> ImageSet:
    """Return images that are drawn, as many as the source says."""
    pixels = torch.randint(0, 256, (int(spec.source), 1, 8, 8), dtype=torch.uint8).numpy()
    labels = torch.arange(len(pixels)).remainder(10).numpy()
    return split(pixels, labels, as_images(pixels[:5], labels[:5]))


def test_a_check_claims_what_it_verified(monkeypatch: pytest.MonkeyPatch, acdc: Any) -> None:
    drawn = replace(DATASETS["digits"], module=__name__, source="40")
    monkeypatch.setitem(DATASETS, "drawn", drawn)
    verified = {}
    for name in ("drawn", "digits", "fashion_mnist_1k_relabelled"):
        status, text, _ = acdc("data", "check", name)
        assert status == 0
        verified[name] = "checksums match" in text
    assert verified == {"drawn": False, "digits": True, "fashion_mnist_1k_relabelled": True}
    monkeypatch.setitem(DATASETS, "drawn", replace(drawn, source="9"))
    with pytest.raises(DataError, match="no validation images"):
        DATASETS["drawn"].load()


def test_an_untidy_folder_is_remarked_on_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make(tmp_path / "images")
    (root / "train" / ".ipynb_checkpoints").mkdir()
    Image.new("RGB", (9, 9)).save(root / "val" / "bee" / "._bee_1.JPEG")
    monkeypatch.setitem(DATASETS, "pictures", spec_of(root))
    config = parse_run(
        {"model": "resnet8_s4", "dataset": "pictures", "method": "dense", "epochs": 1}
        | {"recipe": {"batch_size": 18}}
    )
    reporter = Silent()
    run(config, Options(tmp_path / "runs"), reporter)
    remarks = [said for said in reporter.said if str(root) in said]
    assert len(remarks) == 1
