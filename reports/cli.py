"""The command line of the reports; each command is one step of the workflow.

All of them use the results that exist. A run that is missing, failed, refused or diverged is
counted, not averaged.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import click

from acdc.console import CONTEXT

_folder = click.Path(file_okay=False, path_type=Path)
_results = click.option(
    "--results",
    "folder",
    type=_folder,
    required=True,
    help="Folder of the study, such as results/smoke.",
)
_out = click.option("--out", type=_folder, help="Folder to write to, instead of the study's.")


@click.group(context_settings=CONTEXT)
def cli() -> None:
    """Turn the runs of a study into tables, figures and one report.

    A table or figure reads its own runs only. Runs without a result count as missing; each output
    says how many of its runs exist.
    """


@cli.command("aggregate")
@_results
def aggregate_command(folder: Path) -> None:
    """Write every run's result and journal to tables/runs, epochs and events."""
    from reports.aggregate import write_tables
    from reports.source import open_study

    source = open_study(folder)
    _print(write_tables(folder, source.tables), folder, source.tables.problems)


@cli.command("table")
@click.argument("name", metavar="ID")
@_results
def table_command(name: str, folder: Path) -> None:
    """Write one table as LaTeX, CSV and JSON."""
    from reports.outputs import write_table
    from reports.source import open_study

    source = open_study(folder, experiment=name)
    paths = write_table(source, source.study.experiment(name))
    _print(paths, folder, source.tables.problems)


@cli.command("figure")
@click.argument("name", metavar="ID")
@_results
def figure_command(name: str, folder: Path) -> None:
    """Draw one figure as PDF, PNG and SVG."""
    from reports.outputs import write_figure
    from reports.source import open_study

    source = open_study(folder, experiment=name)
    paths = write_figure(source, source.study.experiment(name))
    _print(paths, folder, source.tables.problems)


@cli.command("statements")
@_results
def statements_command(folder: Path) -> None:
    """Write the table of the theory's statements and verdicts as LaTeX, CSV and JSON."""
    from reports.aggregate import Tables
    from reports.outputs import write_statements
    from reports.source import Source
    from study.model import read_study

    _print(write_statements(Source(folder, read_study(folder), Tables(()), folder)))


@cli.command("report")
@_results
def report_command(folder: Path) -> None:
    """Write the study as one self-contained page, its methods and theory also as LaTeX."""
    from reports.outputs import write_report
    from reports.source import open_study

    source = open_study(folder)
    _print(write_report(source), folder, source.tables.problems)


@cli.command("all")
@_results
@_out
def all_command(folder: Path, out: Path | None) -> None:
    """Write all tables, all figures and the report."""
    from reports.outputs import write_all
    from reports.source import open_study

    source = open_study(folder, out)
    _print(write_all(source), folder, source.tables.problems)
    runs = source.study.runs
    click.echo(source.tables.progress(runs) or f"all {len(runs)} runs", err=True)


def _print(paths: Iterable[Path], folder: Path | None = None, problems: Iterable[str] = ()) -> None:
    """Print the paths that were written, and warn of files that cannot be read."""
    for path in paths:
        click.echo(path)
    for problem in problems:
        click.echo(f"warning: {folder}: {problem}", err=True)
