"""The command line of the reports; each command is one step of the workflow."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import click

from acdc.console import CONTEXT

_results = click.option(
    "--results",
    "study",
    type=click.Path(file_okay=False, path_type=Path),
    required=True,
    help="Folder of the study, such as results/smoke.",
)


@click.group(context_settings=CONTEXT)
def cli() -> None:
    """Turn the runs of a study into tables, figures and one report.

    A table or figure needs its own runs only; `report` needs what `aggregate` gathers of all.
    `so-far` makes all of it from the results that there are.
    """


@cli.command("aggregate")
@_results
def aggregate_command(study: Path) -> None:
    """Gather every run's result and journal into tables/runs, epochs and events."""
    from reports.aggregate import aggregate, write_tables
    from study.model import read_study

    tables = aggregate(study, read_study(study))
    _warn(study, tables.warnings)
    _say(write_tables(study, tables))


@cli.command("table")
@click.argument("name", metavar="ID")
@_results
def table_command(name: str, study: Path) -> None:
    """Write one table as LaTeX, CSV and JSON."""
    from reports.outputs import source_of, write_table

    source, experiment = source_of(study, name)
    _warn(study, source.tables.warnings)
    _say(write_table(source, experiment))


@cli.command("figure")
@click.argument("name", metavar="ID")
@_results
def figure_command(name: str, study: Path) -> None:
    """Draw one figure as PDF, PNG and SVG."""
    from reports.outputs import source_of, write_figure

    source, experiment = source_of(study, name)
    _warn(study, source.tables.warnings)
    _say(write_figure(source, experiment))


@cli.command("statements")
@_results
def statements_command(study: Path) -> None:
    """Write the table of the theory's statements and verdicts as LaTeX, CSV and JSON."""
    from reports.aggregate import read_runs
    from reports.outputs import Source, write_statements
    from study.model import read_study

    _say(write_statements(Source(study, read_study(study), read_runs(study, ()))))


@cli.command("report")
@_results
def report_command(study: Path) -> None:
    """Write the whole study as one self-contained page, its methods and theory also as LaTeX."""
    from reports.aggregate import read_tables
    from reports.outputs import Source, write_report
    from study.model import read_study

    _say(write_report(Source(study, read_study(study), read_tables(study))))


@cli.command("so-far")
@_results
@click.option(
    "--within-suite",
    is_flag=True,
    help="Write to where the suite has these files; for the suite itself, when jobs have failed.",
)
def so_far_command(study: Path, within_suite: bool) -> None:
    """Write all tables and figures and the report from the results that there are.

    They go into the folder so_far of the study, also while a suite is at work in it. Each says how
    many of its runs are there. Results that cannot be used are named, and count as missing.
    """
    from reports.so_far import write_so_far

    made = write_so_far(study, within_suite)
    _say(made.paths)
    _warn(study, made.problems)
    click.echo(made.count, err=True)


def _warn(study: Path, problems: Iterable[str]) -> None:
    for problem in problems:
        click.echo(f"warning: {study}: {problem}", err=True)


def _say(paths: Iterable[Path]) -> None:
    for path in paths:
        click.echo(path)
