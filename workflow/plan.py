"""``acdc plan``: print what a study costs, table by table."""

from __future__ import annotations

import dataclasses
import json
import shlex
from collections.abc import Iterable, Iterator
from pathlib import Path

import click
from tabulate import tabulate

from acdc.console import RESULTS
from acdc.messages import duration
from reports.text import quantity
from study.model import Study
from study.resolve import load
from workflow.cost import PEAKS, Cost, Estimate, estimate


def closing_lines(study: Study, results: Path, planned: Iterable[str]) -> list[str]:
    """Return the cost of the runs that a dry run plans, and of the whole study, a line each."""
    found = estimate(study, results)
    now = sum((found.runs[run] for run in planned), Cost())
    return [
        f"this would train {now.runs} runs: {_describe(now, found.device)}",
        f"study {_left(found)}",
        f"table by table: {shlex.join(['acdc', 'plan', *study.arguments])}",
    ]


def _left(found: Estimate) -> str:
    total, left = found.total.total, found.total.left
    return (
        f"{found.total.id}: {total.runs} runs in all, {total.runs - left.runs} done, {left.runs} "
        f"left: {_describe(left, found.device)}"
    )


def _describe(cost: Cost, device: str) -> str:
    flops, time, storage = _words(cost)
    return f"{flops} dense FLOPs, {time} on {device}, {storage}"


def _words(cost: Cost) -> tuple[str, str, str]:
    time = duration(3600 * cost.gpu_hours)
    return f"{cost.dense_flops:.3g}", time, quantity(cost.storage, "B")


def show(found: Estimate) -> Iterator[str]:
    """Yield an estimate as text: a table and explanations."""
    lines = (*found.lines, dataclasses.replace(found.total, id="total"))
    yield tabulate(
        [
            (
                *(line.id, line.total.runs, line.left.runs, *_words(line.total)),
                *(line.adds.runs, *_words(line.adds)),
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
@RESULTS
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
