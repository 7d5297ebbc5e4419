"""The command line of the reports; each command is one step of the workflow."""

from __future__ import annotations

from pathlib import Path

import click

from acdc.cli import CONTEXT

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
    """


@cli.command("aggregate")
@_results
def aggregate_command(study: Path) -> None:
    """Gather every run's result and journal into tables/runs, epochs and events."""
    from reports.aggregate import aggregate, write_tables
    from reports.plan import read_plan

    tables = aggregate(study, read_plan(study))
    _say(write_tables(study, tables))


@cli.command("table")
@click.argument("name", metavar="ID")
@_results
def table_command(name: str, study: Path) -> None:
    """Write one table as LaTeX, CSV and JSON."""
    from reports.outputs import source_of, write_table

    _say(write_table(*source_of(study, name)))


@cli.command("figure")
@click.argument("name", metavar="ID")
@_results
def figure_command(name: str, study: Path) -> None:
    """Draw one figure as PDF, PNG and SVG."""
    from reports.outputs import source_of, write_figure

    _say(write_figure(*source_of(study, name)))


@cli.command("report")
@_results
def report_command(study: Path) -> None:
    """Write the whole study as one self-contained page, and its methods for a paper's appendix."""
    from acdc.files import write_text
    from reports.aggregate import read_tables
    from reports.html import report
    from reports.methods import methods, to_latex
    from reports.outputs import Source
    from reports.plan import read_plan

    source = Source(study, read_plan(study), read_tables(study))
    page, appendix = study / "report.html", study / "tables" / "methods_appendix.tex"
    write_text(appendix, to_latex(methods(source.plan)))
    write_text(page, report(source))
    _say([appendix, page])


def _say(paths: list[Path]) -> None:
    for path in paths:
        click.echo(path)
