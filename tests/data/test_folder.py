"""Images in files: bit-identical however they are read, views as torchvision's, failures told."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from PIL import Image
from scipy import stats
from torch import Tensor

from acdc.config.run import parse_run
from acdc.data import DATASETS, ClassFolders, DatasetSpec, folder
from acdc.data.decode import Crop, Draw, View, draw_crop, read
from acdc.data.folder import FolderSet
from acdc.data.loader import Batch, LoaderPlan
from acdc.distributed import Ranks
from acdc.errors import ConfigError, DataError
from acdc.run.journal import read_journal
from acdc.run.lifecycle import Options, run
from acdc.training.loop import Engine
from acdc.vision import torchvision_models
from tests.support import Silent, assert_same_run

CLASSES, TRAINING, VALIDATION, TEST = ("bee", "cat", "yak"), 20, 2, 5  # images of each class
PLAN = LoaderPlan(seed=7, batch_size=8, augmentation="crop_flip", device=torch.device("cpu"))
MEAN = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
STD = torch.tensor([0.229, 0.224, 0.225])[:, None, None]


SIZE = 224
VIEW = View(SIZE, 256)


def spec_of(root: Path, classes: int = 3, train: int = 54, val: int | None = 15) -> DatasetSpec:
    return DatasetSpec(
        title="Pictures", channels=3, image_size=SIZE, classes=classes, training_images=train,
        module="acdc.data.folder", source=str(root),
        folders=ClassFolders(256, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), val),
    )  # fmt: skip


def load(root: Path, **expected: Any) -> FolderSet:
    return folder.load(spec_of(root, **expected))


def picture(seed: int, width: int, height: int) -> Image.Image:
    """A smooth picture with noise, so that crops, flips and resizing all show."""
    coarse = np.random.default_rng(seed).integers(0, 256, (9, 9, 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))
    noise = np.random.default_rng(seed + 1).integers(-20, 21, smooth.shape)
    return Image.fromarray((smooth + noise).clip(0, 255).astype(np.uint8))


def make(root: Path) -> Path:
    for part, count in (("train", TRAINING), ("val", TEST)):
        for label, name in enumerate(CLASSES):
            place = root / part / name
            place.mkdir(parents=True)
            for number in range(count):
                seed = 1000 * (part == "val") + 100 * label + number
                size = (60 + 37 * number % 300, 50 + 53 * number % 250)
                picture(seed, *size).save(place / f"{name}_{number}.JPEG", quality=90)
    return root


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def images(root: Path) -> FolderSet:
    return load(root)


@pytest.fixture(scope="module")
def feeds(images: FolderSet) -> Iterator[Callable[..., folder.FolderLoader]]:
    """Feeds by what they change of the plan, closed in the end."""
    made: dict[str, folder.FolderLoader] = {}

    def get(**changes: object) -> folder.FolderLoader:
        if str(changes) not in made:
            made[str(changes)] = images.loader(replace(PLAN, **changes))
        return made[str(changes)]

    yield get
    for feed in made.values():
        feed.close()


def same(ours: list[Batch], theirs: list[Batch]) -> bool:
    pairs = zip(ours, theirs, strict=True)
    return all(torch.equal(a, b) and torch.equal(x, y) for (a, x), (b, y) in pairs)


def bytes_of(inputs: Tensor) -> Tensor:
    return ((inputs * STD + MEAN) * 255).round().to(torch.uint8)


# What a run sees


def test_training_batches_are_the_images_in_the_plans_order(
    feeds: Callable[..., folder.FolderLoader], images: FolderSet
) -> None:
    batches = list(feeds().training(3))
    count = len(CLASSES) * (TRAINING - VALIDATION)
    order = PLAN.order(count, 3)
    assert len(batches) == count // 8
    assert [int(label) for _, labels in batches for label in labels] == [
        images.training.labels[number] for number in order[: 8 * len(batches)]
    ]
    for inputs, labels in batches:
        assert inputs.shape == (8, 3, SIZE, SIZE)
        assert inputs.dtype == torch.float32
        assert inputs.is_contiguous(memory_format=torch.channels_last)
        assert labels.dtype == torch.int64


def test_inputs_do_not_depend_on_workers(feeds: Callable[..., folder.FolderLoader]) -> None:
    one, three = feeds(workers=1), feeds(workers=3)
    assert same(list(one.training(0)), list(three.training(0)))


def test_an_epoch_can_be_taken_up_at_any_batch(feeds: Callable[..., folder.FolderLoader]) -> None:
    whole = list(feeds().training(1))
    for first in (1, 4, len(whole)):
        assert same(list(feeds().training(1, first)), whole[first:])


@pytest.mark.parametrize("count", [2, 4])
def test_inputs_do_not_depend_on_ranks(
    count: int, feeds: Callable[..., folder.FolderLoader], images: FolderSet
) -> None:
    shared = [images.loader(replace(PLAN, ranks=Ranks(rank, count))) for rank in range(count)]
    try:
        shares = zip(*(feed.training(2) for feed in shared), strict=True)
        joined = [tuple(map(torch.cat, zip(*parts, strict=True))) for parts in shares]
        assert same(joined, list(feeds().training(2)))
        for split in ("validation", "test"):
            parts = [batch for feed in shared for batch in feed.evaluation(split)]
            whole = list(feeds().evaluation(split))
            inputs, labels = (torch.cat(list(each)) for each in zip(*parts, strict=True))
            assert torch.equal(inputs, torch.cat([inputs for inputs, _ in whole]))
            assert torch.equal(labels, torch.cat([labels for _, labels in whole]))
    finally:
        for feed in shared:
            feed.close()


def test_epochs_and_seeds_draw_anew(feeds: Callable[..., folder.FolderLoader]) -> None:
    def sums(seed: int, epoch: int) -> set[float]:
        batches = feeds(seed=seed).training(epoch)
        return {float(image.double().sum()) for inputs, _ in batches for image in inputs}

    assert sums(7, 0) == sums(7, 0)
    assert not sums(7, 0) & sums(7, 1)
    assert not sums(7, 0) & sums(8, 0)


def test_evaluation_sees_each_image_once_at_its_centre(
    feeds: Callable[..., folder.FolderLoader], images: FolderSet
) -> None:
    for split, files in (("validation", images.validation), ("test", images.test)):
        batches = list(feeds().evaluation(split))
        inputs = torch.cat([inputs for inputs, _ in batches])
        assert torch.cat([labels for _, labels in batches]).tolist() == files.labels.tolist()
        for number, image in enumerate(inputs):
            pixels = torch.from_numpy(read(files.path(number), VIEW, None).copy()).permute(2, 0, 1)
            expected = (pixels.double() / 255 - MEAN) / STD
            torch.testing.assert_close(image.double(), expected, rtol=0, atol=1e-5)


def test_samples_can_be_taken_while_an_epoch_waits(
    feeds: Callable[..., folder.FolderLoader], images: FolderSet
) -> None:
    undisturbed = list(feeds().training(5))
    epoch = feeds().training(5)
    begun = list(islice(epoch, 2))
    chosen = torch.tensor([30, 2, 2, 17, 53, 4, 9, 41, 1, 0, 22])  # more than a batch
    inputs, labels = feeds().samples(chosen)
    assert same(begun + list(epoch), undisturbed)
    assert labels.tolist() == [images.training.labels[number] for number in chosen]
    for image, number in zip(inputs, chosen.tolist(), strict=True):
        pixels = torch.from_numpy(read(images.training.path(number), VIEW, None).copy())
        assert torch.equal(bytes_of(image), pixels.permute(2, 0, 1))


def test_without_augmentation_training_images_are_samples(
    feeds: Callable[..., folder.FolderLoader],
) -> None:
    feed = feeds(augmentation="none")
    inputs, labels = next(feed.training(0))
    order = PLAN.order(feed.sizes["training"], 0)
    assert same([(inputs, labels)], [feed.samples(order[:8])])


def test_epochs_that_are_left_early_leave_nothing_behind(
    feeds: Callable[..., folder.FolderLoader],
) -> None:
    expected = list(feeds().training(0))
    for _ in range(2 * len(feeds().workers.batches)):
        next(feeds().training(4))
    assert same(list(feeds().training(0)), expected)


# What is read of an image


@pytest.fixture(scope="module")
def functional() -> ModuleType:
    torchvision_models()
    return __import__("torchvision.transforms.functional", fromlist=["functional"])


@pytest.fixture(scope="module")
def transforms() -> ModuleType:
    torchvision_models()
    return __import__("torchvision.transforms", fromlist=["transforms"])


SHAPES = [(500, 375), (375, 500), (300, 299), (224, 224), (2000, 90), (31, 640), (1, 1)]


@pytest.mark.parametrize("shape", SHAPES)
def test_the_centre_is_torchvisions(
    shape: tuple[int, int], tmp_path: Path, transforms: ModuleType
) -> None:
    image = picture(3, *shape)
    image.save(tmp_path / "image.png")
    theirs = transforms.Compose([transforms.Resize(256), transforms.CenterCrop(SIZE)])(image)
    assert np.array_equal(read(str(tmp_path / "image.png"), VIEW, None), np.asarray(theirs))


@pytest.mark.parametrize("shape", SHAPES)
def test_a_crop_is_torchvisions(
    shape: tuple[int, int], tmp_path: Path, functional: ModuleType
) -> None:
    path = tmp_path / "image.JPEG"
    picture(4, *shape).save(path, quality=90)
    for position in range(6):
        crop = draw_crop(*shape, Draw(99, position))
        with Image.open(path) as image:
            theirs = functional.resized_crop(
                image.convert("RGB"), crop.top, crop.left, crop.height, crop.width, [SIZE, SIZE]
            )
        theirs = functional.hflip(theirs) if crop.mirrored else theirs
        assert np.array_equal(read(str(path), VIEW, Draw(99, position)), np.asarray(theirs))


@pytest.mark.parametrize("shape", [(500, 375), (300, 500), (64, 64), (2000, 90)])
def test_crops_are_distributed_as_torchvisions(
    shape: tuple[int, int], transforms: ModuleType
) -> None:
    width, height = shape
    ours = np.array([draw_crop(width, height, Draw(5, at)) for at in range(4000)])
    torch.manual_seed(0)
    image = Image.new("RGB", shape)
    draw = transforms.RandomResizedCrop.get_params
    found = [draw(image, (0.08, 1.0), (3 / 4, 4 / 3)) for _ in range(4000)]
    theirs = np.array([(left, top, w, h) for top, left, h, w in found])
    for column in range(4):
        assert stats.ks_2samp(ours[:, column], theirs[:, column]).pvalue > 1e-3
    assert (ours[:, :2] + ours[:, 2:4] <= [width, height]).all()
    assert stats.binomtest(int(ours[:, 4].sum()), len(ours)).pvalue > 1e-3
    mirrored = ours[:, 4] == 1
    for column in range(4):  # whichever way round, crops are the same
        assert stats.ks_2samp(ours[mirrored, column], ours[~mirrored, column]).pvalue > 1e-3


def test_a_crop_that_never_fits_is_the_largest_in_the_middle() -> None:
    found = Counter(draw_crop(2000, 20, Draw(1, at))[:4] for at in range(200))
    assert max(found, key=lambda crop: found[crop]) == (986, 0, 27, 20)


def test_draws_depend_on_key_and_position_alone() -> None:
    once = [draw_crop(500, 375, Draw(8, at)) for at in range(50)]
    again = {at: draw_crop(500, 375, Draw(8, at)) for at in reversed(range(50))}
    assert once == [again[at] for at in range(50)]
    assert len({crop[:4] for crop in once}) == 50
    assert draw_crop(500, 375, Draw(9, 0)) != once[0]
    # The last bit of everything that a run on images in files sees hangs on these.
    assert once[:2] == GOLDEN_CROPS


GOLDEN_CROPS = [Crop(158, 100, 316, 243, True), Crop(157, 31, 236, 253, True)]


@pytest.mark.parametrize("mode", ["L", "P", "CMYK", "RGBA", "LA", "1"])
def test_images_of_other_colours_are_read_as_rgb(mode: str, tmp_path: Path) -> None:
    path = tmp_path / ("image.tif" if mode == "CMYK" else "image.png")
    picture(5, 300, 260).convert(mode).save(path)
    assert read(str(path), VIEW, None).shape == (SIZE, SIZE, 3)


# Folders


def test_classes_and_files_are_sorted_and_other_files_left_out(tmp_path: Path) -> None:
    make(tmp_path)
    (tmp_path / "train" / "LICENSE").write_text("")
    (tmp_path / "train" / "bee" / ".DS_Store").write_text("")
    (tmp_path / "train" / "bee" / "\N{SNOWMAN} bee.jpg").write_text("")
    files = folder.list_files(tmp_path / "train")
    found = [files.path(number) for number in range(len(files))]
    paths = (tmp_path / "train").glob("*/*.[Jj]*")
    expected = sorted(map(str, paths), key=lambda path: (Path(path).parent.name, os.fsencode(path)))
    assert found == expected
    assert [files.classes[label] for label in files.labels] == [
        Path(path).parent.name for path in found
    ]


def test_validation_images_are_held_out_of_each_class_for_all_runs(
    tmp_path: Path, images: FolderSet
) -> None:
    counts = {"a": 9, "b": 10, "c": 57, "d": 100, "e": 250}
    for name, count in counts.items():
        for part in ("train", "val"):
            (tmp_path / part / name).mkdir(parents=True)
            for number in range(count):
                (tmp_path / part / name / f"{number}.JPEG").touch()
    found = load(tmp_path, classes=5, train=400, val=None)
    parts = {
        split: [files.path(number) for number in range(len(files))]
        for split, files in (("training", found.training), ("validation", found.validation))
    }
    assert sorted(parts["training"] + parts["validation"]) == sorted(
        map(str, (tmp_path / "train").glob("*/*"))
    )
    held_out = Counter(Path(path).parent.name for path in parts["validation"])
    assert held_out == {"b": 1, "c": 5, "d": 10, "e": 10}
    assert found.sizes == {"training": 400, "validation": 26, "test": 426}
    np.random.seed(1)
    again = load(tmp_path, classes=5, train=400, val=None).validation
    assert [again.path(number) for number in range(len(again))] == parts["validation"]


def test_imagenet_keeps_as_many_training_images_as_it_is_said_to() -> None:
    spec = DATASETS["imagenet"]
    assert spec.training_images == 1_281_167 - 10 * spec.classes
    assert (spec.image_size, spec.channels) == (SIZE, 3)


def damaged(tmp_path: Path, how: str) -> Path:
    root = tmp_path / "imagenet"
    if how == "nowhere":
        return root
    make(root)
    if how == "no val":
        (root / "val").rename(root / "test")
    elif how == "no classes":
        (root / "val").rename(root / "test")
        (root / "val").mkdir()
    elif how == "other classes":
        (root / "val" / "cat").rename(root / "val" / "dog")
    elif how == "empty class":
        for file in (root / "train" / "yak").iterdir():
            file.unlink()
    return root


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ("nowhere", "set ACDC_DATA"),
        ("no val", "val is missing"),
        ("no classes", "val has no classes"),
        ("other classes", "cat is in one of them only"),
        ("empty class", "yak has no images"),
        ("small", "3 classes, not 1000"),
    ],
)
def test_folders_that_are_not_imagenet_are_refused(
    how: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = damaged(tmp_path, how)
    monkeypatch.setenv("ACDC_DATA", str(tmp_path))
    with pytest.raises(DataError) as refusal:
        DATASETS["imagenet"].load()
    assert told in str(refusal.value)
    assert str(root) in str(refusal.value)


def test_a_set_with_files_missing_is_told_with_both_counts(root: Path) -> None:
    load(root)
    with pytest.raises(DataError, match=r"54 training images.*, not 55"):
        load(root, train=55)
    with pytest.raises(DataError, match="has 15 images in val, not 16"):
        load(root, val=16)


# What may go wrong


@pytest.mark.parametrize("how", ["truncated", "text", "gone", "empty"])
def test_a_file_that_is_no_image_is_named(how: str, tmp_path: Path) -> None:
    make(tmp_path)
    images = load(tmp_path)
    path = Path(images.training.path(11))
    if how == "gone":
        path.unlink()
    else:
        whole = path.read_bytes()
        content = {"truncated": whole[: len(whole) // 2], "text": b"no image", "empty": b""}
        path.write_bytes(content[how])
    feed = images.loader(PLAN)
    try:
        with pytest.raises(DataError) as refusal:
            list(feed.training(0))
        assert str(refusal.value).startswith(f"data file {path} cannot be read as an image (")
        assert "\n" not in str(refusal.value)
        # What can be read still is.
        assert sum(len(labels) for _, labels in feed.evaluation("test")) == len(images.test)
    finally:
        feed.close()


def workers_of(pid: int) -> list[psutil.Process]:
    """The processes that read images for another: leaders of sessions below its fork server."""
    below = psutil.Process(pid).children(recursive=True)
    return [process for process in below if os.getsid(process.pid) == process.pid]


@pytest.mark.parametrize("victims", [1, 2])
def test_a_killed_worker_is_told(victims: int, images: FolderSet) -> None:
    feed = images.loader(replace(PLAN, workers=2))
    others = {child.pid for child in multiprocessing.active_children()}
    try:
        epoch = feed.training(0)
        next(epoch)
        pids = {child.pid for child in multiprocessing.active_children()} - others
        assert len(pids) == 2
        for pid in sorted(pids)[:victims]:
            os.kill(pid, signal.SIGKILL)
        with pytest.raises(DataError, match="one was killed, perhaps for lack of memory"):
            list(itertools.chain(epoch, *(feed.training(number) for number in range(100))))
        with pytest.raises(DataError, match="fewer than 2"):
            next(feed.evaluation("test"))
    finally:
        feed.close()
    assert not any(map(psutil.pid_exists, pids))


def test_closing_ends_the_workers_also_in_the_middle_of_an_epoch(images: FolderSet) -> None:
    feed = images.loader(PLAN)
    before = {child.pid for child in multiprocessing.active_children()}
    epoch = feed.training(0)
    next(epoch)
    mine = {child.pid for child in multiprocessing.active_children()} - before
    assert mine
    feed.close()
    assert not any(map(psutil.pid_exists, mine))


ENDLESS = """
import sys, torch
sys.path.append({root!r})
from acdc.data.loader import LoaderPlan
from tests.data.test_folder import load
if __name__ == "__main__":
    feed = load(__import__("pathlib").Path(sys.argv[1])).loader(
        LoaderPlan(seed=1, batch_size=8, augmentation="crop_flip", device=torch.device("cpu"))
    )
    for epoch in range(10**6):
        for _ in feed.training(epoch):
            print("batch", flush=True)
