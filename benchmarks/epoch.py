"""An epoch of the suite against the plain PyTorch loop that its users would write.

    python -m benchmarks.epoch [--rounds 5] [--device cuda] [--json FILE]
    python -m benchmarks.epoch --model wrn28_10 --device cuda
    python -m benchmarks.epoch --model resnet50 --size 224 --images 20000 --batch 256

Contenders take turns in one process, an epoch each of the same model, images, batch size and number
of threads. The images are made for the purpose and lie in memory; an epoch is by default a tenth of
CIFAR-10's. The first round warms up: compiling, seeking kernels and starting workers are not
counted. The plain loop is torchvision's CIFAR10 and transforms, a DataLoader, and ``loss.item()``
in every step, in torch's default arithmetic (on a GPU tf32 in convolutions: compare it with the
suite's tf32). *Speed* is the median of the rounds' ratios to the first contender; *feed* and
*passes* are the shares of loading and of the forward and backward passes. *Ceiling* is the share
that the fastest epoch reaches, at three forward passes a step, of the highest rate of a large
matrix product in the same precision.
"""

from __future__ import annotations

import importlib
import statistics
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
from acdc.data import DATASETS, ImageSpec
from acdc.data.memory import Images, ImageSet, as_images, split
from acdc.data.spec import Location
from acdc.distributed import Ranks
from acdc.models import MODELS
from acdc.sparsity import flops
from acdc.step import Step
from acdc.training.loop import Callbacks, train
from acdc.training.state import Engine, TrainState
from acdc.vision import torchvision_models
from benchmarks.common import circumstances, json_option, paired, report, waiting_clock

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


def locate(spec: ImageSpec) -> Location:
    """Return no folder: the images are drawn."""
    return Location()


def load(spec: ImageSpec, folder: None) -> ImageSet:
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
        start = self.watch.clock()
        self.epoch(number)
        took = self.watch.clock() - start
        if timed:
            self.seconds.append(took)
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

    def epoch(number: int) -> None:
        model.train()
        total, correct = 0.0, 0
        for inputs, labels in watch.items("feed", loader):
            inputs, labels = inputs.to(device), labels.to(device)
            outputs, loss = learn(inputs, labels)
            optimizer.step()
            total += loss.item() * len(labels)
            correct += (outputs.argmax(dim=1) == labels).sum().item()

    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.allow_tf32 = True
    torch.backends.cuda.matmul.allow_tf32 = False
    name = f"plain, {workers} workers"
    return Contender(name, "tf32" if device.type == "cuda" else "fp32", epoch, watch)


def suite(setting: Setting, precision: str, mode: str) -> Contender:
    """Return the suite's own loop."""
    config = parse_run(
        {
            "model": setting.model,
            "dataset": MADE,
            "method": "dense",
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
    state = TrainState(config, engine, Ranks())
    state.begin()
    watch, batches = Watch(setting.device), state.loader.training
    passes = watch.calls("passes", state.arithmetic.gradients)
    state.arithmetic.gradients = passes  # type: ignore[method-assign]
    state.loader.training = lambda *which: watch.items("feed", batches(*which))  # type: ignore[method-assign]

    def epoch(number: int) -> None:
        train(state, Callbacks(), Step(number, 0, state.batches), end=number + 1)

    compiled = "" if mode == "off" else ", compiled" + ("" if mode == "default" else f" ({mode})")
    return Contender(f"suite, {precision}{compiled}", precision, epoch, watch)


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


def rows_of(
    contenders: list[Contender], images: int, forward: int, ceilings: dict[str, float]
) -> list[dict[str, Any]]:
    """Return one row for each contender; ratios are to the first.

    Args:
        contenders: after their turns.
        images: of an epoch.
        forward: FLOPs of one image.
        ceilings: FLOPs a second of a matrix product, by precision.
    """
    rows = []
    for this in contenders:
        faster = paired(contenders[0].seconds, this.seconds)
        parts = {part: seconds / this.watched for part, seconds in this.watch.seconds.items()}
        reached = 3 * forward * images / min(this.seconds)
        rows.append(
            {
                "contender": this.name,
                "ms_per_image": 1e3 * statistics.median(this.seconds) / images,
                "speed": statistics.median(faster),
                "lowest": min(faster),
                "highest": max(faster),
                **parts,
                "ceiling": reached / ceilings[this.precision],
                "ceiling_tflops": ceilings[this.precision] / 1e12,
            }
        )
    return rows


@click.command()
@click.option("--model", default="resnet20", show_default=True)
@click.option("--size", default=32, show_default=True, help="Height and width of the images.")
@click.option("--images", default=5000, show_default=True, help="A tenth of them is set aside.")
@click.option("--batch", default=128, show_default=True, help="Images a step.")
@click.option("--rounds", default=5, show_default=True, help="After one that warms up.")
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
    precisions = precisions or ("fp32,tf32,bf16" if gpu else "fp32,bf16")
    modes = modes or ("off,default,reduce-overhead" if gpu else "off,default")
    made = make_images(images, size)
    trained = len(made.training)
    DATASETS[MADE] = ImageSpec(
        title="Noise",
        channels=3,
        image_size=size,
        classes=CLASSES,
        training_images=trained,
        module=__name__,
        source=str(images),
    )
    around = circumstances(where)
    # One epoch warms up, one is watched.
    setting = Setting(model, batch, rounds + 2, made, where)
    contenders = [plain(setting, workers) for workers in (0, 2)]
    for mode in modes.split(","):
        contenders += [suite(setting, precision, mode) for precision in precisions.split(",")]
    ceilings: dict[str, float] = defaultdict(float)
    for number in range(rounds + 2):
        timed = 0 < number <= rounds
        # Without a GPU watching costs nothing, and shows all the epochs.
        watched = number > rounds or (timed and not gpu)
        for this in contenders:
            this.turn(number, timed=timed, watched=watched)
        for precision in {this.precision for this in contenders}:
            ceilings[precision] = max(ceilings[precision], product_rate(precision, where))
    forward = flops.dense_flops(flops.layer_costs(MODELS[model](3, CLASSES), (3, size, size)))
    columns = "contender ms_per_image:.3f speed:.2f lowest:.2f highest:.2f feed:.1% passes:.1%"
    report(
        rows_of(contenders, trained // batch * batch, forward, ceilings),
        f"{columns} ceiling:.0%",
        file,
        **{"model": model, "size": size, "batch": batch, "batches": trained // batch},
        **{"rounds": rounds, **around},
    )


if __name__ == "__main__":
    main()
