"""Ways to read images from files, side by side: the decoding of one image, and whole pipelines.

    python -m benchmarks.loaders [--images 512] [--workers 1] [--json FILE]

The images are made for the purpose, of the size in pixels and bytes that ImageNet's have on
average; they stay in the file system's cache, so that no disk is measured. All contenders give the
training loop the same: random crops of 224 x 224, flipped, normalised, in batches. They take turns,
an epoch each, timed from its first batch on, and are compared by the medians of their ratios to the
plain way. *CPU* is the processor time of this process and its workers.
"""

from __future__ import annotations

import importlib
import itertools
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import psutil
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from acdc.data import IMAGES, ImageSpec, folder
from acdc.data.decode import Draw, View, read
from acdc.data.loader import Loader, LoaderPlan
from acdc.vision import torchvision_models
from benchmarks.common import circumstances, json_option, median_ratio, report

CPU = torch.device("cpu")
IMAGENET = IMAGES["imagenet"]
assert IMAGENET.folders is not None
FOLDERS, SIZE = IMAGENET.folders, IMAGENET.image_size
VIEW = View(SIZE, FOLDERS.resize)
WIDTH, HEIGHT, QUALITY = 500, 375, 90
CLASSES = 8
ROUNDS = 9


def make_picture(number: int) -> Image.Image:
    """Return noise whose spectrum falls as that of photographs does, with edges in it."""
    random = np.random.default_rng(number)
    frequency = np.hypot(np.fft.fftfreq(HEIGHT)[:, None], np.fft.rfftfreq(WIDTH)[None])
    frequency[0, 0] = 1
    planes = []
    for _ in range(3):
        spectrum = random.normal(size=(2, *frequency.shape)) / frequency**1.1
        plane = np.fft.irfft2(spectrum[0] + 1j * spectrum[1], (HEIGHT, WIDTH))
        planes.append((plane - plane.mean()) / plane.std())
    light, first, second = planes
    colours = (
        55 * light + 18 * first,
        55 * light - 10 * (first - second),
        55 * light - 18 * second,
    )
    pixels = 128 + np.stack(colours, axis=-1)
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    for _ in range(12):
        middle, radii = random.uniform(0, [HEIGHT, WIDTH]), random.uniform(15, 120, 2)
        inside = ((rows - middle[0]) / radii[0]) ** 2 + ((columns - middle[1]) / radii[1]) ** 2 < 1
        pixels[inside] += random.normal(0, 40, 3)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def make_set(root: Path, images: int) -> None:
    """Write a set in the usual layout."""
    for part in ("train", "val"):
        for label in range(CLASSES):
            (root / part / str(label)).mkdir(parents=True)
            make_picture(label).save(root / part / str(label) / "0.JPEG", quality=QUALITY)
    for number in range(CLASSES, images):
        path = root / "train" / str(number % CLASSES) / f"{number}.JPEG"
        make_picture(number).save(path, quality=QUALITY)


