"""The command line of the reports; each command is one step of the workflow.

All of them use the results that exist. A run that is missing, failed, refused or diverged is
counted, not averaged.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from acdc.console import CONTEXT

if TYPE_CHECKING:
    from reports.source import Source

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
    from reports.source import open_study

    source = open_study(folder, out, experiments)
    for path in write(source):
        click.echo(path)
    for problem in source.tables.problems:
        click.echo(f"warning: {folder}: {problem}", err=True)
    return source


@cli.command("aggregate")
@_results
def aggregate_command(folder: Path) -> None:
    """Write every run's result and journal to tables/runs, epochs and events."""
    from reports.outputs import write_runs

    _write(folder, write_runs)


@cli.command("table")
@_id
@_results
def table_command(name: str, folder: Path) -> None:
    """Write one table as LaTeX, CSV and JSON."""
    from reports.outputs import write_table

    _write(
        folder,
        lambda source: write_table(source, source.study.experiment(name)),
        experiments=(name,),
    )


@cli.command("figure")
@_id
@_results
def figure_command(name: str, folder: Path) -> None:
    """Draw one figure as PDF, PNG and SVG."""
    from reports.outputs import write_figure

    _write(
        folder,
        lambda source: write_figure(source, source.study.experiment(name)),
        experiments=(name,),
    )


@cli.command("statements")
@_results
def statements_command(folder: Path) -> None:
    """Write the table of the theory's statements and verdicts as LaTeX, CSV and JSON."""
    from reports.outputs import write_statements

    _write(folder, write_statements, experiments=())


@cli.command("report")
@_results
def report_command(folder: Path) -> None:
    """Write the study as one self-contained page, its methods and theory also as LaTeX."""
    from reports.outputs import write_report

    _write(folder, write_report)


@cli.command("all")
@_results
@_out
def all_command(folder: Path, out: Path | None) -> None:
    """Write all tables, all figures and the report."""
    from reports.outputs import write_all

    source = _write(folder, write_all, out=out)
    runs = source.study.runs
    click.echo(source.tables.progress(runs) or f"all {len(runs)} runs", err=True)
