"""An epoch of the suite against the plain PyTorch loop that its users would write, and of each
method against dense training.

    python -m benchmarks.epoch [--rounds 5] [--device cuda] [--json FILE]
    python -m benchmarks.epoch --methods acdc,gmp,rigl,set,top_kast --rounds 19
    python -m benchmarks.epoch --model wrn28_10 --device cuda
    python -m benchmarks.epoch --model resnet50 --size 224 --images 20000 --batch 256

Contenders take turns in one process, an epoch each of the same model, images, batch size and number
of threads. The images are made for the purpose and lie in memory; an epoch is by default a tenth of
CIFAR-10's. The first round warms up: compiling, seeking kernels and starting workers are not
counted. The plain loop is torchvision's CIFAR10 and transforms, a DataLoader, and ``loss.item()``
in every step, in torch's default arithmetic (on a GPU tf32 in convolutions: compare it with the
suite's tf32). *Speed* is the median of the rounds' ratios to the first contender, or to dense
training in the same arithmetic; *cost* is a contender's time over that of the same one, over all
rounds. *CPU* is processor time, without that of workers; with one thread it is the figure to trust
on a busy machine. *Ceiling* is the share that the fastest epoch reaches, at three forward passes
a step, of the highest rate of a large matrix product in the same precision.
"""

from __future__ import annotations

import importlib
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from acdc.config.run import parse_run
from acdc.data import DATASETS, DatasetSpec
from acdc.data.memory import Images, ImageSet, as_images, split
from acdc.data.spec import Location
from acdc.distributed import Ranks
from acdc.models import MODELS
from acdc.sparsity import flops
from acdc.step import Step
from acdc.training.loop import Callbacks, train
from acdc.training.state import Engine, TrainState
from acdc.vision import torchvision_models
from benchmarks.common import (
    circumstances,
    json_option,
    median_ratio,
    paired,
    waiting_clock,
    write_record,
)

MADE = "made"
CLASSES = 10
LR, MOMENTUM, WEIGHT_DECAY = 0.1, 0.9, 5e-4
# What the plain loop sets by itself: the suite's choices must not reach it, nor its own the suite.
FLAGS = (
    (torch.backends.cudnn, "benchmark"),
    (torch.backends.cudnn, "allow_tf32"),
    (torch.backends.cuda.matmul, "allow_tf32"),
)


@dataclass(frozen=True)
class Setting:
    """What all contenders have in common."""

    model: str
    batch: int
    epochs: int
    images: ImageSet
    device: torch.device

    @property
    def size(self) -> int:
        """Height and width of the images."""
        return self.images.training.pixels.shape[2]


def make_images(count: int, size: int) -> ImageSet:
    """Return noise around one pattern for each class, a tenth of it set aside."""
    random = np.random.default_rng(1)
    labels = random.integers(0, CLASSES, count)
    patterns = random.integers(0, 128, (CLASSES, 3, size, size), dtype=np.uint8)
    pixels = random.integers(0, 128, (count, 3, size, size), dtype=np.uint8)
    pixels += patterns[labels]
    return split(pixels, labels, as_images(pixels[:CLASSES], labels[:CLASSES]))


def locate(spec: DatasetSpec) -> Location:
    """Return no folder: the images are drawn."""
    return Location()


def load(spec: DatasetSpec, folder: None) -> ImageSet:
    """Return the images of the data set that the suite trains on."""
    return make_images(int(spec.source), spec.image_size)


