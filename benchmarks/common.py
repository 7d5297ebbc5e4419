"""What the benchmarks share: a clock that waits for the device, paired ratios, and the record."""

from __future__ import annotations

import json
import os
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
import torch

from acdc.run.provenance import hardware

json_option = click.option("--json", "file", type=click.Path(dir_okay=False, path_type=Path))


def waiting_clock(device: torch.device) -> Callable[[], float]:
    """Return a clock in seconds that lets the device finish before it is read."""

    def read() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter()

    return read


def paired(numerators: Sequence[float], denominators: Sequence[float]) -> list[float]:
    """Return the ratio of each round, so that what else the machine does falls on both alike."""
    return [above / below for above, below in zip(numerators, denominators, strict=True)]


def median_ratio(numerators: Sequence[float], denominators: Sequence[float]) -> float:
    """Return the median of the rounds' ratios."""
    return statistics.median(paired(numerators, denominators))


def circumstances(device: torch.device) -> dict[str, Any]:
    """Return what figures depend on beside the code."""
    return {
        "hardware": hardware(device),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "load": os.getloadavg()[0],
    }


def write_record(file: Path | None, record: dict[str, Any]) -> None:
    """Write figures as JSON, if a file is named."""
    if file is not None:
        file.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
