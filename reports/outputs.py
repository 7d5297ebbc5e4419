"""The files of a study's tables, figures and report, written from the results that exist."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from acdc.files import write_bytes
from reports.aggregate import write_tables
from reports.source import Source, build_table, draw_figure
from study.model import Experiment, ReportError
from theory.layout import WITHOUT_FIGURE

FORMATS = ("pdf", "png", "svg")


def write_table(source: Source, experiment: Experiment) -> list[Path]:
    """Write a table as .tex, .csv and .json into the folder ``tables``; return the paths."""
    from reports import export, typeset

    table = build_table(source, experiment)
    return _write(
        source.out / "tables",
        {
            f"{experiment.id}.tex": typeset.to_latex(table),
            f"{experiment.id}.csv": export.to_csv(table),
            f"{experiment.id}.json": export.to_json(table),
        },
    )


def write_figure(source: Source, experiment: Experiment) -> list[Path]:
    """Write a figure as .pdf, .png and .svg into the folder ``figures``; return the paths.

    A figure that cannot be drawn is replaced by one that gives the reason.

    Raises:
        ReportError: the experiment is not a figure.
    """
    from reports.figures import blank
    from reports.figures.style import close, to_bytes

    if experiment.kind == "table":
        raise ReportError(f"experiment {experiment.id} of kind {experiment.kind} is not a figure")
    try:
        figure = draw_figure(source, experiment)
    except ReportError as error:
        figure = blank(experiment, source.study.scale, source.tables, f"Not there: {error}.")
    contents = {
        f"{experiment.id}.{form}": to_bytes(figure, form, salt=experiment.id) for form in FORMATS
    }
    close(figure)
    return _write(source.out / "figures", contents)


def write_statements(source: Source) -> list[Path]:
    """Write the table of the theory's statements as .tex, .csv and .json; return the paths.

    Raises:
        ReportError: the study has no experiment of the theory.
    """
    from reports import statements
    from reports.theory import find

    found = find(source.folder, source.study)
    if not found:
        raise ReportError("the study has no experiment of the theory")
    return _write(
        source.out / "tables",
        {
            f"{statements.ID}.tex": statements.to_latex(found),
            f"{statements.ID}.csv": statements.to_csv(found),
            f"{statements.ID}.json": statements.to_json(found),
        },
    )


def write_report(source: Source) -> list[Path]:
    """Write the report's page, and its methods and theory for a paper; return the paths."""
    from reports import chapter, methods
    from reports.html import report
    from reports.theory import find

    theory = chapter.chapter(find(source.folder, source.study))
    parts = {
        "methods_appendix.tex": methods.to_latex(methods.methods(source.study)),
        "theory_chapter.tex": chapter.to_latex(theory),
    }
    return [
        *_write(source.out / "tables", parts),
        *_write(source.out, {"report.html": report(source)}),
    ]


def write_all(source: Source) -> Iterable[Path]:
    """Write all tables and figures and the report; yield the paths."""
    yield from write_tables(source.out, source.tables)
    for experiment in source.study.experiments:
        if experiment.kind == "table":
            yield from write_table(source, experiment)
        elif experiment.theory not in WITHOUT_FIGURE:
            yield from write_figure(source, experiment)
    if any(experiment.theory for experiment in source.study.experiments):
        yield from write_statements(source)
    yield from write_report(source)


def _write(folder: Path, contents: Mapping[str, str | bytes]) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        write_bytes(folder / name, content.encode() if isinstance(content, str) else content)
    return [folder / name for name in contents]