""".replace("{root!r}", repr(str(Path(__file__).parents[2])))


@pytest.fixture
def reader(root: Path, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process of a session of its own that reads images until it is ended."""
    (tmp_path / "endless.py").write_text(ENDLESS)
    process = subprocess.Popen(
        [sys.executable, str(tmp_path / "endless.py"), str(root)],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    for _ in range(3):
        assert process.stdout.readline() == "batch\n"
    yield process
    process.kill()
    process.communicate()


def ends(process: psutil.Process) -> bool:
    return bool(psutil.wait_procs([process], timeout=60)[0])


def test_workers_end_with_a_process_that_is_killed(reader: subprocess.Popen[str]) -> None:
    below = psutil.Process(reader.pid).children(recursive=True)
    assert len(workers_of(reader.pid)) == 2
    reader.kill()
    assert all(map(ends, below))


def test_workers_outlive_a_signal_that_the_training_process_heeds(
    root: Path, tmp_path: Path
) -> None:
    """Schedulers and terminals signal whole groups; a run that stops in order still reads."""
    heed = "import signal; signal.signal(signal.{}, lambda *_: None)\n"
    patient = heed.format("SIGTERM") + heed.format("SIGUSR1") + ENDLESS
    (tmp_path / "patient.py").write_text(patient)
    process = subprocess.Popen(
        [sys.executable, str(tmp_path / "patient.py"), str(root)],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "batch\n"
        for number in (signal.SIGTERM, signal.SIGUSR1):
            os.killpg(process.pid, number)
        for _ in range(50):
            assert process.stdout.readline() == "batch\n"
        assert len(workers_of(process.pid)) == 2
    finally:
        process.kill()
        process.communicate()


# What a run may ask for


@pytest.mark.parametrize(
    ("dataset", "augmentation", "told"),
    [
        ("digits", "crop_flip", "is for images in files, those of digits are held in memory; none"),
        ("fashion_mnist", "crop_flip", "memory; none and shift and shift_flip are accepted"),
        ("imagenet", "shift", "is for images held in memory, those of imagenet are in files; none"),
        ("imagenet", "shift_flip", "in files; none and crop_flip are accepted"),
        ("digits", "shift_flip", "a mirrored one is no longer of its class; none and shift are"),
    ],
)
def test_augmentations_that_a_set_has_not_are_refused(
    dataset: str, augmentation: str, told: str
) -> None:
    run = {"model": "resnet8", "dataset": dataset, "method": "dense", "epochs": 1}
    with pytest.raises(ConfigError) as refusal:
        parse_run(run | {"recipe": {"augmentation": augmentation}})
    assert str(refusal.value).startswith(f"recipe.augmentation: {augmentation} ")
    assert told in str(refusal.value)


def test_a_run_may_crop_imagenet() -> None:
    run = {"model": "resnet50", "dataset": "imagenet", "method": "dense", "epochs": 1}
    config = parse_run(run | {"recipe": {"augmentation": "crop_flip", "batch_size": 256}})
    assert config.recipe.augmentation == "crop_flip"


def test_sets_in_memory_need_no_library_of_images() -> None:
    code = (
        "import sys; from acdc.data import DATASETS; from acdc.data.loader import LoaderPlan; "
        "import torch; plan = LoaderPlan(1, 8, 'shift', torch.device('cpu')); "
        "DATASETS['digits'].load().loader(plan)"
        "; print(sorted({'PIL', 'torchvision'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


# Whole runs


@pytest.mark.parametrize("method", ["acdc", "snip"])
def test_a_run_on_files_resumes_exactly_within_an_epoch(
    method: str, images: FolderSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(DATASETS, "pictures", spec_of(images.training.folder.parent))
    phases = [["dense", 0, 1], ["sparse", 1, 2]]
    settings = {"acdc": {"schedule": None, "phases": phases}, "snip": {"images": 13}}[method]
    config = parse_run(
        {
            "model": "resnet8_s4",
            "dataset": "pictures",
            "method": method,
            "settings": settings,
            "sparsity": 0.8,
            "epochs": 2,
            "recipe": {"batch_size": 8, "augmentation": "crop_flip"},
        }
    )

    class Stop(Silent):
        steps = 0

        def step(self) -> None:
            self.steps += 1
            if self.steps == 9:
                raise KeyboardInterrupt

    whole = run(config, Options(tmp_path / "whole"), Silent())
    options = Options(tmp_path / "parts", engine=Engine(workers=1), checkpoint_interval_s=0)
    with pytest.raises(KeyboardInterrupt):
        run(config, options, Stop())
    result = run(config, options, Silent())
    name = config.run_name
    assert_same_run(tmp_path / "parts" / name, result, tmp_path / "whole" / name, whole)
    resumed = resumptions(tmp_path / "parts" / name)
    assert [(r["epoch"], r["batch"]) for r in resumed] == [(1, 2)]


def resumptions(where: Path) -> list[dict[str, Any]]:
    return [r for r in read_journal(where / "journal.jsonl") if r.get("event") == "resume"]
