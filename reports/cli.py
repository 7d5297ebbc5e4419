"""The command line of the reports; each command is one step of the workflow.

All of them use the results that exist. A run that is missing, failed, refused or diverged is
counted, not averaged.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from pathlib import Path

import click

from acdc.console import CONTEXT
from reports import outputs
from reports.source import Source, open_study
from study.model import Experiment

_folder = click.Path(file_okay=False, path_type=Path)
_results = click.option(
    "--results",
    "folder",
    type=_folder,
    required=True,
    help="Folder of the study, such as results/smoke.",
)
_out = click.option("--out", type=_folder, help="Folder to write to, instead of the study's.")
_id = click.argument("name", metavar="ID")


@click.group(context_settings=CONTEXT)
def cli() -> None:
    """Turn the runs of a study into tables, figures and one report.

    A table or figure reads its own runs only. Runs without a result count as missing; each output
    says how many of its runs exist.
    """


def _write(
    folder: Path,
    write: Callable[[Source], Iterable[Path]],
    out: Path | None = None,
    experiments: Collection[str] | None = None,
) -> Source:
    """Open a study, write outputs, print their paths, and warn of files that cannot be read."""
    source = open_study(folder, out, experiments)
    for path in write(source):
        click.echo(path)
    for problem in source.tables.problems:
        click.echo(f"warning: {folder}: {problem}", err=True)
    return source


def _write_one(
    folder: Path, name: str, write: Callable[[Source, Experiment], Iterable[Path]]
) -> None:
    """Write one experiment's outputs, from its own runs."""
    _write(folder, lambda source: write(source, source.study.experiment(name)), None, (name,))


@cli.command("aggregate")
@_results
def aggregate_command(folder: Path) -> None:
    """Write every run's result and journal to tables/runs, epochs and events."""
    _write(folder, outputs.write_runs)


@cli.command("table")
@_id
@_results
def table_command(name: str, folder: Path) -> None:
    """Write one table as LaTeX, CSV and JSON."""
    _write_one(folder, name, outputs.write_table)


@cli.command("figure")
@_id
@_results
def figure_command(name: str, folder: Path) -> None:
    """Draw one figure as PDF, PNG and SVG."""
    _write_one(folder, name, outputs.write_figure)


@cli.command("statements")
@_results
def statements_command(folder: Path) -> None:
    """Write the table of the theory's statements and verdicts as LaTeX, CSV and JSON."""
    _write(folder, outputs.write_statements, experiments=())


@cli.command("report")
@_results
def report_command(folder: Path) -> None:
    """Write the study as one self-contained page, its methods and theory also as LaTeX."""
    _write(folder, outputs.write_report)


@cli.command("all")
@_results
@_out
def all_command(folder: Path, out: Path | None) -> None:
    """Write all tables, all figures and the report."""
    source = _write(folder, outputs.write_all, out=out)
    runs = source.study.runs
    click.echo(source.tables.progress(runs) or f"all {len(runs)} runs", err=True)
