"""How fast a device trains: as measured in the journals of runs, else assumed from its peak."""

from __future__ import annotations

import json
import re
import statistics
from collections import Counter
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from acdc.config.recipe import Precision
from acdc.config.run import RunConfig
from acdc.data import DATASETS
from acdc.run.journal import read_journal
from acdc.run.results import RESULT
from acdc.sparsity.flops import dense_flops
from workflow.forecast import Forecast, network

PEAKS: dict[str, dict[Precision, float]] = {
    "a100": {"fp16": 312, "bf16": 312, "tf32": 156, "fp32": 19.5},
    "h100": {"fp16": 989, "bf16": 989, "tf32": 495, "fp32": 67},
    "h200": {"fp16": 989, "bf16": 989, "tf32": 495, "fp32": 67},
    "rtx2080": {"fp16": 40.3, "fp32": 10.1},
    "rtx3090": {"fp16": 71, "bf16": 71, "tf32": 35.6, "fp32": 35.6},
    "rtx4090": {"fp16": 165, "bf16": 165, "tf32": 82.6, "fp32": 82.6},
    "v100": {"fp16": 125, "fp32": 15.7},
}
"""TFLOP/s of dense matrices by the makers' data sheets (SXM models; sums in single precision). What
is not listed a GPU computes at its speed in single precision."""
UTILISATION = 0.19
"""The share of the peak that training is assumed to reach: NVIDIA DeepLearningExamples, ResNet50 in
mixed precision, 2,470 images/s on one A100, which is 60.6 of 312 TFLOP/s."""
DEFAULT_GPU = "a100"


class Work(NamedTuple):
    """What a speed was measured at."""

    model: str
    dataset: str
    precision: str
    device: str


def work_of(config: RunConfig, device: str) -> Work:
    """Return what a run on a device is a measurement of."""
    return Work(config.model, config.dataset, config.precision, device)


@dataclass(frozen=True)
class Measured:
    """Training images a second, as journals have it."""

    rates: Mapping[Work, Mapping[str, float]]
    """By run."""

    @classmethod
    def below(cls, results: Path) -> Measured:
        """Return what all finished runs below a folder of results have measured."""
        rates: dict[Work, dict[str, float]] = {}
        for folder in sorted(results.glob("*/runs/*")):
            for work, rate in _rate(folder):
                rates.setdefault(work, {})[folder.name] = rate
        return cls(rates)

    def rate(self, work: Work, without: str | None = None) -> float | None:
        """Return the median over runs, one left out, or None where there is no other."""
        found = [rate for run, rate in self.rates.get(work, {}).items() if run != without]
        return statistics.median(found) if found else None

    def device(self, gpu: str) -> str:
        """Return what runs call a GPU of the table, its name there if none has run on it."""
        names = {work.device for work in self.rates}
        return next((name for name in sorted(names) if table_name(name) == gpu), gpu)

    def usual_device(self, works: Container[Work]) -> str:
        """Return the device of most runs of some works, whose device is left empty.

        An A100 where there are none.
        """
        runs = Counter[str]()
        for work, rates in self.rates.items():
            if work._replace(device="") in works:
                runs[work.device] += len(rates)
        return runs.most_common(1)[0][0] if runs else DEFAULT_GPU


def table_name(device: str) -> str | None:
    """Return the name in the table of a device such as ``NVIDIA A100-SXM4-80GB``, if it has one."""
    words = re.findall(r"[a-z]+ ?\d+(?: ?ti| ?super)?", device.lower())
    return next((name for word in words if (name := word.replace(" ", "")) in PEAKS), None)


def _rate(folder: Path) -> Iterator[tuple[Work, float]]:
    """Yield what a finished run measures, if it ran on one device and says so."""
    try:
        config = json.loads((folder / RESULT).read_text(encoding="utf-8"))["config"]
        provenance = json.loads((folder / "provenance.json").read_text(encoding="utf-8"))
        devices = {
            part["hardware"]["device"] for part in (provenance, *provenance.get("resumed", []))
        }
        work = Work(config["model"], config["dataset"], config["precision"], *devices)
        batch = config["recipe"]["batch_size"]
        images = DATASETS[work.dataset].training_images // batch * batch
    except (OSError, ValueError, KeyError, TypeError):
        return
    seconds = [r["train_s"] for r in read_journal(folder / "journal.jsonl") if "train_s" in r]
    if sum(seconds) > 0:
        yield work, len(seconds) * images / sum(seconds)


@dataclass(frozen=True)
class Speed:
    """How fast runs are on one device."""

    measured: Measured
    device: str

    def flops_per_second(self, config: RunConfig) -> float:
        """Return at what speed a device computes a run, masks gaining nothing."""
        dense = 3 * dense_flops(network(config.model, config.dataset).costs)
        rate = self.measured.rate(work_of(config, self.device))
        return rate * dense if rate else self._assumed(config)

    def seconds(self, config: RunConfig, forecast: Forecast) -> float:
        """Return how long the steps of a run take; evaluation is not counted."""
        return forecast.computed_flops / self.flops_per_second(config)

    def basis(self, config: RunConfig) -> str:
        """Return what the speed is taken from, in words."""
        work = work_of(config, self.device)
        what = f"{config.model} on {config.dataset}, {config.precision}, {self.device}"
        rate = self.measured.rate(work)
        if rate:
            runs = len(self.measured.rates[work])
            return f"{what}: measured, {rate:,.0f} images/s (median of runs: {runs})"
        name = table_name(self.device)
        if name is None:
            return f"{what}: assumed, the speed of the other networks measured there"
        peak = _peak(name, config)
        return f"{what}: assumed, {100 * UTILISATION:.0f} % of {peak:g} TFLOP/s"

    def _assumed(self, config: RunConfig) -> float:
        name = table_name(self.device)
        if name is not None:
            return 1e12 * UTILISATION * _peak(name, config)
        speeds = [
            rate * 3 * dense_flops(network(work.model, work.dataset).costs)
            for work, rates in self.measured.rates.items()
            if work.device == self.device
            for rate in rates.values()
        ]
        return statistics.median(speeds)


def _peak(name: str, config: RunConfig) -> float:
    peaks = PEAKS[name]
    return peaks.get(config.precision, peaks["fp32"])
