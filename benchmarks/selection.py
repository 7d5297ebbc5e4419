"""Speed and memory of the exact global selection, against one read of the weights.

    python -m benchmarks.selection [--size 25502912 --size 285000000] [--device cuda] [--json FILE]

Repetitions of all contenders are interleaved in one process and the best of each counts, so that
other load on the machine affects all alike.
"""

from __future__ import annotations

import ctypes
import itertools
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click
import torch
from torch import Tensor

from acdc.models import MODELS
from acdc.sparsity import selection, topk
from acdc.sparsity.layers import prunable_layers
from benchmarks.common import circumstances, json_option, report, waiting_clock

SIZES = (25_502_912, 285_000_000)
DENSITY = 0.1
# What copies, joins and ranks everything takes seconds: it runs up to this size, and once.
JOINED = ("topk", "kthvalue", "sort")
LARGEST_JOINED = 50_000_000


def make_layers(size: int, device: torch.device) -> dict[str, Tensor]:
    """Return ``size`` weights in layers of ResNet50's shapes and layout, over and over."""
    generator = torch.Generator(device).manual_seed(0)
    layers: dict[str, Tensor] = {}
    for layer in itertools.cycle(prunable_layers(MODELS["resnet50"](3, 1000)).values()):
        shape = layer.shape if math.prod(layer.shape) <= size else [size]
        weight = torch.randn(shape, generator=generator, device=device)
        weight *= (2 / math.prod(shape[1:])) ** 0.5
        if weight.dim() == 4:
            weight = weight.to(memory_format=torch.channels_last)
        layers[str(len(layers))] = weight
        size -= weight.numel()
        if size == 0:
            break
    return layers


def make_contenders(layers: Mapping[str, Tensor]) -> dict[str, Callable[[], Any]]:
    """Return what is measured, by its name in the table."""
    weights = list(layers.values())
    total = sum(weight.numel() for weight in weights)
    k = int(total * DENSITY)

    def joined() -> Tensor:
        return torch.cat([weight.abs().reshape(-1) for weight in weights])

    contenders: dict[str, Callable[[], Any]] = {
        "read (sum)": lambda: [weight.sum() for weight in weights],
        "read (max)": lambda: [weight.amax() for weight in weights],
        "threshold": lambda: selection.kth_largest(weights, k, magnitudes=True),
        "masks": lambda: selection.top_k_masks(layers, k, magnitudes=True),
        "threshold by radix": lambda: topk._cut_by_radix(weights, k, True),
        "topk": lambda: joined().topk(k, sorted=False).values.min(),
        "kthvalue": lambda: joined().kthvalue(total - k + 1).values,
        "sort": lambda: joined().sort().values[total - k],
    }
    slow = JOINED if total > LARGEST_JOINED else ()
    return {name: run for name, run in contenders.items() if name not in slow}


def seconds(run: Callable[[], Any], device: torch.device) -> float:
    """Return the wall-clock time of one call."""
    clock = waiting_clock(device)
    start = clock()
    run()
    return clock() - start


def _resident(field: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if field in line)


def extra_memory(run: Callable[[], Any], device: torch.device) -> int:
    """Return the bytes that one call needs at its peak, its result included (on a CPU: Linux)."""
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        run()
        return torch.cuda.max_memory_allocated(device) - before
    ctypes.CDLL(None).malloc_trim(0)  # what earlier calls freed would hide what this one takes
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # restarts the peak
    before = _resident("VmRSS")
    run()
    return _resident("VmHWM") - before


def measure(size: int, device: torch.device, repetitions: int) -> list[dict[str, Any]]:
    """Return one row for each contender: time, in reads of the weights too, and peak memory."""
    layers = make_layers(size, device)
    contenders = make_contenders(layers)
    memory = {name: extra_memory(run, device) for name, run in contenders.items()}
    best = dict.fromkeys(contenders, math.inf)
    for repetition in range(repetitions):
        for name, run in contenders.items():
            if name not in JOINED or repetition == 0:
                best[name] = min(best[name], seconds(run, device))
    read = min(time_s for name, time_s in best.items() if name.startswith("read"))
    return [
        {
            "weights": size,
            "contender": name,
            "time_s": best[name],
            "reads": best[name] / read,
            "extra_memory": memory[name] / (4 * size),
        }
        for name in contenders
    ]


@click.command()
@click.option("--size", "sizes", default=SIZES, multiple=True, show_default=True)
@click.option("--repetitions", default=30, show_default=True)
@click.option("--device", default="cpu", show_default=True)
@json_option
def main(sizes: tuple[int, ...], repetitions: int, device: str, file: Path | None) -> None:
    """Compare ways to select the largest weights."""
    where = torch.device(device)
    around = circumstances(where)
    rows = [row for size in sizes for row in measure(size, where, repetitions)]
    report(rows, "weights:,d contender time_s:.4f reads:.1f extra_memory:.2f", file, **around)


if __name__ == "__main__":
    main()
