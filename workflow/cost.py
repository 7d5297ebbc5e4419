"""``acdc plan``: estimate what a study costs: GPU-hours, FLOPs and storage, table by table.

A run takes ``3 F`` FLOPs per training image, F being those of a dense forward pass: devices compute
zeros, too. Divided by the speed of the device that gives GPU-hours. Storage is a multiple of the
network's weights.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import re
import shlex
import statistics
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import click
from tabulate import tabulate

from acdc.config.recipe import Recipe
from acdc.data import DATASETS
from acdc.messages import duration
from acdc.methods.registry import get_method
from acdc.models import build_model
from acdc.run.reader import read_run
from acdc.run.result import RESULT
from acdc.sparsity.flops import dense_flops
from acdc.training.tasks import TASKS
from study.model import Run, Study
from study.resolve import load

PEAKS: dict[str, dict[str, float]] = {
    "a100": {"fp16": 312, "bf16": 312, "tf32": 156, "fp32": 19.5},
    "h100": {"fp16": 989, "bf16": 989, "tf32": 495, "fp32": 67},
    "h200": {"fp16": 989, "bf16": 989, "tf32": 495, "fp32": 67},
    "rtx2080": {"fp16": 40.3, "fp32": 10.1},
    "rtx3090": {"fp16": 71, "bf16": 71, "tf32": 35.6, "fp32": 35.6},
    "rtx4090": {"fp16": 165, "bf16": 165, "tf32": 82.6, "fp32": 82.6},
    "v100": {"fp16": 125, "fp32": 15.7},
}
"""TFLOP/s of dense matrices from the data sheets (SXM models; accumulation in single precision). A
precision that is not listed runs at the speed of fp32."""
UTILISATION = 0.19
"""The assumed fraction of the peak: NVIDIA DeepLearningExamples, ResNet50 in mixed precision, 2,470
images/s on one A100, which is 60.6 of 312 TFLOP/s."""
DEFAULT_GPU = "a100"


class Network(NamedTuple):
    """The size of a network."""

    flops: int
    """FLOPs of a dense forward pass on one image."""
    size: int
    """Bytes of its weights and buffers."""


@functools.cache
def network(model: str, dataset: str) -> Network:
    """Return the size of a model for a data set."""
    built, spec = build_model(model, dataset, seed=1), DATASETS[dataset]
    flops = dense_flops(TASKS[spec.kind].costs(spec, Recipe(), built))
    return Network(flops, sum(tensor.nbytes for tensor in built.state_dict().values()))


class Work(NamedTuple):
    """What a speed was measured for."""

    model: str
    dataset: str
    precision: str
    device: str

    @classmethod
    def of(cls, config: Mapping[str, Any], device: str) -> Work:
        """Return the work of a run on a device."""
        return cls(config["model"], config["dataset"], config["precision"], device)

    @property
    def flops(self) -> float:
        """FLOPs of training on one image."""
        return 3.0 * network(self.model, self.dataset).flops


@dataclass
class Speeds:
    """Training images per second, as finished runs have measured them."""

    rates: dict[Work, list[float]] = field(default_factory=dict)

    @classmethod
    def below(cls, results: Path) -> Speeds:
        """Return the speeds of all finished runs below a folder of results."""
        speeds = cls()
        for path in sorted(results.glob(f"*/runs/*/{RESULT}")):
            record = read_run(path.parent)
            devices = {attempt.hardware.device for attempt in record.provenance}
            seconds = sum(float(epoch["train_s"]) for epoch in record.journal.epochs)
            if record.config is not None and len(devices) == 1 and None not in devices and seconds:
                work = Work.of(record.config, str(*devices))
                images = DATASETS[work.dataset].training_samples * len(record.journal.epochs)
                speeds.rates.setdefault(work, []).append(images / seconds)
        return speeds

    def device(self, gpu: str) -> str:
        """Return the name that runs recorded for a GPU of ``PEAKS``; its own if there is none."""
        names = sorted({work.device for work in self.rates})
        return next((name for name in names if gpu_name(name) == gpu), gpu)

    def usual_device(self, works: Iterable[Work]) -> str:
        """Return the device of most runs of some works, whose device is left empty."""
        wanted, runs = set(works), Counter[str]()
        for work, rates in self.rates.items():
            if work._replace(device="") in wanted:
                runs[work.device] += len(rates)
        return runs.most_common(1)[0][0] if runs else DEFAULT_GPU

    def images_per_second(self, work: Work) -> tuple[float, str]:
        """Return the median measured speed, else one derived from the device's peak, and its basis.

        On a device without a known peak, other networks are assumed to reach the FLOP/s that were
        measured there.
        """
        if work in self.rates:
            found = self.rates[work]
            return statistics.median(found), f"measured (median of {len(found)} runs)"
        gpu = gpu_name(work.device)
        if gpu is not None:
            peak = PEAKS[gpu].get(work.precision, PEAKS[gpu]["fp32"])
            basis = f"assumed {100 * UTILISATION:.0f} % of {peak:g} TFLOP/s"
            return 1e12 * UTILISATION * peak / work.flops, basis
        measured = [
            rate * other.flops
            for other, rates in self.rates.items()
            if other.device == work.device
            for rate in rates
        ]
        return statistics.median(measured) / work.flops, "estimated from other networks there"


def gpu_name(device: str) -> str | None:
    """Return the name in ``PEAKS`` of a device such as ``NVIDIA A100-SXM4-80GB``, if it has one."""
    words = re.findall(r"[a-z]+ ?\d+(?: ?ti| ?super)?", device.lower())
    return next((name for word in words if (name := word.replace(" ", "")) in PEAKS), None)


def checkpoint_bytes(run: Run) -> int:
    """Return the bytes of a checkpoint at most: weights, momentum, masks and a stored value."""
    return 4 * network(run.config["model"], run.config["dataset"]).size


def kept_bytes(run: Run) -> int:
    """Return the bytes that a finished run keeps at most.

    The last and the best model of each product, optimizer states, and a checkpoint.
    """
    method = get_method(run.config["method"])
    files = 2 * len(method.products) + len(method.resumable)
    weights = network(run.config["model"], run.config["dataset"]).size
    return files * weights + checkpoint_bytes(run)


@dataclass(frozen=True)
class Cost:
    """What some runs cost together."""

    runs: int = 0
    dense_flops: float = 0.0
    """FLOPs of training that gains nothing from zeros."""
    gpu_hours: float = 0.0
    storage: int = 0
    """Bytes."""

    def __add__(self, other: Cost) -> Cost:
        pairs = zip(dataclasses.astuple(self), dataclasses.astuple(other), strict=True)
        return Cost(*(mine + theirs for mine, theirs in pairs))

    def describe(self, device: str) -> str:
        """Return the cost in words."""
        flops, storage = f"{self.dense_flops:.3g} dense FLOPs", size(self.storage)
        return f"{flops}, {duration(3600 * self.gpu_hours)} on {device}, {storage}"


@dataclass(frozen=True)
class Line:
    """The cost of one experiment, or of the whole study."""

    id: str
    total: Cost
    left: Cost
    """Of the runs without a result."""
    adds: Cost
    """Of the runs that no experiment before it has."""
    awaits: str | None = None
    """The missing part without which not all of it can be made."""


@dataclass(frozen=True)
class Estimate:
    """What a study costs."""

    lines: tuple[Line, ...]
    total: Line
    runs: Mapping[str, Cost]
    device: str
    speeds: tuple[str, ...]
    """Where the speed of each network comes from."""


def estimate(study: Study, results: Path, gpu: str | None = None) -> Estimate:
    """Return what a study costs on a GPU, by default on the device that its runs were trained on.

    Args:
        study: at its scale.
        results: the folder of all results.
        gpu: a name of ``PEAKS``.
    """
    speeds = Speeds.below(results)
    works = dict.fromkeys(Work.of(run.config, "") for run in study.runs.values())
    device = speeds.usual_device(works) if gpu is None else speeds.device(gpu)
    folder = results / study.scale.name / "runs"
    costs = {name: _cost(run, device, speeds) for name, run in study.runs.items()}
    left = {name for name in study.runs if not (folder / name / RESULT).exists()}

    def line(id: str, runs: Iterable[str], new: set[str], awaits: str | None = None) -> Line:
        runs = list(runs)
        parts = (runs, [r for r in runs if r in left], [r for r in runs if r in new])
        total, open, adds = (sum((costs[r] for r in part), Cost()) for part in parts)
        return Line(id, total, open, adds, awaits)

    lines, new = [], set(study.runs)
    for experiment in study.experiments:
        runs = study.with_parents(experiment.runs)
        lines.append(line(experiment.id, runs, new, experiment.awaits))
        new -= set(runs)
    total = line(study.scale.name, study.runs, set(study.runs))
    found = {work: speeds.images_per_second(work._replace(device=device)) for work in works}
    basis = tuple(
        f"{w.model} on {w.dataset}, {w.precision}, {device}: "
        f"{rate:,.0f} {DATASETS[w.dataset].samples}/s, {why}"
        for w, (rate, why) in found.items()
    )
    return Estimate(tuple(lines), total, costs, device, basis)


def _cost(run: Run, device: str, speeds: Speeds) -> Cost:
    work = Work.of(run.config, device)
    rate, _ = speeds.images_per_second(work)
    gpu_hours = run.images / rate / 3600
    return Cost(1, run.images * work.flops, gpu_hours, kept_bytes(run))


def closing_lines(study: Study, results: Path, planned: Iterable[str]) -> list[str]:
    """Return the cost of the runs that a dry run plans, and of the whole study, a line each."""
    found = estimate(study, results)
    now = sum((found.runs[run] for run in planned), Cost())
    return [
        f"this would train {now.runs} runs: {now.describe(found.device)}",
        f"study {_left(found)}",
        f"table by table: {shlex.join(['acdc', 'plan', *study.arguments])}",
    ]


def _left(found: Estimate) -> str:
    total, left = found.total.total, found.total.left
    return (
        f"{found.total.id}: {total.runs} runs in all, {total.runs - left.runs} done, {left.runs} "
        f"left: {left.describe(found.device)}"
    )


def size(count: float) -> str:
    """Return bytes in units of a thousand, such as 1.23 GB."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if count < 1000 or unit == "TB":
            break
        count /= 1000
    return f"{count:.3g} {unit}"


