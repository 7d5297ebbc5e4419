"""Images in files: found, verified, loaded the same by any workers and ranks, and trained on."""

import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from acdc.config.run import parse_run
from acdc.data import DATASETS
from acdc.data.decode import View, read
from acdc.data.folder import FolderLoader, FolderSet, list_files
from acdc.data.loader import Batch, LoaderPlan
from acdc.distributed import Ranks
from acdc.errors import ConfigError, DataError
from acdc.run.lifecycle import Options, run
from acdc.training.state import Engine
from tests.data.pictures import CLASSES, FOLDERS, SIZE, TRAIN, VALIDATION, make, spec_of
from tests.support import At, Silent, assert_same_run, interrupt, resumptions

PLAN = LoaderPlan(seed=7, batch_size=8, augmentation="crop_flip", device=torch.device("cpu"))
MEAN, STD = (torch.tensor(values)[:, None, None] for values in (FOLDERS.mean, FOLDERS.std))

Loaders = Callable[..., FolderLoader]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def images(root: Path) -> FolderSet:
    return spec_of(root).load()


@pytest.fixture(scope="module")
def loaders(images: FolderSet) -> Iterator[Loaders]:
    """Loaders by what they change of the plan, closed in the end."""
    made: dict[str, FolderLoader] = {}

    def get(**changes: object) -> FolderLoader:
        if str(changes) not in made:
            made[str(changes)] = images.loader(replace(PLAN, **changes))  # type: ignore[arg-type]
        return made[str(changes)]

    yield get
    for loader in made.values():
        loader.close()


def same(ours: list[Batch], theirs: list[Batch]) -> bool:
    pairs = zip(ours, theirs, strict=True)
    return all(torch.equal(a, b) and torch.equal(x, y) for (a, x), (b, y) in pairs)


def centre(path: str) -> Tensor:
    """Return what evaluation sees of an image, in double precision."""
    pixels = torch.from_numpy(read(path, View(SIZE, FOLDERS.resize), None).copy())
    return (pixels.permute(2, 0, 1).double() / 255 - MEAN) / STD


# Batches


def test_training_follows_the_plan(loaders: Loaders, images: FolderSet) -> None:
    batches = list(loaders().training(3))
    order = PLAN.order(len(images.training), 3)
    assert len(order) == len(CLASSES) * (TRAIN - VALIDATION)
    assert len(batches) == len(order) // 8
    assert [int(label) for _, labels in batches for label in labels] == [
        images.training.labels[number] for number in order[: 8 * len(batches)]
    ]
    for inputs, labels in batches:
        assert inputs.shape == (8, 3, SIZE, SIZE)
        assert inputs.dtype == torch.float32
        assert inputs.is_contiguous(memory_format=torch.channels_last)
        assert labels.dtype == torch.int64
    assert same(list(loaders(workers=1).training(3)), batches)
    for first in (1, 4, len(batches)):
        assert same(list(loaders().training(3, first)), batches[first:])


@pytest.mark.parametrize("count", [2, 4])
def test_ranks_see_the_same_images(count: int, loaders: Loaders) -> None:
    shared = [loaders(ranks=Ranks(rank, count), workers=1) for rank in range(count)]
    shares = zip(*(loader.training(2) for loader in shared), strict=True)
    joined = [tuple(map(torch.cat, zip(*parts, strict=True))) for parts in shares]
    assert same(joined, list(loaders().training(2)))  # type: ignore[arg-type]
    for split in ("validation", "test"):
        parts = [batch for loader in shared for batch in loader.evaluation(split)]
        whole = list(loaders().evaluation(split))
        for ours, theirs in zip(zip(*parts, strict=True), zip(*whole, strict=True), strict=True):
            assert torch.equal(torch.cat(ours), torch.cat(theirs))


def test_epochs_and_seeds_draw_differently(loaders: Loaders) -> None:
    def sums(seed: int, epoch: int) -> set[float]:
        batches = loaders(seed=seed).training(epoch)
        return {float(image.double().sum()) for inputs, _ in batches for image in inputs}

    first = sums(7, 0)
    assert first == sums(7, 0)
    assert not first & sums(7, 1)
    assert not first & sums(8, 0)


def test_evaluation_sees_each_centre_once(loaders: Loaders, images: FolderSet) -> None:
    for split, files in (("validation", images.validation), ("test", images.test)):
        inputs, labels = map(torch.cat, zip(*loaders().evaluation(split), strict=True))
        assert labels.tolist() == files.labels.tolist()
        expected = torch.stack([centre(files.path(number)) for number in range(len(files))])
        torch.testing.assert_close(inputs.double(), expected, rtol=0, atol=1e-5)


def test_samples_between_batches(loaders: Loaders, images: FolderSet) -> None:
    undisturbed = list(loaders().training(5))
    epoch = loaders().training(5)
    begun = list(islice(epoch, 2))
    chosen = torch.tensor([30, 2, 2, 17, 53, 4, 9, 41, 1, 0, 22])  # more than a batch
    inputs, labels = loaders().samples(chosen)
    assert same(begun + list(epoch), undisturbed)
    assert labels.tolist() == [images.training.labels[number] for number in chosen]
    expected = torch.stack([centre(images.training.path(number)) for number in chosen.tolist()])
    torch.testing.assert_close(inputs.double(), expected, rtol=0, atol=1e-5)
    # Without augmentation, training sees what samples are.
    plain = loaders(augmentation="none")
    order = PLAN.order(len(images.training), 0)
    assert same([next(plain.training(0))], [plain.samples(order[:8])])


