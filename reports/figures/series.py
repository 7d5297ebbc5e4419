"""The data of a plot: rows of an experiment with their runs, and means of what these recorded."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby
from typing import get_args

import pandas as pd

from reports import text
from reports.aggregate import Tables
from reports.cells import Line, line_of, remarks, value_of
from reports.figures.style import Look, words
from reports.models import explain, score
from reports.statistics import Summary
from reports.text import DEGENERATE, percent
from study import columns
from study.model import Experiment, ReportError, Row

POINTS = ("accuracy_by_flops", "step_speedup", "flips")
CURVES = tuple(plot for plot in get_args(columns.Plot) if plot not in POINTS)
"""Plots of journals."""


class NothingToDrawError(ReportError):
    """None of the runs that a plot shows can be averaged."""


@dataclass(frozen=True)
class Series:
    """One row of a panel, with the journals of those of its runs that are averaged."""

    row: Row
    look: Look
    line: Line
    runs: list[str]
    """The runs that are averaged, by seed."""
    epochs: pd.DataFrame
    events: pd.DataFrame

    @property
    def label(self) -> str:
        """Name of a curve in the legend."""
        sparsity = self.line.own_sparsity
        sparsity = f"{sparsity} %" if sparsity else percent(self.row.sparsity)
        mark = f" {DEGENERATE}" if self.line.degenerate else ""
        return words(self.row.label + ("" if self.line.is_dense else f", {sparsity}") + mark)

    @property
    def seeds(self) -> list[tuple[float, float]]:
        """Cost and top1 of each run."""
        cost = value_of(columns.COLUMNS["training_ratio"], self.row)
        return [(cost(record), score(record)) for record in self.line.records]

    @property
    def top1(self) -> float:
        """Test accuracy in per cent."""
        return _mean(self.line.top1)

    @property
    def cost(self) -> float:
        """Training FLOPs, 1 for dense training for the task's epochs."""
        return _mean(self.line.training_ratio)

    @property
    def phases(self) -> tuple[tuple[str, int, int], ...]:
        """Name, first epoch and the one after the last of each phase, the same at all seeds."""
        mine = self.epochs[self.epochs["run"] == self.runs[0]].sort_values("epoch")
        pairs = zip(mine["epoch"].astype(int), mine["phase"], strict=True)
        groups = [(name, [epoch for epoch, _ in g]) for name, g in groupby(pairs, lambda p: p[1])]
        return tuple((name, epochs[0], epochs[-1] + 1) for name, epochs in groups)


@dataclass(frozen=True)
class Panel:
    """The data of one plot of an experiment's figure."""

    experiment: str
    plot: str
    series: tuple[Series, ...]

    @property
    def sparse(self) -> tuple[Series, ...]:
        """The series that are not dense training.

        Raises:
            NothingToDrawError: there is none.
        """
        found = tuple(each for each in self.series if not each.line.is_dense)
        if not found:
            raise NothingToDrawError(
                f"experiment {self.experiment}: {self.plot} has no run of a sparse method to draw"
            )
        return found

    @property
    def last(self) -> int:
        """Epochs of the longest run."""
        return max(each.row.epochs for each in self.series)

    @property
    def sparse_phases(self) -> list[tuple[int, int]]:
        """Half-open ranges of epochs in sparse phases, none where the series do not agree."""
        found = {each.phases for each in self.series if not each.line.is_dense}
        if len(found) != 1:
            return []
        return [(first, end) for name, first, end in found.pop() if name == "sparse"]

    def recorded(self, records: pd.DataFrame, column: str, runs: Iterable[str]) -> pd.DataFrame:
        """Return the records that have a value in a column.

        Raises:
            ReportError: a run has none.
        """
        found = records[records[column].notna()] if column in records else records.iloc[:0]
        for run in runs:
            if not (found["run"] == run).any():
                raise ReportError(
                    f"experiment {self.experiment}: the journal of run {run} has no {column}, "
                    f"which {self.plot} shows"
                )
        return found


def series_of(row: Row, look: Look, tables: Tables, plot: str) -> Series | None:
    """Return the series of a row; None where no run can be shown in a plot."""
    line = line_of(row, (), tables)
    runs = _with_journal(line, tables) if plot in CURVES else [each.run for each in line.records]
    if not runs:
        return None
    epochs, events = tables.epochs, tables.events
    return Series(
        row, look, line, runs, epochs[epochs["run"].isin(runs)], events[events["run"].isin(runs)]
    )


def _with_journal(line: Line, tables: Tables) -> list[str]:
    """Return the runs that are averaged and have a whole journal."""
    known = set(tables.epochs["run"])
    return [record.run for record in line.records if record.run in known]


def notes(experiment: Experiment, tables: Tables) -> list[str]:
    """Return sentences on the rows and runs that a figure leaves out, and why."""
    lines = [line_of(row, (), tables) for row in dict.fromkeys(experiment.all_rows)]
    curves = {row for panel in experiment.panels if panel.plot in CURVES for row in panel.rows}
    found = remarks(lines, tables, experiment.runs)
    for line in lines:
        if not line.row.runs:
            found.append(f"{line.where}: not trained.")
        without = {each.run for each in line.records} - set(_with_journal(line, tables))
        seeds = [each.seed for each in line.records if each.run in without]
        if seeds and line.row in curves:
            found.append(f"{line.where}: no curve of {text.seeds(seeds)}: no whole journal.")
    return list(dict.fromkeys([*found, *explain(found)]))


def means(x: pd.Series[int], y: pd.Series[float]) -> pd.DataFrame:
    """Return mean and spread (standard deviation over seeds, 0 for one) of y at each x."""
    groups = y.groupby(x)
    return pd.DataFrame({"mean": groups.mean(), "spread": groups.std().fillna(0.0)})


def _mean(summary: Summary) -> float:
    assert summary.mean is not None
    return summary.mean
