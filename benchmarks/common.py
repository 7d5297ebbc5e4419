"""What the benchmarks share: a clock that waits for the device, ratios of turns, the record."""

from __future__ import annotations

import json
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import torch
from tabulate import tabulate

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
    """Print and return what figures depend on beside the code."""
    found = {
        "hardware": hardware(device),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "load": os.getloadavg()[0],
    }
    click.echo(found)
    return found


def report(
    rows: Sequence[Mapping[str, Any]], columns: str, file: Path | None, **about: Any
) -> None:
    """Print figures as a table; write them as JSON, if a file is named.

    Args:
        rows: the figures by their names.
        columns: of the table: names, each with a format where it is a number: ``name:.2f``.
        file: to be written.
        about: what the file says beside the rows.
    """
    names = [column.partition(":")[::2] for column in columns.split()]
    cells = [
        [format(row[name], form) if name in row else "" for name, form in names] for row in rows
    ]
    sides = ["right" if form else "left" for _, form in names]
    headings = [name for name, _ in names]
    click.echo(tabulate(cells, headings, disable_numparse=True, colalign=sides))
    if file is not None:
        text = json.dumps({**about, "rows": rows}, indent=2)
        file.write_text(text + "\n", encoding="utf-8")