def test_abandoned_epochs_leave_nothing_behind(loaders: Loaders) -> None:
    expected = list(loaders().training(0))
    for _ in range(2 * len(loaders().workers.batches)):
        next(loaders().training(4))
    assert same(list(loaders().training(0)), expected)


# Folders


def test_files_are_sorted_images(tmp_path: Path) -> None:
    make(tmp_path)
    (tmp_path / "train" / "LICENSE").write_text("")
    (tmp_path / "train" / "bee" / ".DS_Store").write_text("")
    (tmp_path / "train" / "bee" / "\N{SNOWMAN} bee.jpg").write_text("")
    files = list_files(tmp_path / "train")
    found = [files.path(number) for number in range(len(files))]
    paths = (tmp_path / "train").glob("*/*.[Jj]*")
    assert found == sorted(map(str, paths), key=lambda p: (Path(p).parent.name, os.fsencode(p)))
    assert [files.classes[label] for label in files.labels] == [Path(p).parent.name for p in found]


def test_validation_images_are_a_fixed_part_of_each_class(tmp_path: Path) -> None:
    for name, count in {"a": 9, "b": 10, "c": 57, "d": 100, "e": 250}.items():
        for part in ("train", "val"):
            (tmp_path / part / name).mkdir(parents=True)
            for number in range(count):
                (tmp_path / part / name / f"{number}.JPEG").touch()
    spec = spec_of(tmp_path, 5, 400, replace(FOLDERS, test_images=None))
    found = spec.load()
    training, validation = (
        [files.path(number) for number in range(len(files))]
        for files in (found.training, found.validation)
    )
    assert sorted(training + validation) == sorted(map(str, (tmp_path / "train").glob("*/*")))
    held_out = Counter(Path(path).parent.name for path in validation)
    assert held_out == {"b": 1, "c": 5, "d": 10, "e": 10}
    assert found.sizes == {"training": 400, "validation": 26, "test": 426}
    np.random.seed(1)
    again = spec.load().validation
    assert [again.path(number) for number in range(len(again))] == validation


def test_imagenet() -> None:
    spec = DATASETS["imagenet"]
    assert spec.training_images == 1_281_167 - 10 * spec.classes
    assert spec.input_shape == (3, 224, 224)
    assert spec.augmentations == ("none", "crop_flip")


def damaged(root: Path, how: str) -> None:
    if how == "nowhere":
        return
    make(root)
    if how in ("no val", "no classes"):
        (root / "val").rename(root / "test")
    if how == "no classes":
        (root / "val").mkdir()
    elif how == "other classes":
        (root / "val" / "cat").rename(root / "val" / "dog")
    elif how == "empty class":
        for file in (root / "train" / "yak").iterdir():
            file.unlink()


@pytest.mark.parametrize(
    ("how", "what"),
    [
        ("nowhere", "set ACDC_DATA"), ("no val", "val is missing"),
        ("no classes", "val has no classes"), ("other classes", "cat is in one of them only"),
        ("empty class", "yak has no images"), ("small", "3 classes, not 1000")
    ],
)  # fmt: skip
def test_not_imagenet(how: str, what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    damaged(tmp_path / "imagenet", how)
    monkeypatch.setenv("ACDC_DATA", str(tmp_path))
    with pytest.raises(DataError) as refusal:
        DATASETS["imagenet"].load()
    assert what in str(refusal.value)
    assert str(tmp_path / "imagenet") in str(refusal.value)


def test_files_are_counted(root: Path) -> None:
    with pytest.raises(DataError, match=r"54 training images.*, not 55"):
        spec_of(root, training_images=55).load()
    with pytest.raises(DataError, match="15 images in val, not 16"):
        spec_of(root, folders=replace(FOLDERS, test_images=16)).load()


@pytest.mark.parametrize(
    ("dataset", "augmentation"),
    [
        ("digits", "crop_flip"), ("fashion_mnist", "crop_flip"), ("imagenet", "shift"),
        ("imagenet", "shift_flip"), ("digits", "shift_flip")
    ],
)  # fmt: skip
def test_augmentations_that_do_not_suit(dataset: str, augmentation: str) -> None:
    data = {"model": "resnet8", "dataset": dataset, "method": "dense", "epochs": 1}
    with pytest.raises(ConfigError, match=rf"^recipe\.augmentation={augmentation}: "):
        parse_run(data | {"recipe": {"augmentation": augmentation}})


# Runs


@pytest.mark.parametrize("method", ["acdc", "snip"])
def test_a_data_set_of_ones_own(
    method: str, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One entry makes a folder of 32 x 32 images a data set; runs resume within an epoch."""
    monkeypatch.setitem(DATASETS, "pictures", spec_of(root))
    phases = [["dense", 0, 1], ["sparse", 1, 2]]
    settings = {"acdc": {"schedule": None, "phases": phases}, "snip": {"images": 13}}[method]
    config = parse_run(
        {
            "model": "resnet8_s4", "dataset": "pictures", "method": method, "settings": settings,
            "sparsity": 0.8, "epochs": 2, "recipe": {"batch_size": 8, "augmentation": "crop_flip"}
        }
    )  # fmt: skip

    whole = run(config, Options(tmp_path / "whole"), Silent())
    options = Options(tmp_path / "parts", engine=Engine(workers=1), checkpoint_interval_s=0)
    with pytest.raises(KeyboardInterrupt):
        run(config, options, At(interrupt, steps=[8]))
    result = run(config, options, Silent())
    name = config.run_name
    assert_same_run(tmp_path / "parts" / name, result, tmp_path / "whole" / name, whole)
    assert resumptions(tmp_path / "parts" / name) == [(1, 2)]
