"""What a study costs, before anything is trained: GPU-hours, FLOPs and storage.

A run takes ``3 F`` FLOPs per sample, an image or a token, F being those of a dense forward pass:
devices compute zeros, too. Divided by the speed of the device that gives GPU-hours. Storage is a
multiple of the network's weights.
"""

from __future__ import annotations

import dataclasses
import functools
import re
import statistics
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from acdc.config.recipe import Recipe
from acdc.data import DATASETS
from acdc.methods.registry import get_method
from acdc.models import build_model
from acdc.run.reader import read_run
from acdc.run.result import RESULT
from acdc.sparsity.flops import dense_flops
from acdc.training.tasks import TASKS
from study.model import Run, Study

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
STEP = ("batch_size", "segment", "memory")
"""The keys of a recipe that size a step."""


class Network(NamedTuple):
    """The size of a network."""

    flops: int
    """FLOPs of a dense forward pass over one sample, an image or a token."""
    size: int
    """Bytes of its weights and buffers."""
    carried: int
    """Bytes that training carries over to the next batch."""


@functools.cache
def network(model: str, dataset: str, recipe: Recipe) -> Network:
    """Return the size of a model for a data set, at the batch and segment of a recipe."""
    built, spec = build_model(model, dataset, seed=1), DATASETS[dataset]
    task = TASKS[spec.kind]
    size = sum(tensor.nbytes for tensor in built.state_dict().values())
    return Network(
        dense_flops(task.costs(spec, recipe, built)), size, task.carried_bytes(recipe, built)
    )


class Work(NamedTuple):
    """What a device does at one speed, in samples per second."""

    model: str
    dataset: str
    precision: str
    recipe: Recipe
    """That of the run as far as it sizes a step, so that other recipes share the speed."""

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Work:
        """Return the work of a run."""
        given = config["recipe"]
        recipe = Recipe(**{key: given[key] for key in STEP if key in given})
        return cls(config["model"], config["dataset"], config["precision"], recipe)

    @property
    def network(self) -> Network:
        """The size of its network."""
        return network(self.model, self.dataset, self.recipe)

    @property
    def flops(self) -> float:
        """FLOPs of training on one sample."""
        return 3.0 * self.network.flops


Speeds = dict[str, dict[Work, list[float]]]
"""Training samples per second of each finished run, by device."""


def measured(results: Path) -> Speeds:
    """Return the speeds of all finished runs below a folder of results."""
    speeds: Speeds = {}
    for path in sorted(results.glob(f"*/runs/*/{RESULT}")):
        record = read_run(path.parent)
        devices = {attempt.hardware.device for attempt in record.provenance}
        seconds = sum(float(epoch["train_s"]) for epoch in record.journal.epochs)
        if record.config is not None and len(devices) == 1 and None not in devices and seconds:
            work = Work.of(record.config)
            samples = DATASETS[work.dataset].training_samples * len(record.journal.epochs)
            rates = speeds.setdefault(str(*devices), {})
            rates.setdefault(work, []).append(samples / seconds)
    return speeds


def choose_device(gpu: str | None, works: Collection[Work], speeds: Speeds) -> str:
    """Return a device by the name that runs recorded.

    Args:
        gpu: a name of ``PEAKS``, returned if no run was trained there; None: the device of most
            runs of ``works``.
        works: of the study.
        speeds: of finished runs.
    """
    if gpu is not None:
        return next((name for name in sorted(speeds) if gpu_name(name) == gpu), gpu)
    counts = {
        device: sum(len(rates.get(work, ())) for work in works) for device, rates in speeds.items()
    }
    most = max(counts, key=counts.__getitem__, default="")
    return most if counts.get(most) else DEFAULT_GPU


def speed(work: Work, device: str, speeds: Speeds) -> tuple[float, str]:
    """Return the median measured speed, else one derived from the device's peak, and its basis.

    On a device without a known peak, other networks are assumed to reach the FLOP/s that were
    measured there.
    """
    rates, gpu = speeds.get(device, {}), gpu_name(device)
    if work in rates:
        return statistics.median(rates[work]), f"measured (median of {len(rates[work])} runs)"
    if gpu is not None:
        peak = PEAKS[gpu].get(work.precision, PEAKS[gpu]["fp32"])
        basis = f"assumed {100 * UTILISATION:.0f} % of {peak:g} TFLOP/s"
        return 1e12 * UTILISATION * peak / work.flops, basis
    reached = [rate * other.flops for other, found in rates.items() for rate in found]
    return statistics.median(reached) / work.flops, "estimated from other networks there"


def gpu_name(device: str) -> str | None:
    """Return the name in ``PEAKS`` of a device such as ``NVIDIA A100-SXM4-80GB``, if it has one."""
    words = re.findall(r"[a-z]+ ?\d+(?: ?ti| ?super)?", device.lower())
    return next((name for word in words if (name := word.replace(" ", "")) in PEAKS), None)


def checkpoint_bytes(run: Run) -> int:
    """Return the bytes of a checkpoint within an epoch at most."""
    found = Work.of(run.config).network
    return round(_state(run) * found.size) + found.carried


def kept_bytes(run: Run) -> int:
    """Return the bytes that a finished run keeps at most.

    The last and the best model of each product, optimizer states, and a checkpoint.
    """
    method = get_method(run.config["method"])
    files = 2 * len(method.products) + _averages(run) * len(method.resumable)
    return round((files + _state(run)) * Work.of(run.config).network.size)


def _state(run: Run) -> float:
    """Return the values per weight in a checkpoint at most.

    The weight, averages of gradients, a mask, and two that a method stores.
    """
    return 3.5 + _averages(run)


def _averages(run: Run) -> int:
    """Return how many averages of gradients the optimizer keeps for each weight."""
    return 1 if run.config["recipe"].get("optimizer", "sgd") == "sgd" else 2


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
    works = {name: Work.of(run.config) for name, run in study.runs.items()}
    measurements = measured(results)
    device = choose_device(gpu, set(works.values()), measurements)
    speeds = {work: speed(work, device, measurements) for work in dict.fromkeys(works.values())}
    costs = {}
    for name, run in study.runs.items():
        work = works[name]
        gpu_hours = run.images / speeds[work][0] / 3600
        costs[name] = Cost(1, run.images * work.flops, gpu_hours, kept_bytes(run))
    folder = results / study.scale.name / "runs"
    left = {name for name in study.runs if not (folder / name / RESULT).exists()}

    def line(id: str, runs: Collection[str], new: set[str], awaits: str | None = None) -> Line:
        total, open, adds = (
            sum((costs[run] for run in runs if run in part), Cost()) for part in (costs, left, new)
        )
        return Line(id, total, open, adds, awaits)

    lines, new = [], set(study.runs)
    for experiment in study.experiments:
        runs = study.with_parents(experiment.runs)
        lines.append(line(experiment.id, runs, new, experiment.awaits))
        new -= set(runs)
    basis = tuple(
        f"{work.model} on {work.dataset}, {work.precision}, {device}: "
        f"{rate:,.0f} {DATASETS[work.dataset].samples}/s, {why}"
        for work, (rate, why) in speeds.items()
    )
    total = line(study.scale.name, study.runs, set(study.runs))
    return Estimate(tuple(lines), total, costs, device, basis)
