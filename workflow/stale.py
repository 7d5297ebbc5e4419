"""Which results were made by other code than there is now, and what making them again costs."""

from __future__ import annotations

import json
import shlex
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import click
from tabulate import tabulate

from acdc.config.run import parse_run
from acdc.errors import ConfigError, RunDirectoryError
from acdc.messages import accepted
from acdc.run.results import RESULT, read_result
from acdc.run.sources import LOADED, Sources, Standing, standing

UNREADABLE = Standing(unknown="damaged, or of another version of the suite")


@dataclass(frozen=True)
class Cost:
    """What training took; hours with start-up, evaluation and checkpoints."""

    core_hours: float = 0.0
    gpu_hours: float = 0.0
    flops: float = 0.0
    """Training FLOPs by the paper's accounting, without those of the run that it starts from."""

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.core_hours + other.core_hours,
            self.gpu_hours + other.gpu_hours,
            self.flops + other.flops,
        )

    def __str__(self) -> str:
        hours = [(self.gpu_hours, "GPU-hours"), (self.core_hours, "core-hours")]
        said = [f"{value:.3g} {unit}" for value, unit in hours if value]
        return ", ".join([*said, f"{self.flops:.2e} FLOPs"])


@dataclass(frozen=True)
class Result:
    """A result that is there, its standing, and what it took."""

    folder: Path
    standing: Standing
    cost: Cost


@click.command()
@click.option("--scale", help="Only the results of one scale.  [default: all]")
@click.option(
    "--results",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("results"),
    show_default=True,
    help="Folder of the results.",
)
@click.option("--module", help="Only results for which this module differs.")
@click.option("--runs", "each", is_flag=True, help="List every run.")
@click.option("--folders", is_flag=True, help="Print the folders of these runs and nothing else.")
def stale(scale: str | None, results: Path, module: str | None, each: bool, folders: bool) -> None:
    """List results that were made by other code than there is now.

    Compares, module by module, the code that a run used with the code that is there; comments,
    docstrings and layout do not count. Nothing is removed and nothing is trained.
    """
    found = {
        place: list(examine(place))
        for place in ([results / scale / "runs"] if scale else places(results))
    }
    used = {name for those in found.values() for result in those for name in differing(result)}
    if module is not None and module not in used.union(LOADED.names):
        raise ConfigError(f"--module: {module!r} is unknown; {accepted(module, LOADED.names)}")
    chosen = {
        place: [
            result
            for result in examined
            if not result.standing.current and (not module or module in differing(result))
        ]
        for place, examined in found.items()
    }
    if folders:
        for result in (result for those in chosen.values() for result in those):
            click.echo(result.folder)
        return
    if not any(found.values()):
        click.echo(f"no results in {results / scale / 'runs' if scale else results}")
    for place, those in chosen.items():
        for line in describe(place, found[place], those, each):
            click.echo(line)
    if any(chosen.values()):
        options = [*(("--scale", scale) if scale else ()), "--results", str(results)]
        options += ["--module", module] if module else []
        for line in remedy(results, [place for place in chosen if chosen[place]], options):
            click.echo(line)


def places(results: Path) -> list[Path]:
    """Return the folders of runs below a folder of results."""
    return [path for path in (results / "runs", *sorted(results.glob("*/runs"))) if path.is_dir()]


def examine(place: Path, sources: Sources = LOADED) -> Iterator[Result]:
    """Yield every result in a folder of runs, in alphabetical order."""
    for path in sorted(place.glob(f"*/{RESULT}")):
        folder = path.parent
        try:
            result = read_result(folder)
        except RunDirectoryError:
            yield Result(folder, UNREADABLE, Cost())
            continue
        assert result is not None
        yield Result(folder, standing(folder, result["config"], sources), cost(folder, result))


def cost(folder: Path, result: dict[str, Any]) -> Cost:
    """Return what a result took, by its own measurements."""
    path = folder / "provenance.json"
    about = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    hours = result["timings"]["wall_s"] / 3600 * about.get("ranks", 1)
    flops = result["flops"]["training"] - _inherited(folder.parent, result["config"])
    if about.get("hardware", {}).get("device", "cpu") == "cpu":
        return Cost(core_hours=hours * about.get("threads", 1), flops=flops)
    return Cost(gpu_hours=hours, flops=flops)


def _inherited(place: Path, description: dict[str, Any]) -> float:
    """Return the FLOPs that a run has taken over from the run that it starts from."""
    try:
        started = parse_run(description).parent
        parent = read_result(place / started.run_name) if started else None
    except (ConfigError, RunDirectoryError):
        return 0.0
    return float(parent["flops"]["training"]) if parent else 0.0


def differing(result: Result) -> list[str]:
    """Return the names of the modules that differ."""
    return [name for name, _ in result.standing.changes]


def describe(
    place: Path, examined: Sequence[Result], chosen: Sequence[Result], each: bool
) -> Iterator[str]:
    """Yield lines about the results in a folder: how many are current, and the others by reason."""
    if not examined:
        return
    current = sum(result.standing.current for result in examined)
    yield f"{place}: {len(examined)} results, {current} made by the code that is there now"
    if not chosen:
        return
    ordered = sorted(chosen, key=lambda result: (str(result.standing), result.folder))
    rows: list[list[Any]] = []
    for why, group in groupby(ordered, key=lambda result: str(result.standing)):
        members = list(group)
        total = sum((result.cost for result in members), Cost())
        rows.append([textwrap.fill(why, 60), len(members), str(total)])
        if each:
            rows += [[f"- {result.folder.name}", "", str(result.cost)] for result in members]
    total = sum((result.cost for result in chosen), Cost())
    rows.append(["together", len(chosen), str(total)])
    headings = ["modules that differ", "runs", "what training them took"]
    yield tabulate(rows, headings)


def remedy(results: Path, stale: Sequence[Path], options: Sequence[str]) -> Iterator[str]:
    """Yield the commands that train what is stale again.

    Args:
        results: folder of the results.
        stale: folders of runs, some of which are stale.
        options: of the command that lists these.
    """
    yield "To train them again:"
    yield f"  {shlex.join(['acdc', 'stale', *options])} --folders | tr '\\n' '\\0' | xargs -0 rm -r"
    for place in stale:
        if place.parent == results:
            yield f"  and what trained those in {place}"
        else:
            yield f"  make reproduce SCALE={place.parent.name} RESULTS={shlex.quote(str(results))}"
