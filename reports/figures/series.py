"""What a plot shows: rows of the plan with their runs, and means of what these recorded."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby

import pandas as pd

from reports.aggregate import Tables
from reports.cells import Cells, no_result, row_cells
from reports.errors import NothingToDrawError
from reports.figures.style import Look
from reports.statistics import Summary
from reports.text import percent
from study.model import Experiment, ReportError, Row


@dataclass(frozen=True)
class Series:
    """One row of a panel, with the records of those of its runs that are averaged."""

    row: Row
    look: Look
    cells: Cells
    runs: pd.DataFrame
    """One record a run, of the row's product after its last epoch, by run."""
    epochs: pd.DataFrame
    events: pd.DataFrame

    @property
    def is_dense(self) -> bool:
        """Whether it is dense training."""
        return self.row.method == "dense"

    @property
    def label(self) -> str:
        """What a curve is called in the legend."""
        return (
            self.row.label if self.is_dense else f"{self.row.label}, {percent(self.row.sparsity)}"
        )

    @property
    def top1(self) -> float:
        """Test accuracy in per cent."""
        return _mean(self.cells.top1)

    @property
    def cost(self) -> float:
        """Training FLOPs, 1 for dense training for the task's epochs."""
        return _mean(self.cells.training_ratio)

    @property
    def phases(self) -> tuple[tuple[str, int, int], ...]:
        """Name, first epoch and the one after the last of each phase, the same at all seeds."""
        mine = self.epochs[self.epochs["run"] == self.runs.index[0]].sort_values("epoch")
        pairs = zip(mine["epoch"].astype(int), mine["phase"], strict=True)
        groups = [(name, [epoch for epoch, _ in g]) for name, g in groupby(pairs, lambda p: p[1])]
        return tuple((name, epochs[0], epochs[-1] + 1) for name, epochs in groups)


@dataclass(frozen=True)
class Panel:
    """What one plot of an experiment's figure is drawn from."""

    experiment: str
    plot: str
    series: tuple[Series, ...]

    @property
    def sparse(self) -> tuple[Series, ...]:
        """The series that are not dense training.

        Raises:
            NothingToDrawError: there is none.
        """
        found = tuple(each for each in self.series if not each.is_dense)
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
        found = {each.phases for each in self.series if not each.is_dense}
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


def gather(experiment: Experiment, row: Row, look: Look, tables: Tables) -> Series | None:
    """Return the series of a row; None where none of its runs is averaged.

    What a run did before it diverged is not averaged, nor anything that a refused run did.
    """
    cells = row_cells(experiment, row, tables.runs)
    if cells.top1.mean is None:
        return None
    last = cells.models["row"].last.set_index("run")
    return Series(
        row=row,
        look=look,
        cells=cells,
        runs=last,
        epochs=tables.epochs[tables.epochs["run"].isin(last.index)],
        events=tables.events[tables.events["run"].isin(last.index)],
    )


def notes(experiment: Experiment, runs: pd.DataFrame) -> list[str]:
    """Return sentences on which rows and runs a figure leaves out, and why."""
    rows = [row_cells(experiment, row, runs) for row in dict.fromkeys(experiment.all_rows)]
    found: list[str] = []
    for cells in rows:
        found += () if cells.is_awaited else cells.notes
        if not cells.row.runs:
            found.append(f"{cells.row.label} at {percent(cells.row.sparsity)}: not trained.")
    return list(dict.fromkeys([*found, *no_result(rows)]))


def means(x: pd.Series[int], y: pd.Series[float]) -> pd.DataFrame:
    """Return mean and spread (standard deviation over seeds, 0 for one) of y at each x."""
    groups = y.groupby(x)
    return pd.DataFrame({"mean": groups.mean(), "spread": groups.std().fillna(0.0)})


def _mean(summary: Summary) -> float:
    assert summary.mean is not None
    return summary.mean
