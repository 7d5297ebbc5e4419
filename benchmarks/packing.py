"""Several seeds of a small model on one device: at once, one after another, or with all threads.

    python -m benchmarks.packing [--seeds 1 --seeds 2 --seeds 4] [--device cuda] [--json FILE]

Every contender is one call of ``acdc train --seeds``, from its start to its end, so that runs a
minute count the processes' starts too. *At once* gives each run one thread of the CPU and lets all
of them share the device; the ratios are to the same runs one after another with one thread.
*Overhead* is what runs one after another take beside their training steps: starting, validation,
checkpoints, test, leaving.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click
import torch

from benchmarks.common import circumstances, json_option, median_ratio, report

ALONE = "one after another, 1 thread"


def contenders(count: int, cores: int) -> dict[str, tuple[int, int]]:
    """Return by name how many runs train at once, and on how many threads each."""
    found = {ALONE: (1, 1)}
    if cores > 1:
        found[f"one after another, {cores} threads"] = (1, cores)
    if count > 1:
        found[f"{count} at once, 1 thread each"] = (count, 1)
    return found


def train(options: list[str], count: int, at_once: int) -> tuple[float, list[float]]:
    """Train ``count`` seeds; return the seconds of all, and those of each run's steps."""
    seeds = ",".join(str(seed + 1) for seed in range(count))
    with tempfile.TemporaryDirectory() as place:
        command = [*(sys.executable, "-m", "acdc", "train", "--runs", place, *options)]
        command += ["--method", "dense", "--seeds", seeds, "--at-once", str(at_once)]
        start = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True)
        took = time.perf_counter() - start
        if done.returncode != 0:
            raise click.ClickException(f"acdc train failed:\n{done.stderr}")
        results = [json.loads(path.read_text()) for path in Path(place).glob("*/result.json")]
    assert len(results) == count
    return took, [result["timings"]["train_s"] for result in results]


def measure(options: list[str], count: int, rounds: int, cores: int) -> list[dict[str, Any]]:
    """Return one row for each way to train ``count`` seeds."""
    ways = contenders(count, cores)
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    steps: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, (at_once, threads) in ways.items():
            took, trained = train([*options, "--threads", str(threads)], count, at_once)
            seconds[name].append(took)
            steps[name].append(sum(trained))
    rows = []
    for name, (at_once, _) in ways.items():
        took = statistics.median(seconds[name])
        row = {
            "runs": count,
            "contender": name,
            "runs_per_minute": 60 * count / took,
            "ratio": median_ratio(seconds[ALONE], seconds[name]),
            "steps_s": statistics.median(steps[name]) / count,
            "steps_ratio": median_ratio(steps[ALONE], steps[name]),
        }
        beside = [all - own for all, own in zip(seconds[name], steps[name], strict=True)]
        rows.append(row | ({"overhead_s": statistics.median(beside)} if at_once == 1 else {}))
    return rows


@click.command()
@click.option("--seeds", "counts", default=[1, 2, 4], multiple=True, show_default=True)
@click.option("--epochs", default=10, show_default=True)
@click.option("--model", default="resnet8_s4", show_default=True)
@click.option("--dataset", default="fashion_mnist_4k", show_default=True)
@click.option("--rounds", default=3, show_default=True)
@click.option("--cores", default=os.cpu_count(), show_default=True, help="What all threads means.")
@click.option("--device", default="cpu", show_default=True)
@json_option
def main(
    counts: tuple[int, ...],
    epochs: int,
    model: str,
    dataset: str,
    rounds: int,
    cores: int,
    device: str,
    file: Path | None,
) -> None:
    """Compare ways to train several seeds."""
    options = ["--model", model, "--dataset", dataset, "--epochs", str(epochs), "--device", device]
    around = circumstances(torch.device(device)) | {"epochs": epochs, "model": model}
    rows = [row for count in counts for row in measure(options, count, rounds, cores)]
    columns = "runs:d contender runs_per_minute:.2f ratio:.2f steps_s:.2f steps_ratio:.2f"
    report(rows, f"{columns} overhead_s:.2f", file, **around)


if __name__ == "__main__":
    main()
