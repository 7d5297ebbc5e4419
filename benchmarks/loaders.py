"""Ways to read images from files, side by side: the decoding of one image, and whole pipelines.

    python -m benchmarks.loaders [--images 512] [--workers 1] [--json FILE]

The images are made for the purpose, of the size in pixels and bytes that ImageNet's have on
average; they stay in the file system's cache, so that no disk is measured. All contenders give the
training loop the same: random crops of 224 x 224, flipped, normalised, in batches. They take turns,
an epoch each, timed from its first batch on, and are compared by the medians of their ratios to the
plain way. *CPU* is the processor time of this process and its workers; *loop* is how much longer
small operations of the training loop take while images are read.
"""

from __future__ import annotations

import functools
import importlib
import itertools
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import click
import numpy as np
import psutil
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from acdc.data import DATASETS, DatasetSpec, folder
from acdc.data.decode import Draw, View, read
from acdc.data.loader import LoaderPlan, standardise
from acdc.vision import torchvision_models
from benchmarks.common import circumstances, json_option, write_record

CPU = torch.device("cpu")
IMAGENET = DATASETS["imagenet"]
assert IMAGENET.folders is not None
SIZE = IMAGENET.image_size
VIEW = View(SIZE, IMAGENET.folders.resize)
MEAN, STD = (
    torch.tensor(by_channel) for by_channel in (IMAGENET.folders.mean, IMAGENET.folders.std)
)
WIDTH, HEIGHT, QUALITY = 500, 375, 90
CLASSES = 8
ROUNDS = 9
LOOPS = 3
AHEAD = 3


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


def spec_of(root: Path, images: int) -> DatasetSpec:
    """Return the spec of what ``make_set`` has written, read as ImageNet is."""
    assert IMAGENET.folders is not None
    return replace(
        IMAGENET,
        source=str(root),
        classes=CLASSES,
        training_images=images - CLASSES * min(10, images // CLASSES // 10),
        folders=replace(IMAGENET.folders, test_images=None),
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
            v2.Normalize(MEAN.tolist(), STD.tolist()),
        ]
    )
    return transform


class Contender(Protocol):
    """A way to read a training set."""

    def epoch(self, number: int) -> Iterator[Tensor]:
        """Yield the normalised inputs of each batch."""

    def close(self) -> None:
        """Stop background processes and threads."""


class Suite:
    """What the suite does."""

    def __init__(self, files: folder.FolderSet, plan: LoaderPlan) -> None:
        self.loader = files.loader(plan)

    def epoch(self, number: int) -> Iterator[Tensor]:
        return (inputs for inputs, _ in self.loader.training(number))

    def close(self) -> None:
        self.loader.close()


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


def _read(files: folder.Files, number: int) -> np.ndarray:
    return read(files.path(number), VIEW, Draw(1, number))


class ByteSet(Dataset[Tensor]):
    """Whole batches of bytes, read as the suite does."""

    def __init__(self, files: folder.Files) -> None:
        self.files = files

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, number: int) -> Tensor:
        return self.__getitems__([number])

    def __getitems__(self, numbers: list[int]) -> Tensor:
        batch = torch.empty((len(numbers), SIZE, SIZE, 3), dtype=torch.uint8)
        for place, number in enumerate(numbers):
            batch[place] = torch.from_numpy(_read(self.files, number).copy())
        return batch


def _as_it_is(batch: Tensor) -> Tensor:
    return batch


class TorchLoader:
    """torch's DataLoader."""

    def __init__(self, images: Dataset[Tensor], plan: LoaderPlan, **options: Any) -> None:
        self.loader = DataLoader(
            images,
            plan.batch_size,
            shuffle=True,
            drop_last=True,
            num_workers=plan.workers,
            persistent_workers=True,
            **options,
        )

    def epoch(self, number: int) -> Iterator[Tensor]:
        return map(normal, self.loader)

    def close(self) -> None:
        del self.loader


def normal(batch: Tensor) -> Tensor:
    """Return a batch normalised, if it comes as bytes."""
    if batch.dtype != torch.uint8:
        return batch
    mean, std = (255 * by_channel.view(1, 3, 1, 1) for by_channel in (MEAN, STD))
    return standardise(batch.permute(0, 3, 1, 2), mean, std)


class Threads:
    """Threads of this process, each reading one image at a time."""

    def __init__(self, files: folder.Files, plan: LoaderPlan) -> None:
        self.files, self.plan = files, plan
        self.pool = ThreadPoolExecutor(plan.workers)

    def epoch(self, number: int) -> Iterator[Tensor]:
        order = self.plan.order(len(self.files), number)
        waiting: list[Iterator[np.ndarray]] = []
        for batch in order.split(self.plan.batch_size):
            waiting.append(self.pool.map(functools.partial(_read, self.files), batch.tolist()))
            if len(waiting) == AHEAD:
                yield normal(torch.from_numpy(np.stack(list(waiting.pop(0)))))
        for images in waiting:
            yield normal(torch.from_numpy(np.stack(list(images))))

    def close(self) -> None:
        self.pool.shutdown()


PLAIN = "torchvision v2, DataLoader"