def spec_of(root: Path, images: int) -> ImageSpec:
    """Return the spec of what ``make_set`` has written, read as ImageNet is."""
    return replace(
        IMAGENET,
        source=str(root),
        classes=CLASSES,
        training_images=images - CLASSES * min(10, images // CLASSES // 10),
        folders=replace(FOLDERS, test_images=None),
    )


def plain_transform() -> Callable[[Any], Tensor]:
    """Return what torchvision's users write."""
    torchvision_models()
    v2 = importlib.import_module("torchvision.transforms.v2")
    transform: Callable[[Any], Tensor] = v2.Compose(
        [
            v2.RandomResizedCrop(SIZE),
            v2.RandomHorizontalFlip(),
            v2.PILToTensor(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(FOLDERS.mean, FOLDERS.std),
        ]
    )
    return transform


class PlainSet(Dataset[Tensor]):
    """Images one by one, transformed by torchvision."""

    def __init__(self, files: folder.Files) -> None:
        self.files = files
        self.transform = plain_transform()

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, number: int) -> Tensor:
        with Image.open(self.files.path(number)) as file:
            return self.transform(file.convert("RGB"))


PLAIN = "torchvision v2, DataLoader"
Epoch = Callable[[int], Iterator[Tensor]]
"""Yields the normalised inputs of each batch of an epoch."""


def make_contenders(files: folder.FolderSet, plan: LoaderPlan) -> tuple[dict[str, Epoch], Loader]:
    """Return the ways to read a training set, and the suite's loader, which has to be closed."""
    plain: DataLoader[Tensor] = DataLoader(
        PlainSet(files.training),
        plan.batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=plan.workers,
        persistent_workers=True,
    )
    ours = files.loader(plan)
    return {
        PLAIN: lambda number: iter(plain),
        "the suite": lambda number: (inputs for inputs, _ in ours.training(number)),
    }, ours


def processor_time() -> float:
    """Return the seconds of processor time of this process and those below it."""
    process = psutil.Process()
    below = [child.cpu_times() for child in process.children(recursive=True)]
    return sum(times.user + times.system for times in [process.cpu_times(), *below])


def decode_times(files: folder.Files, images: int) -> dict[str, float]:
    """Return the milliseconds of one image on one core, by way of decoding."""
    plain = PlainSet(files)
    ways: dict[str, Callable[[int], object]] = {
        "torchvision v2": plain.__getitem__,
        "the suite's reader": lambda number: read(files.path(number), VIEW, Draw(1, number)),
    }
    times: dict[str, list[float]] = defaultdict(list)
    for _ in range(ROUNDS):
        for name, run in ways.items():
            start = time.perf_counter()
            for number in range(images):
                run(number)
            times[name].append(1e3 * (time.perf_counter() - start) / images)
    return {name: statistics.median(found) for name, found in times.items()}


def speed(epoch: Iterator[Tensor], batches: int) -> tuple[float, float]:
    """Return images a second and milliseconds of processor time an image, after the first batch."""
    next(epoch)
    start, before = time.perf_counter(), processor_time()
    seen = sum(len(inputs) for inputs in itertools.islice(epoch, batches - 1))
    took, cpu = time.perf_counter() - start, processor_time() - before
    assert next(epoch, None) is None
    return seen / took, 1e3 * cpu / seen


def race(files: folder.FolderSet, plan: LoaderPlan) -> list[dict[str, Any]]:
    """Return one row for each contender."""
    batches = len(files.training) // plan.batch_size
    contenders, ours = make_contenders(files, plan)
    rates: dict[str, list[float]] = defaultdict(list)
    costs: dict[str, list[float]] = defaultdict(list)
    for number in range(ROUNDS + 1):
        for name, epoch in contenders.items():
            rate, cpu_ms = speed(epoch(number), batches)
            if number > 0:  # the first warms up
                rates[name].append(rate)
                costs[name].append(cpu_ms)
    ours.close()
    return [
        {
            "contender": name,
            "workers": plan.workers,
            "images_per_s_and_worker": statistics.median(rates[name]) / plan.workers,
            "ratio": median_ratio(rates[name], rates[PLAIN]),
            "cpu_ms": statistics.median(costs[name]),
        }
        for name in contenders
    ]


@click.command()
@click.option("--images", default=512, show_default=True)
@click.option("--batch", default=32, show_default=True, help="Images a batch.")
@click.option("--workers", default=[1], multiple=True, show_default=True, help="May be repeated.")
@json_option
def main(images: int, batch: int, workers: tuple[int, ...], file: Path | None) -> None:
    """Compare ways to read images from files."""
    torch.set_num_threads(1)
    around = circumstances(CPU)
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        make_set(root, images)
        files = folder.load(spec_of(root, images), root)
        whole = len(files.training) // batch * batch
        files = replace(files, training=files.training.part(np.arange(whole)))
        sizes = [path.stat().st_size for path in (root / "train").glob("*/*")]
        decode_ms = decode_times(files.training, min(images // 2, 100))
        click.echo(f"milliseconds to decode an image on one core: {decode_ms}")
        plan = LoaderPlan(seed=1, batch_size=batch, augmentation="crop_flip", device=CPU)
        rows = [row for count in workers for row in race(files, replace(plan, workers=count))]
    report(
        rows,
        "contender workers:d images_per_s_and_worker:.0f ratio:.2f cpu_ms:.2f",
        file,
        **{**around, "images": images, "bytes": statistics.mean(sizes), "decode_ms": decode_ms},
    )


if __name__ == "__main__":
    main()
