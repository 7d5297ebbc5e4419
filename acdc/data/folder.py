"""Sets of images in files, one folder a class, too large for memory: ImageNet's usual layout."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from acdc import seeds
from acdc.data.feed import Batch, FeedPlan, Split
from acdc.data.images import Relabelled, scale
from acdc.data.pictures import Draw
from acdc.data.places import Place, nowhere, roots
from acdc.data.workers import Request, Workers
from acdc.errors import DataError

# One split for all runs: it must not depend on a run's seed, or seeds would choose on other images.
_SPLIT_SEED = 2021
_HELD_OUT = 10
_SUFFIXES = (".jpeg", ".jpg", ".png")
_LAYOUT = "train/CLASS/*.JPEG and val/CLASS/*.JPEG"
# Of ImageNet's training images, by channel, in units of the byte values.
_MEAN = torch.tensor([0.485, 0.456, 0.406]).mul(255).view(1, 3, 1, 1)
_STD = torch.tensor([0.229, 0.224, 0.225]).mul(255).view(1, 3, 1, 1)


@dataclass(frozen=True)
class Files:
    """Images in the folders of their classes.

    Names are kept as bytes of one length, 30 a file: a million strings would take 100 MB.
    """

    folder: Path
    classes: tuple[str, ...]
    names: np.ndarray
    """File names within the folder of the class, (N,)."""
    labels: np.ndarray
    """Classes by number, (N,) as int64."""

    def __len__(self) -> int:
        return len(self.labels)

    def path(self, number: int) -> str:
        """Return where an image is."""
        name = os.fsdecode(self.names[number])
        return f"{self.folder}/{self.classes[self.labels[number]]}/{name}"

    def part(self, chosen: np.ndarray) -> Files:
        """Return some of the images."""
        return Files(self.folder, self.classes, self.names[chosen], self.labels[chosen])


@dataclass(frozen=True)
class FolderSet:
    """The three splits of a set in files.

    ``val`` is the test split. Validation images are ten of each class, at most a tenth of it, drawn
    from ``train`` once for all runs: of ImageNet's 1,281,167 images 1,271,167 are trained on.
    """

    training: Files
    validation: Files
    test: Files

    @property
    def sizes(self) -> dict[Split, int]:
        """Images of each split."""
        return {
            "training": len(self.training),
            "validation": len(self.validation),
            "test": len(self.test),
        }

    def feed(self, plan: FeedPlan) -> FolderFeed:
        """Return what gives a rank its batches."""
        return FolderFeed(self, plan)


def locate_imagenet() -> Place:
    """Return where ImageNet is: in the folder ``imagenet`` of ACDC_DATA or of ``data``."""
    folders = [root / "imagenet" for root in roots()]
    for folder in filter(Path.is_dir, folders):
        absent = [folder / part for part in ("train", "val") if not (folder / part).is_dir()]
        missing = f"data folder {absent[0]} is missing; {_LAYOUT} are expected" if absent else None
        return Place(folder, missing)
    return nowhere(
        "imagenet",
        folders,
        "set ACDC_DATA to the folder that holds "
        f"imagenet/{_LAYOUT.replace('and ', 'and imagenet/')}, unpacked from the archives of "
        "image-net.org",
    )


def load_imagenet() -> FolderSet:
    """Return ImageNet (ILSVRC 2012), after counting its files.

    Raises:
        DataError: it is not there, or not whole.
    """
    place = locate_imagenet()
    if place.folder is None:
        raise DataError(place.missing)
    return load(place.folder, classes=1000, train=1_281_167, val=50_000)


def load(
    folder: Path, classes: int | None = None, train: int | None = None, val: int | None = None
) -> FolderSet:
    """Return the set in a folder, after counting its files.

    A million files take about two seconds to list on a local disk.

    Args:
        folder: holds ``train`` and ``val``, and these one folder of images for each class.
        classes: how many there should be, where that is known.
        train: likewise for the images in ``train``.
        val: likewise for those in ``val``.

    Raises:
        DataError: a folder is missing, the classes differ, or there are more or fewer files.
    """
    training, test = (list_files(folder / part) for part in ("train", "val"))
    if training.classes != test.classes:
        only = sorted(set(training.classes) ^ set(test.classes))
        raise DataError(
            f"data folder {folder}: train has {len(training.classes)} classes and val "
            f"{len(test.classes)}, {only[0]} is in one of them only; the same are accepted"
        )
    for what, found, expected in (
        ("classes", len(training.classes), classes),
        ("images in train", len(training), train),
        ("images in val", len(test), val),
    ):
        if expected is not None and found != expected:
            raise DataError(
                f"data folder {folder} is not whole: it has {found} {what}, {expected} are "
                "expected; unpack it anew"
            )
    held_out = _held_out(training.labels)
    return FolderSet(training.part(~held_out), training.part(held_out), test)


def list_files(folder: Path) -> Files:
    """Return the images below a folder, by class and name.

    Raises:
        DataError: the folder is missing, or has no classes or an empty one.
    """
    try:
        with os.scandir(folder) as entries:
            classes = sorted(entry.name for entry in entries if entry.is_dir())
    except OSError as error:
        raise DataError(
            f"data folder {folder} cannot be read ({error.strerror}); {_LAYOUT} are expected"
        ) from None
    if not classes:
        raise DataError(f"data folder {folder} has no classes; {_LAYOUT} are expected")
    names: list[bytes] = []
    counts = []
    for name in classes:
        # Names alone: asking for each file's kind would take a call for each on some file systems.
        with os.scandir(folder / name) as files:
            images = (file.name for file in files if file.name.lower().endswith(_SUFFIXES))
            found = sorted(map(os.fsencode, images))
        if not found:
            raise DataError(
                f"data folder {folder / name} has no images; {', '.join(_SUFFIXES)} are accepted"
            )
        names += found
        counts.append(len(found))
    labels = np.repeat(np.arange(len(classes)), counts)
    return Files(folder, tuple(classes), np.array(names), labels)


def _held_out(labels: np.ndarray) -> np.ndarray:
    """Return which images are for validation, (N,) of truth values."""
    chosen = np.zeros(len(labels), dtype=bool)
    generator = np.random.default_rng(_SPLIT_SEED)
    starts = np.searchsorted(labels, np.arange(labels[-1] + 2))
    for start, stop in pairwise(starts):
        count = min(_HELD_OUT, (stop - start) // 10)
        chosen[start + generator.permutation(stop - start)[:count]] = True
    return chosen


class FolderFeed:
    """Feeds from image files, which processes of its own decode, crop and resize.

    They hand over bytes; whole batches are normalised on the device.
    """

    def __init__(self, images: FolderSet, plan: FeedPlan) -> None:
        self.plan = plan
        self.sizes: Mapping[Split, int] = images.sizes
        self.relabelled: Relabelled | None = None
        self.files: dict[Split, Files] = {
            "training": images.training,
            "validation": images.validation,
            "test": images.test,
        }
        self.mean, self.std = _MEAN.to(plan.device), _STD.to(plan.device)
        share = plan.ranks.slice(plan.batch_size)
        self.share = share.stop - share.start
        self.workers = Workers(plan.workers, self.share, plan.device)

    def training(self, epoch: int, first: int = 0) -> Iterator[Batch]:
        plan = self.plan
        order = plan.order(self.sizes["training"], epoch)
        key = seeds.derive(plan.seed, "augmentation", epoch)
        moved = plan.augmentation != "none"
        shares = list(plan.shares(len(order), first))
        draws = (
            [Draw(key, at) if moved else None for at in range(mine.start, mine.stop)]
            for mine in shares
        )
        return self._batches("training", order, shares, draws)

    def evaluation(self, split: Split) -> Iterator[Batch]:
        mine = self.plan.ranks.slice(self.sizes[split])
        return self._centred(split, torch.arange(mine.start, mine.stop))

    def samples(self, chosen: Tensor) -> Batch:
        inputs, labels = zip(*self._centred("training", chosen), strict=True)
        return torch.cat(inputs), torch.cat(labels)

    def _centred(self, split: Split, chosen: Tensor) -> Iterator[Batch]:
        starts = range(0, max(len(chosen), 1), self.share)
        shares = [slice(start, min(start + self.share, len(chosen))) for start in starts]
        draws = ([None] * (mine.stop - mine.start) for mine in shares)
        return self._batches(split, chosen, shares, draws)

    def _batches(
        self,
        split: Split,
        chosen: Tensor,
        shares: Sequence[slice],
        draws: Iterable[Sequence[Draw | None]],
    ) -> Iterator[Batch]:
        """Yield batches, each a share of the chosen images, with the draws of that share."""
        files = self.files[split]
        # Once, since a copy from ordinary memory waits for all that the device has yet to do.
        labels = torch.from_numpy(files.labels[chosen.numpy()]).to(self.plan.device)

        def requests() -> Iterator[list[Request]]:
            for mine, drawn in zip(shares, draws, strict=True):
                paths = map(files.path, chosen[mine].tolist())
                yield [Request(path, draw) for path, draw in zip(paths, drawn, strict=True)]

        for pixels, mine in zip(self.workers.stream(requests()), shares, strict=True):
            yield scale(pixels, self.mean, self.std), labels[mine]

    def close(self) -> None:
        self.workers.close()