def make_contenders(
    files: folder.FolderSet, plan: LoaderPlan
) -> dict[str, Callable[[], Contender]]:
    """Return what makes each contender, by its name."""
    images = files.training
    return {
        PLAIN: lambda: TorchLoader(PlainSet(images), plan),
        "the suite": lambda: Suite(files, plan),
        "the suite's reader, DataLoader": lambda: TorchLoader(
            ByteSet(images), plan, collate_fn=_as_it_is
        ),
        "the suite's reader, threads": lambda: Threads(images, plan),
    }


def processor_time() -> float:
    """Return the seconds of processor time of this process and those below it."""
    process = psutil.Process()
    below = [child.cpu_times() for child in process.children(recursive=True)]
    return sum(times.user + times.system for times in [process.cpu_times(), *below])


def some_calls() -> float:
    """Return the time of a stretch of small operations, which stand for the launches of kernels."""
    number = torch.zeros(1)
    start = time.perf_counter()
    for _ in range(5_000):
        number.add_(1)
    return time.perf_counter() - start


def decode_times(files: folder.Files, images: int) -> dict[str, float]:
    """Return the milliseconds of one image on one core, by way of decoding."""
    plain = PlainSet(files)
    ways: dict[str, Callable[[int], object]] = {
        "torchvision v2": plain.__getitem__,
        "the suite's reader": functools.partial(_read, files),
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


def race(
    contenders: dict[str, Callable[[], Contender]], batches: int, workers: int
) -> list[dict[str, Any]]:
    """Return one row for each contender."""
    running = {name: build() for name, build in contenders.items()}
    figures: dict[str, dict[str, list[float]]] = {name: defaultdict(list) for name in running}
    for number in range(ROUNDS + 1):
        for name, contender in running.items():
            rate, cpu_ms = speed(contender.epoch(number), batches)
            if number > 0:  # the first warms up
                figures[name]["rate"].append(rate)
                figures[name]["cpu_ms"].append(cpu_ms)
    for name, contender in itertools.chain.from_iterable([running.items()] * LOOPS):
        undisturbed = statistics.median(some_calls() for _ in range(9))
        calls = [some_calls() / undisturbed for _ in contender.epoch(0)]
        # Those after the last batches have nothing to read beside them.
        figures[name]["loop"] += calls[:-AHEAD]
    for contender in running.values():
        contender.close()
    rows = []
    for name, found in figures.items():
        ratios = [
            ours / plain for ours, plain in zip(found["rate"], figures[PLAIN]["rate"], strict=True)
        ]
        rows.append(
            {
                "contender": name,
                "workers": workers,
                "images_per_s_and_worker": statistics.median(found["rate"]) / workers,
                "ratio": statistics.median(ratios),
                "cpu_ms": statistics.median(found["cpu_ms"]),
                "loop": statistics.median(found["loop"]),
            }
        )
    return rows


def listing_time(files: int) -> float:
    """Return the seconds of listing ``files`` files in 100 folders."""
    with tempfile.TemporaryDirectory() as place:
        for label in range(100):
            (Path(place) / str(label)).mkdir()
            for number in range(files // 100):
                (Path(place) / str(label) / f"n0{label:07}_{number}.JPEG").touch()
        start = time.perf_counter()
        found = folder.list_files(Path(place))
        took = time.perf_counter() - start
    assert len(found) == files
    return took


@click.command()
@click.option("--images", default=512, show_default=True)
@click.option("--batch", default=32, show_default=True, help="Images a batch.")
@click.option("--workers", default=[1], multiple=True, show_default=True, help="May be repeated.")
@json_option
def main(images: int, batch: int, workers: tuple[int, ...], file: Path | None) -> None:
    """Compare ways to read images from files."""
    torch.set_num_threads(1)
    record = {**circumstances(CPU), "images": images}
    click.echo(record)
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        make_set(root, images)
        files = folder.load(spec_of(root, images), root)
        whole = len(files.training) // batch * batch
        files = replace(files, training=files.training.part(np.arange(whole)))
        mean = statistics.mean(path.stat().st_size for path in (root / "train").glob("*/*"))
        record["bytes"] = mean
        click.echo(f"{images} images of {WIDTH} x {HEIGHT}, {mean / 1e3:.0f} kB on average")
        record["decode_ms"] = decode_times(files.training, min(images // 2, 100))
        for name, milliseconds in record["decode_ms"].items():
            click.echo(f"{name:32}{milliseconds:7.2f} ms an image on one core")
        plan = LoaderPlan(seed=1, batch_size=batch, augmentation="crop_flip", device=CPU)
        rows = []
        for count in workers:
            contenders = make_contenders(files, replace(plan, workers=count))
            rows += race(contenders, whole // batch, count)
        click.echo(f"{'':32}workers  images/s/worker  ratio  CPU ms  loop")
        for row in rows:
            click.echo(
                f"{row['contender']:32}{row['workers']:7}{row['images_per_s_and_worker']:17.0f}"
                f"{row['ratio']:7.2f}{row['cpu_ms']:8.2f}{row['loop']:6.2f}"
            )
        record["rows"] = rows
    record["listing_s_per_100_000"] = listing_time(100_000)
    click.echo(f"listing 100,000 files: {record['listing_s_per_100_000']:.2f} s")
    write_record(file, record)


if __name__ == "__main__":
    main()
