"""What each kind of experiment becomes: the one place to add a table or a figure to."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from acdc.files import finite, write_atomically, write_text
from reports.aggregate import Tables, read_runs
from reports.errors import NothingToDrawError
from study.model import Experiment, ReportError, Study, read_study

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from reports.cells import Table

FORMATS = ("pdf", "png", "svg")


@dataclass(frozen=True)
class Source:
    """All that a table or figure may be made from."""

    study: Path
    plan: Study
    tables: Tables
    out: Path | None = None
    """Where what is made of it goes; None is the study's folder."""

    @property
    def place(self) -> Path:
        """The folder in which the folders of tables and figures are, and the report."""
        return self.out or self.study


def source_of(study: Path, name: str) -> tuple[Source, Experiment]:
    """Return an experiment, and its own runs as they lie in the study's folder.

    Raises:
        ReportError: the plan has no such experiment, or one of its runs has no result.
    """
    plan = read_study(study)
    experiment = plan.experiment(name)
    return Source(study, plan, read_runs(study, experiment.runs)), experiment


@dataclass(frozen=True)
class TableKind:
    """A kind of experiment that is a table."""

    build: Callable[[Source, Experiment], Table]
    shape: Literal["table"] = "table"


@dataclass(frozen=True)
class FigureKind:
    """A kind of experiment that is a figure."""

    draw: Callable[[Source, Experiment], Figure]
    shape: Literal["figure"] = "figure"


# Imported when drawn: matplotlib takes longer to start than a table to make.
def _table(source: Source, experiment: Experiment) -> Table:
    from reports.cells import table_cells

    return table_cells(experiment, source.plan.scale, source.tables.runs)


def _figure(source: Source, experiment: Experiment) -> Figure:
    from reports.figures import draw

    return draw(experiment, source.plan.scale, source.tables)


def _theory(source: Source, experiment: Experiment) -> Figure:
    from reports.figures import theory
    from reports.theory import read_series, theory_of

    name = theory_of(experiment)
    return theory.draw(name, read_series(source.study, name))


KINDS: dict[str, TableKind | FigureKind] = {
    "table": TableKind(_table),
    "figure": FigureKind(_figure),
    "theory": FigureKind(_theory),
}


def kind_of(experiment: Experiment) -> TableKind | FigureKind:
    """Return what an experiment becomes.

    Raises:
        ReportError: its kind is unknown; lists those that there are.
    """
    if experiment.kind not in KINDS:
        raise ReportError(
            f"experiment {experiment.id}: kind {experiment.kind!r} is unknown; "
            f"{', '.join(KINDS)} are accepted"
        )
    return KINDS[experiment.kind]


def build_table(source: Source, experiment: Experiment) -> Table:
    """Return an experiment's cells.

    Raises:
        ReportError: the experiment is not a table.
    """
    kind = kind_of(experiment)
    if not isinstance(kind, TableKind):
        raise ReportError(f"experiment {experiment.id} of kind {experiment.kind} is not a table")
    return kind.build(source, experiment)


def draw_figure(source: Source, experiment: Experiment) -> Figure:
    """Return an experiment's figure.

    Raises:
        ReportError: the experiment is not a figure.
    """
    kind = kind_of(experiment)
    if not isinstance(kind, FigureKind):
        raise ReportError(f"experiment {experiment.id} of kind {experiment.kind} is not a figure")
    return kind.draw(source, experiment)


def write_table(source: Source, experiment: Experiment) -> list[Path]:
    """Write a table as .tex, .csv and .json into the tables folder; return the paths."""
    from reports import tables

    table = build_table(source, experiment)
    folder = source.place / "tables"
    folder.mkdir(parents=True, exist_ok=True)
    data = json.dumps(finite(tables.to_json(table)), indent=1, ensure_ascii=False) + "\n"
    texts = {"tex": tables.to_latex(table), "csv": tables.to_csv(table), "json": data}
    for form, content in texts.items():
        write_text(folder / f"{experiment.id}.{form}", content)
    return [folder / f"{experiment.id}.{form}" for form in texts]


def write_figure(
    source: Source, experiment: Experiment, excused: type[ReportError] = NothingToDrawError
) -> list[Path]:
    """Write a figure as .pdf, .png and .svg into the figures folder; return the paths.

    Args:
        source: of the figure.
        experiment: whose figure it is.
        excused: an error in place of which there is a figure that tells it. By default, that all
            runs have diverged, failed or been refused, since the report goes on without them.
    """
    from reports.figures import blank
    from reports.figures.style import close, to_bytes

    try:
        figure = draw_figure(source, experiment)
    except excused as error:
        figure = blank(experiment, source.plan.scale, source.tables, f"Not there: {error}.")
    folder = source.place / "figures"
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for form in FORMATS:
        content = to_bytes(figure, form, salt=experiment.id)
        path = folder / f"{experiment.id}.{form}"
        write_atomically(path, lambda file, content=content: file.write(content))  # type: ignore[misc]
        paths.append(path)
    close(figure)
    return paths


def write_statements(source: Source, strict: bool = True) -> list[Path]:
    """Write the table of the theory's statements as .tex, .csv and .json; return the paths.

    Args:
        source: of the statements.
        strict: refuse a table that is not whole; else it says what is missing.

    Raises:
        ReportError: strict, and there is no experiment of the theory, or the statements of one are
            missing, damaged, or have a verdict that their numbers do not give.
    """
    from reports import statements
    from reports.theory import find

    found = find(source.study, source.plan)
    if strict:
        statements.require_all(found)
    folder = source.place / "tables"
    folder.mkdir(parents=True, exist_ok=True)
    texts = {
        "tex": statements.to_latex(found),
        "csv": statements.to_csv(found),
        "json": statements.to_json(found),
    }
    for form, content in texts.items():
        write_text(folder / f"{statements.ID}.{form}", content)
    return [folder / f"{statements.ID}.{form}" for form in texts]


def write_report(source: Source) -> list[Path]:
    """Write the report's page, and its methods and theory for a paper; return the paths."""
    from reports import chapter, methods
    from reports.html import report
    from reports.theory import find

    folder = source.place / "tables"
    folder.mkdir(parents=True, exist_ok=True)
    theory = chapter.chapter(find(source.study, source.plan))
    texts = {
        folder / "methods_appendix.tex": methods.to_latex(methods.methods(source.plan)),
        folder / "theory_chapter.tex": chapter.to_latex(theory),
        source.place / "report.html": report(source),
    }
    for path, content in texts.items():
        write_text(path, content)
    return list(texts)
