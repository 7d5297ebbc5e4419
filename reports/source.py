"""A study with its results, and the tables and figures that are made of it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from reports.aggregate import Tables, read_runs
from study.model import Experiment, ReportError, Study, read_study

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from reports.tables import Table


@dataclass(frozen=True)
class Source:
    """A study and the results of its runs."""

    folder: Path
    study: Study
    tables: Tables
    out: Path
    """Folder of the folders ``tables`` and ``figures`` and of report.html."""


def open_study(
    folder: Path, out: Path | None = None, experiments: Collection[str] | None = None
) -> Source:
    """Read a study and the results of its runs, or of those that some experiments show.

    Raises:
        ReportError: the study cannot be read, or has no such experiment.
    """
    study = read_study(folder)
    runs = study.runs
    if experiments is not None:
        runs = {run: runs[run] for name in experiments for run in study.experiment(name).runs}
    return Source(folder, study, read_runs(folder, runs), out or folder)


def build_table(source: Source, experiment: Experiment) -> Table:
    """Return an experiment's table.

    Raises:
        ReportError: the experiment is not a table.
    """
    from reports.tables import table_of

    if experiment.kind != "table":
        raise ReportError(f"experiment {experiment.id} of kind {experiment.kind} is not a table")
    return table_of(experiment, source.study.scale, source.tables)


def draw_figure(source: Source, experiment: Experiment) -> Figure:
    """Return an experiment's figure.

    Raises:
        ReportError: there is nothing to draw.
    """
    # Importing matplotlib takes longer than making a table.
    if experiment.theory is not None:
        from reports.figures import theory
        from reports.theory import read_series

        return theory.draw(experiment.theory, read_series(source.folder, experiment))
    from reports.figures import draw

    return draw(experiment, source.study.scale, source.tables)