def show(found: Estimate) -> Iterator[str]:
    """Yield an estimate as text: a table and explanations."""

    def cells(cost: Cost) -> list[str]:
        return [f"{cost.dense_flops:.3g}", duration(3600 * cost.gpu_hours), size(cost.storage)]

    lines = (*found.lines, dataclasses.replace(found.total, id="total"))
    yield tabulate(
        [
            (
                *(line.id, line.total.runs, line.left.runs, *cells(line.total)),
                *(line.adds.runs, *cells(line.adds)),
            )
            for line in lines
        ],
        headers=[
            *("experiment", "runs", "left", "dense FLOPs", "time", "storage"),
            *("adds: runs", "dense FLOPs", "time", "storage"),
        ],
        disable_numparse=True,
        colalign=("left", *("right",) * 9),
    )
    yield "\nTime: training on one device, without evaluation. Storage: at most, after training."
    yield "Adds: runs that no experiment above has."
    yield from found.speeds
    yield from (f"{line.id} awaits: {line.awaits}" for line in found.lines if line.awaits)
    yield _left(found)


@click.command()
@click.option(
    "--scale", default="smoke", show_default=True, help="smoke, quick, laptop, small, paper."
)
@click.option(
    "--gpu",
    type=click.Choice(sorted(PEAKS)),
    help="GPU to train on.  [default: the device of the existing runs, else a100]",
)
@click.option(
    "--results",
    type=click.Path(path_type=Path),
    default=Path("results"),
    show_default=True,
    help="Folder of all results.",
)
@click.option("--seeds", type=click.IntRange(1), help="Number of seeds per row (1..N).")
@click.option("--experiments", help="Folder of the experiments, instead of the suite's.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def plan_command(
    scale: str,
    gpu: str | None,
    results: Path,
    seeds: int | None,
    experiments: str | None,
    as_json: bool,
) -> None:
    """Estimate the cost of a study: runs, dense FLOPs, hours on a GPU, storage.

    Lists each table and figure and what it adds to those before it. Speeds are those that finished
    runs have measured, else assumed from the GPU's peak.
    """
    study = load(scale, seeds, experiments)
    found = estimate(study, results, gpu)
    data = dataclasses.asdict(dataclasses.replace(found, runs={}))
    for line in [json.dumps(data)] if as_json else [*show(found), *study.missing_data()]:
        click.echo(line)
