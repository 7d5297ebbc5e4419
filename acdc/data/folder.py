"""Images in files, one folder per class, too large for memory: the usual layout of ImageNet."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from acdc import seeds
from acdc.data.decode import Draw, View
from acdc.data.loader import SPLIT_SEED, Batch, Dataset, Loader, LoaderPlan, Split, standardise
from acdc.data.spec import ClassFolders, ImageSpec, Location, not_found, roots
from acdc.data.workers import Request, Workers
from acdc.errors import DataError

_HELD_OUT_PER_CLASS = 10
_SUFFIXES = (".jpeg", ".jpg", ".png")
_NOT_CLASSES = ("__MACOSX", "@eaDir", "lost+found")
_LAYOUT = "train/CLASS/*.JPEG and val/CLASS/*.JPEG"


@dataclass(frozen=True)
class Files:
    """Images in the folders of their classes.

    Names are kept as bytes of one length, about 30 per file: a million strings take 100 MB.
    """

    folder: Path
    classes: tuple[str, ...]
    names: np.ndarray
    """File names within the folder of the class, (N,)."""
    labels: np.ndarray
    """Indices into the classes, (N,) as int64."""
    ignored: tuple[str, ...] = ()
    """Hidden folders and images, which desktops and notebooks leave behind."""

    def __len__(self) -> int:
        return len(self.labels)

    def path(self, number: int) -> str:
        """Return the path of an image."""
        name = os.fsdecode(self.names[number])
        return f"{self.folder}/{self.classes[self.labels[number]]}/{name}"

    def part(self, chosen: np.ndarray) -> Files:
        """Return some of the images."""
        return Files(self.folder, self.classes, self.names[chosen], self.labels[chosen])


@dataclass(frozen=True)
class FolderSet(Dataset[Files]):
    """A data set in files, and how these are decoded and normalised.

    ``val`` is the test split. Validation images are ten of each class, at most a tenth of it, drawn
    from ``train`` once for all runs: of ImageNet's 1,281,167 images 1,271,167 are trained on.
    """

    image_size: int
    folders: ClassFolders

    def loader(self, plan: LoaderPlan) -> FolderLoader:
        return FolderLoader(self, plan)


def locate(spec: ImageSpec) -> Location:
    """Return where a data set is: in the folder ``spec.source`` below ACDC_DATA or ``data``."""
    folders = [root / spec.source for root in roots()]
    for folder in filter(Path.is_dir, folders):
        for part in ("train", "val"):
            if not (folder / part).is_dir():
                missing = f"data folder {folder / part} is missing; expected {_LAYOUT}"
                return Location(folder, missing)
        return Location(folder)
    remedy = f"set ACDC_DATA to the folder that holds {spec.source}, with {_LAYOUT} in it"
    return not_found(spec.source, folders, remedy)


def load(spec: ImageSpec, folder: Path) -> FolderSet:
    """Return the data set of a spec, after counting its files.

    A million files take about two seconds to list on a local disk.

    Raises:
        DataError: a folder is missing, or classes or files are missing or too many.
    """
    assert spec.folders is not None
    train, test = (list_files(folder / part) for part in ("train", "val"))
    if train.classes != test.classes:
        only = sorted(set(train.classes) ^ set(test.classes))
        raise DataError(
            f"data folder {folder}: train has {len(train.classes)} classes and val "
            f"{len(test.classes)}, {only[0]} is in one of them only; they must be the same"
        )
    held_out = _held_out(train.labels)
    training, validation = train.part(~held_out), train.part(held_out)
    found = FolderSet(
        *(training, validation, test, spec.image_size, spec.folders),
        verified="files counted",
        remark=_remark([*train.ignored, *test.ignored]),
    )
    for what, count, expected in (
        ("classes", len(train.classes), spec.classes),
        (
            f"training images and {len(validation)} for validation",
            len(training),
            spec.training_images,
        ),
        ("images in val", len(test), spec.folders.test_images),
    ):
        if expected is not None and count != expected:
            raise DataError(
                f"data folder {folder} is incomplete: it has {count} {what}, not {expected}; "
                "unpack it again or correct its ImageSpec"
            )
    return found


def list_files(folder: Path) -> Files:
    """Return the images below a folder, sorted by class and name.

    Raises:
        DataError: the folder has no classes or an empty one.
    """
    ignored: list[str] = []

    def seen(entry: os.DirEntry[str]) -> bool:
        hidden = entry.name.startswith(".") or entry.name in _NOT_CLASSES
        if hidden:
            ignored.append(entry.path)
        return not hidden

    with os.scandir(folder) as entries:
        classes = sorted(entry.name for entry in filter(seen, entries) if entry.is_dir())
    if not classes:
        raise DataError(f"data folder {folder} has no classes; expected {_LAYOUT}")
    names: list[bytes] = []
    counts = []
    for name in classes:
        # Names alone: on some file systems a file's kind takes a system call.
        with os.scandir(folder / name) as files:
            images = filter(lambda file: file.name.lower().endswith(_SUFFIXES), files)
            found = sorted(os.fsencode(file.name) for file in filter(seen, images))
        if not found:
            raise DataError(
                f"data folder {folder / name} has no images; expected {', '.join(_SUFFIXES)}"
            )
        names += found
        counts.append(len(found))
    labels = np.repeat(np.arange(len(classes)), counts)
    return Files(folder, tuple(classes), np.array(names), labels, tuple(ignored))


def _remark(ignored: list[str]) -> str:
    if not ignored:
        return ""
    return f"hidden files and folders are ignored: {ignored[0]}, {len(ignored)} in all"


def _held_out(labels: np.ndarray) -> np.ndarray:
    """Return which images are for validation, (N,) as bool.

    Where every class has fewer than ten images, one of each class that has two or more.
    """
    chosen = np.zeros(len(labels), dtype=bool)
    generator = np.random.default_rng(SPLIT_SEED)
    starts = np.searchsorted(labels, np.arange(labels[-1] + 2))
    few = np.diff(starts).max() < 10
    for start, stop in pairwise(starts):
        count = int(stop - start > 1) if few else min(_HELD_OUT_PER_CLASS, (stop - start) // 10)
        chosen[start + generator.permutation(stop - start)[:count]] = True
    return chosen


class FolderLoader(Loader):
    """Loads from image files, which worker processes decode, crop and resize to bytes.

    Whole batches are normalised on the device.
    """

    def __init__(self, images: FolderSet, plan: LoaderPlan) -> None:
        super().__init__(images, plan)
        self.images = images
        self.mean, self.std = (
            torch.tensor(by_channel).mul(255).view(1, 3, 1, 1).to(plan.device)
            for by_channel in (images.folders.mean, images.folders.std)
        )
        share = plan.ranks.slice(plan.batch_size)
        self.share = share.stop - share.start
        view = View(images.image_size, images.folders.resize)
        self.workers = Workers(plan.workers, self.share, view, plan.device)

    def training(self, epoch: int, first: int = 0) -> Iterator[Batch]:
        plan = self.plan
        order = plan.order(self.sizes["training"], epoch)
        key = None
        if plan.augmentation != "none":
            key = seeds.derive(plan.seed, "augmentation", epoch)
        return self._batches("training", order, list(plan.shares(len(order), first)), key)

    def evaluation(self, split: Split) -> Iterator[Batch]:
        mine = self.plan.ranks.slice(self.sizes[split])
        return self._centred(split, torch.arange(mine.start, mine.stop))

    def samples(self, chosen: Tensor) -> Batch:
        inputs, labels = zip(*self._centred("training", chosen), strict=True)
        return torch.cat(inputs), torch.cat(labels)

    def _centred(self, split: Split, chosen: Tensor) -> Iterator[Batch]:
        starts = range(0, max(len(chosen), 1), self.share)
        shares = [slice(start, min(start + self.share, len(chosen))) for start in starts]
        return self._batches(split, chosen, shares)

    def _batches(
        self, split: Split, chosen: Tensor, shares: Sequence[slice], key: int | None = None
    ) -> Iterator[Batch]:
        """Yield batches, each a share of the chosen images, augmented by the draws of a key."""
        files: Files = getattr(self.images, split)
        # All at once: a copy from pageable memory waits for the device to finish its queue.
        labels = torch.from_numpy(files.labels[chosen.numpy()]).to(self.plan.device)

        def requests() -> Iterator[list[Request]]:
            for mine in shares:
                places = enumerate(chosen[mine].tolist(), mine.start)
                yield [
                    (files.path(number), None if key is None else Draw(key, at))
                    for at, number in places
                ]

        for pixels, mine in zip(self.workers.stream(requests()), shares, strict=True):
            yield standardise(pixels, self.mean, self.std), labels[mine]

    def close(self) -> None:
        self.workers.close()