class Watch:
    """Adds up what the parts of a step take, while it is on; on a GPU that slows the step down."""

    def __init__(self, device: torch.device) -> None:
        self.clock = waiting_clock(device)
        self.on = False
        self.seconds: dict[str, float] = defaultdict(float)

    def calls(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return a function with its calls timed."""

        def timed(*arguments: Any) -> Any:
            if not self.on:
                return function(*arguments)
            start = self.clock()
            result = function(*arguments)
            self.seconds[part] += self.clock() - start
            return result

        return timed

    def items(self, part: str, iterable: Iterable[Any]) -> Iterator[Any]:
        """Yield from an iterable, timing how long each item takes to come."""
        advance = self.calls(part, next)
        iterator, end = self.calls(part, iter)(iterable), object()
        while (item := advance(iterator, end)) is not end:
            yield item


@dataclass
class Contender:
    """A way to train an epoch, and what was measured of it."""

    name: str
    precision: str
    epoch: Callable[[int], None]
    watch: Watch
    flags: list[bool] = field(default_factory=lambda: [getattr(*flag) for flag in FLAGS])
    """As they are when it has been made."""
    seconds: list[float] = field(default_factory=list)
    cpu_seconds: list[float] = field(default_factory=list)
    watched: float = 0.0
    """Seconds of the epochs in which the watch was on."""

    def take_up(self) -> None:
        """Let the kernels be chosen as this contender chooses them."""
        for (owner, name), value in zip(FLAGS, self.flags, strict=True):
            setattr(owner, name, value)

    def turn(self, number: int, *, timed: bool, watched: bool) -> None:
        """Train an epoch."""
        self.take_up()
        self.watch.on = watched
        before, start = time.process_time(), self.watch.clock()
        self.epoch(number)
        took, cpu = self.watch.clock() - start, time.process_time() - before
        if timed:
            self.seconds.append(took)
            self.cpu_seconds.append(cpu)
        if watched:
            self.watched += took


def torchvision_set(images: Images, reach: int) -> Dataset[Any]:
    """Return torchvision's CIFAR10 with other images in it, augmented as its users do."""
    torchvision_models()
    made = importlib.import_module("torchvision.datasets").CIFAR10
    transforms = importlib.import_module("torchvision.transforms")
    this: Any = made.__new__(made)  # its constructor would look for files
    this.data = images.pixels.permute(0, 2, 3, 1).contiguous().numpy()
    this.targets = images.labels.tolist()
    this.target_transform = None
    this.transform = transforms.Compose(
        [
            transforms.RandomCrop(this.data.shape[1], padding=reach),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
        ]
    )
    return this  # type: ignore[no-any-return]


def plain(setting: Setting, workers: int) -> Contender:
    """Return the loop that users write."""
    device, watch = setting.device, Watch(setting.device)
    loader = DataLoader(
        torchvision_set(setting.images.training, setting.size // 8),
        setting.batch,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        pin_memory=device.type == "cuda",
        persistent_workers=workers > 0,
    )
    torch.manual_seed(1)
    model = MODELS[setting.model](3, CLASSES).to(device)
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(
        model.parameters(), lr=LR, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY
    )

    def learn(inputs: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        optimizer.zero_grad()
        outputs = model(inputs)
        loss = criterion(outputs, labels)
        loss.backward()
        return outputs, loss

    learn = watch.calls("passes", learn)
    update = watch.calls("update", optimizer.step)

    def epoch(number: int) -> None:
        model.train()
        total, correct = 0.0, 0
        for inputs, labels in watch.items("feed", loader):
            inputs, labels = inputs.to(device), labels.to(device)
            outputs, loss = learn(inputs, labels)
            update()
            total += loss.item() * len(labels)
            correct += (outputs.argmax(dim=1) == labels).sum().item()

    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.allow_tf32 = True
    torch.backends.cuda.matmul.allow_tf32 = False
    name = f"plain, {workers} workers"
    return Contender(name, "tf32" if device.type == "cuda" else "fp32", epoch, watch)


def suite(setting: Setting, method: str, precision: str, mode: str) -> Contender:
    """Return the suite's own loop."""
    config = parse_run(
        {
            "model": setting.model,
            "dataset": MADE,
            "method": method,
            "sparsity": 0.0 if method == "dense" else 0.9,
            "epochs": setting.epochs,
            "precision": precision,
            "recipe": {
                "batch_size": setting.batch,
                "lr": LR,
                "momentum": MOMENTUM,
                "weight_decay": WEIGHT_DECAY,
                "augmentation": "shift_flip",
            },
        }
    )
    engine = Engine(setting.device, compile=mode)  # type: ignore[arg-type]
    trainer = TrainState(config, engine, Ranks())
    trainer.begin()
    watch, this = Watch(setting.device), trainer.method
    batches = trainer.loader.training
    for owner, hook, part in (
        (trainer.arithmetic, "gradients", "passes"),
        (trainer.optimizer, "step", "update"),
        (this, "before_step", "method"),
        (this, "after_step", "method"),
        (this, "epoch_start", "method"),
    ):
        setattr(owner, hook, watch.calls(part, getattr(owner, hook)))
    trainer.loader.training = lambda *which: watch.items("feed", batches(*which))  # type: ignore[method-assign]

    def epoch(number: int) -> None:
        train(trainer, Callbacks(), Step(number, 0, trainer.batches), end=number + 1)

    compiled = "" if mode == "off" else ", compiled" + ("" if mode == "default" else f" ({mode})")
    return Contender(f"{method} {precision}{compiled}", precision, epoch, watch)


def product_rate(precision: str, device: torch.device) -> float:
    """Return the FLOPs a second of a large matrix product, the best of some."""
    size = 8192 if device.type == "cuda" else 2048
    kind = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision, torch.float32)
    torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
    one, other = (torch.randn(size, size, device=device, dtype=kind) for _ in range(2))
    clock = waiting_clock(device)
    times = []
    for _ in range(10):
        start = clock()
        one @ other
        times.append(clock() - start)
    return 2 * size**3 / min(times)


def make_contenders(
    setting: Setting, methods: list[str], precisions: list[str], modes: list[str]
) -> list[Contender]:
    """Return dense training and the methods, or dense training and the plain loops."""
    ways = [(precision, mode) for mode in modes for precision in precisions]
    if methods:
        names = ["dense", *(name for name in methods if name != "dense")]
        return [suite(setting, name, *way) for way in ways for name in names]
    return [
        *(plain(setting, workers) for workers in (0, 2)),
        *(suite(setting, "dense", *way) for way in ways),
    ]


def rows_of(
    contenders: list[Contender], images: int, forward: int, ceilings: dict[str, float]
) -> list[dict[str, Any]]:
    """Return one row for each contender; ratios are to plain or, of methods, to dense training.

    Args:
        contenders: after their turns.
        images: of an epoch.
        forward: FLOPs of one image.
        ceilings: FLOPs a second of a matrix product, by precision.
    """
    rows = []
    reference = contenders[0]
    for this in contenders:
        if this.name.startswith("dense ") and not contenders[0].name.startswith("plain"):
            reference = this
        ms = 1e3 * statistics.median(this.seconds) / images
        faster = paired(reference.seconds, this.seconds)
        parts = {part: seconds / this.watched for part, seconds in this.watch.seconds.items()}
        ceiling = ceilings[this.precision]
        rows.append(
            {
                "contender": this.name,
                "reference": reference.name,
                "ms_per_image": ms,
                "times_as_fast": statistics.median(faster),
                "times_as_fast_range": [min(faster), max(faster)],
                "cost": sum(this.seconds) / sum(reference.seconds),
                "cpu_ms_per_image": 1e3 * statistics.median(this.cpu_seconds) / images,
                "cpu_times_as_fast": median_ratio(reference.cpu_seconds, this.cpu_seconds),
                "parts": {**parts, "rest": 1 - sum(parts.values())},
                "ceiling_tflops": ceiling / 1e12,
                "share_of_ceiling": 3 * forward * images / min(this.seconds) / ceiling,
            }
        )
    return rows


def show(rows: list[dict[str, Any]]) -> None:
    """Print the table."""
    names = ("feed", "passes", "update", "method", "rest")
    heads = "".join(f"{name:>8}" for name in names)
    figures = f"{'ms/image':>10}{'speed':>7}  {'(range)':13}{'cost':>6}{'CPU ms':>9}{'speed':>7}"
    click.echo(f"{'':36}{figures}{heads}{'ceiling':>9}")
    for row in rows:
        low, high = row["times_as_fast_range"]
        wall = f"{row['ms_per_image']:10.4f}{row['times_as_fast']:7.2f}  ({low:5.2f}-{high:5.2f})"
        cpu = f"{row['cpu_ms_per_image']:9.4f}{row['cpu_times_as_fast']:7.2f}"
        parts = "".join(f"{row['parts'].get(name, 0):8.1%}" for name in names)
        click.echo(
            f"{row['contender']:36}{wall}{row['cost']:6.3f}{cpu}{parts}"
            f"{row['share_of_ceiling']:9.1%}"
        )


@click.command()
@click.option("--model", default="resnet20", show_default=True)
@click.option("--size", default=32, show_default=True, help="Height and width of the images.")
@click.option("--images", default=5000, show_default=True, help="A tenth of them is set aside.")
@click.option("--batch", default=128, show_default=True, help="Images a step.")
@click.option("--rounds", default=5, show_default=True, help="After one that warms up.")
@click.option("--methods", default="", help="Names, by commas: compare these with dense training.")
@click.option("--precisions", help="By commas.  [default: fp32,bf16 and on a GPU tf32]")
@click.option("--compile", "modes", help="Modes, by commas; off is one.  [default: all that fit]")
@click.option("--threads", type=click.IntRange(1), help="Of the CPU.  [default: torch's]")
@click.option("--device", default="cpu", show_default=True)
@json_option
def main(
    model: str,
    size: int,
    images: int,
    batch: int,
    rounds: int,
    methods: str,
    precisions: str | None,
    modes: str | None,
    threads: int | None,
    device: str,
    file: Path | None,
) -> None:
    """Compare epochs of training."""
    where = torch.device(device)
    gpu = where.type == "cuda"
    if threads is not None:
        torch.set_num_threads(threads)
    if precisions is None:
        precisions = "fp32" if methods else "fp32,tf32,bf16" if gpu else "fp32,bf16"
    if modes is None:
        modes = "off" if methods else "off,default,reduce-overhead" if gpu else "off,default"
    made = make_images(images, size)
    trained = len(made.training)
    DATASETS[MADE] = DatasetSpec(
        title="Noise",
        channels=3,
        image_size=size,
        classes=CLASSES,
        training_images=trained,
        module=__name__,
        source=str(images),
    )
    # One epoch warms up, one is watched; AC/DC's schedule needs 20.
    setting = Setting(model, batch, max(rounds + 2, 20), made, where)
    record = {
        "model": model,
        "size": size,
        "batch": batch,
        "batches": trained // batch,
        "rounds": rounds,
        **circumstances(where),
    }
    click.echo(record)
    contenders = make_contenders(
        setting, list(filter(None, methods.split(","))), precisions.split(","), modes.split(",")
    )
    ceilings: dict[str, float] = defaultdict(float)
    began = time.perf_counter()
    for number in range(rounds + 2):
        timed = 0 < number <= rounds
        # Without a GPU watching costs nothing, and tells of all the epochs.
        watched = number > rounds or (timed and not gpu)
        for this in contenders:
            this.turn(number, timed=timed, watched=watched)
        for precision in {this.precision for this in contenders}:
            ceilings[precision] = max(ceilings[precision], product_rate(precision, where))
    record["seconds"] = time.perf_counter() - began
    network = MODELS[model](3, CLASSES)
    forward = flops.dense_flops(flops.layer_costs(network, (3, size, size)))
    record["rows"] = rows_of(contenders, trained // batch * batch, forward, ceilings)
    show(record["rows"])
    write_record(file, record)


if __name__ == "__main__":
    main()
