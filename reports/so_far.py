"""Everything from the results that there are, for a study that is under way or has broken off."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from reports.aggregate import MISSING, read_so_far, so_far, write_tables
from reports.outputs import (
    Source,
    TableKind,
    kind_of,
    write_figure,
    write_report,
    write_statements,
    write_table,
)
from study.model import STUDY, ReportError, read_study
from theory.layout import WITHOUT_FIGURE

FOLDER = "so_far"


@dataclass(frozen=True)
class SoFar:
    """What was made, and of how much."""

    paths: tuple[Path, ...]
    count: str
    """How many of the study's runs are there."""
    problems: tuple[str, ...]
    """Why results cannot be used, and what else is damaged, a sentence each."""


def write_so_far(study: Path, within_suite: bool = False) -> SoFar:
    """Write all tables and figures and the report from the results that there are.

    What cannot be drawn yet is a figure that says why. All of it goes into a folder of its own, of
    which a suite that is at work knows nothing.

    Args:
        study: folder of the study.
        within_suite: write to where the suite has these files, for the suite itself to call when it
            makes no more of them. They are dated before the plan, from which Snakemake makes the
            same ones, so that it takes none of them for made.

    Raises:
        ReportError: there is no plan, or it is damaged.
    """
    plan = read_study(study)
    tables = read_so_far(study, plan)
    source = Source(study, plan, tables, out=None if within_suite else study / FOLDER)
    paths = write_tables(source.place, tables)
    for experiment in plan.experiments:
        if isinstance(kind_of(experiment), TableKind):
            paths += write_table(source, experiment)
        elif experiment.theory not in WITHOUT_FIGURE:
            paths += write_figure(source, experiment, excused=ReportError)
    if any(experiment.kind == "theory" for experiment in plan.experiments):
        paths += write_statements(source, strict=False)
    paths += write_report(source)
    if within_suite:
        before = (study / STUDY).stat().st_mtime_ns - 10**9
        for path in paths:
            os.utime(path, ns=(before, before))
    missing = tables.runs[tables.runs["status"] == MISSING]
    return SoFar(
        paths=tuple(paths),
        count=so_far(plan.runs, tables.runs) or f"all {len(plan.runs)} runs",
        problems=(*missing["error"].dropna(), *tables.warnings),
    )
