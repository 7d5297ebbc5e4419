"""``acdc stale``: list the results that other code than the present made."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import click
from tabulate import tabulate

from acdc.config.run import parse_run
from acdc.console import RESULTS
from acdc.errors import ConfigError
from acdc.run.reader import RunRecord, read_run
from acdc.run.result import RESULT, DivergedResult, FinishedResult
from acdc.run.sources import staleness
from study.model import ReportError, read_study


@dataclass(frozen=True)
class Stale:
    """A result that the present code might not reproduce."""

    folder: Path
    reason: str
    gpu_hours: float
    """What training took, with start-up, evaluation and checkpoints."""
    core_hours: float


@click.command()
@click.option("--scale", help="Only the results of one scale.  [default: all]")
@RESULTS
@click.option("--folders", is_flag=True, help="Print the folders of these runs and nothing else.")
def stale(scale: str | None, results: Path, folders: bool) -> None:
    """List results that other code than the present made.

    Compares the digest of the code that a run recorded with that of the present code; comments,
    docstrings and layout do not count. Removes nothing and trains nothing.
    """
    places = [results / scale / "runs"] if scale else [results / "runs", *results.glob("*/runs")]
    for place in sorted(places):
        records = [read_run(path.parent) for path in sorted(place.glob(f"*/{RESULT}"))]
        found = examine(records)
        if folders:
            for each in found:
                click.echo(each.folder)
        elif records:
            click.echo(f"{place}: {len(records)} results, {len(found)} of them stale")
            for line in describe(found, place, results) if found else ():
                click.echo(line)


def examine(records: Sequence[RunRecord]) -> list[Stale]:
    """Return the stale ones of the results in a folder."""
    reasons = {record.folder.name: staleness(record) for record in records}
    for record in records:
        if not reasons[record.folder.name] and reasons.get(_parent(record)):
            reasons[record.folder.name] = "starts from a stale run"
    stale = (record for record in records if reasons[record.folder.name])
    return [Stale(r.folder, reasons[r.folder.name], *hours(r)) for r in stale]


def _parent(record: RunRecord) -> str:
    """Return the name of the run that a run starts from, if any."""
    try:
        parent = parse_run(record.config or {}).parent
    except ConfigError:
        return ""
    return parent.run_name if parent else ""


def hours(record: RunRecord) -> tuple[float, float]:
    """Return the GPU-hours and core-hours that training took, by the run's own clock."""
    if not isinstance(record.result, FinishedResult | DivergedResult) or not record.provenance:
        return 0.0, 0.0
    attempt = record.provenance[0]
    total = record.result.timings.wall_s / 3600 * attempt.ranks
    if attempt.hardware.device in (None, "cpu"):
        return 0.0, total * attempt.threads
    return total, 0.0


def describe(found: Sequence[Stale], place: Path, results: Path) -> Iterator[str]:
    """Yield a line per reason, the total, and the commands that retrain.

    Args:
        found: results in one folder, at least one.
        place: that folder.
        results: the folder of all results.
    """
    ordered = sorted(found, key=lambda each: each.reason)
    groups = groupby(ordered, key=lambda each: each.reason)
    rows = [_row(reason, list(members)) for reason, members in groups]
    headings = ["reason", "runs", "GPU-hours", "core-hours"]
    yield tabulate([*rows, _row("total", found)], headings, floatfmt=".3g")
    scale = [] if place.parent == results else ["--scale", place.parent.name]
    command = shlex.join(["acdc", "stale", *scale, "--results", str(results), "--folders"])
    yield f"To retrain: {command} | tr '\\n' '\\0' | xargs -0 rm -r"
    if scale:
        yield f"then {_retraining(place.parent, results)}"


def _retraining(folder: Path, results: Path) -> str:
    """Return the command that makes a study again, whatever it was resolved from."""
    try:
        options = read_study(folder).options
    except ReportError:
        options = {"--scale": folder.name}
    words = {key.removeprefix("--"): value for key, value in options.items()}
    words["results"] = str(results)
    if "experiments" in words:
        pairs = [f"{key}={value}" for key, value in words.items()]
        return shlex.join(["snakemake", "--cores", "all", "--config", *pairs])
    return f"make reproduce {' '.join(f'{k.upper()}={shlex.quote(v)}' for k, v in words.items())}"


def _row(name: str, members: Sequence[Stale]) -> list[object]:
    gpu_hours = sum(each.gpu_hours for each in members)
    return [name, len(members), gpu_hours, sum(each.core_hours for each in members)]
