"""The files of a study's tables, figures and report, written from the results that exist."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from pathlib import Path

from acdc.files import write_bytes
from reports.source import Source, build_table, draw_figure
from study.model import Experiment, ReportError
from theory.layout import WITHOUT_FIGURE

FORMATS = ("pdf", "png", "svg")


def write_runs(source: Source) -> list[Path]:
    """Write the tidy tables of runs, epochs and events as parquet and CSV."""
    contents: dict[str, str | bytes] = {}
    for name in ("runs", "epochs", "events"):
        frame = getattr(source.tables, name)
        buffer = io.BytesIO()
        frame.to_parquet(buffer, index=False)
        contents[f"{name}.parquet"] = buffer.getvalue()
        contents[f"{name}.csv"] = frame.to_csv(index=False, lineterminator="\n")
    return _write(source.out / "tables", contents)


def write_table(source: Source, experiment: Experiment) -> list[Path]:
    """Write a table as .tex, .csv and .json into the folder ``tables``.

    Raises:
        ReportError: the experiment is not a table.
    """
    from reports import export, typeset

    table = build_table(source, experiment)
    contents = {
        f"{experiment.id}.tex": typeset.to_latex(table),
        f"{experiment.id}.csv": export.to_csv(table),
        f"{experiment.id}.json": export.to_json(table),
    }
    return _write(source.out / "tables", contents)


def write_figure(source: Source, experiment: Experiment) -> list[Path]:
    """Write a figure as .pdf, .png and .svg into the folder ``figures``.

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
    """Write the table of the theory's statements as .tex, .csv and .json.

    Raises:
        ReportError: the study has no experiment of the theory.
    """
    from reports import statements
    from reports.theory import find

    found = find(source.folder, source.study)
    if not found:
        raise ReportError("the study has no experiment of the theory")
    contents = {
        f"{statements.ID}.tex": statements.to_latex(found),
        f"{statements.ID}.csv": statements.to_csv(found),
        f"{statements.ID}.json": statements.to_json(found),
    }
    return _write(source.out / "tables", contents)


def write_report(source: Source) -> list[Path]:
    """Write the report's page and the verdicts on the claims; for a paper, methods and theory."""
    from reports import chapter, claims
    from reports.encoding import render_latex
    from reports.html import methods, report
    from reports.theory import find

    judged = claims.judge(claims.read_claims(), source.study, source.tables)
    theory = chapter.chapter(find(source.folder, source.study))
    parts = {
        "claims.tex": claims.to_latex(judged),
        "claims.csv": claims.to_csv(judged),
        "methods_appendix.tex": render_latex("methods.tex.j2", methods=methods(source.study)),
        "theory_chapter.tex": chapter.to_latex(theory),
    }
    return [
        *_write(source.out / "tables", parts),
        *_write(source.out, {"report.html": report(source, judged)}),
    ]


def write_all(source: Source) -> Iterable[Path]:
    """Write all tables and figures and the report; yield the paths."""
    yield from write_runs(source)
    for experiment in source.study.experiments:
        if experiment.kind == "table":
            yield from write_table(source, experiment)
        elif experiment.theory not in WITHOUT_FIGURE:
            yield from write_figure(source, experiment)
    if source.study.theory:
        yield from write_statements(source)
    yield from write_report(source)


def _write(folder: Path, contents: Mapping[str, str | bytes]) -> list[Path]:
    """Write files into a folder, and return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        write_bytes(folder / name, content.encode() if isinstance(content, str) else content)
    return [folder / name for name in contents]
