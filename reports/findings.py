"""What the runs of a table say about its methods, computed and worded alike for every method."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from reports.cells import Cells, Table, by_seed
from reports.statistics import Summary, paired_difference
from reports.text import mean_and_std, percent
from study.model import Row


@dataclass(frozen=True)
class Difference:
    """The reference row minus another row, paired by seed, in points of test accuracy."""

    reference: str
    other: str
    summary: Summary

    @property
    def verdict(self) -> str:
        """Whether the 95 % confidence interval leaves the sign of the difference open."""
        interval = self.summary.interval
        if self.summary.n == 0:
            return "no common seeds"
        if self.summary.n == 1:
            return "one pair only"
        if interval is None:
            return "no spread"
        if interval[0] > 0:
            return f"{self.reference} higher"
        if interval[1] < 0:
            return f"{self.other} higher"
        return "not distinguishable"


@dataclass(frozen=True)
class Finding:
    """What a table shows at one sparsity."""

    sparsity: float
    sentences: tuple[str, ...]
    differences: tuple[Difference, ...]


def findings(table: Table, runs: pd.DataFrame) -> tuple[Finding, ...]:
    """Return one finding a task and sparsity: the rows by their means, and what they differ by.

    Differences are those of the experiment's reference to every other sparse row and the dense one;
    there are none where it names no reference, or that has no runs. Rows without runs, or without
    any result so far, are left out.
    """
    rows = [cells for cells in table.rows if cells.row.runs and not cells.is_awaited]
    found = []
    for task in dict.fromkeys(cells.row.task for cells in rows):
        of_task = [cells for cells in rows if cells.row.task == task]
        dense = next((cells for cells in of_task if cells.is_dense), None)
        sparse = [cells for cells in of_task if not cells.is_dense]
        for sparsity in sorted({cells.row.sparsity for cells in sparse}):
            here = [cells for cells in sparse if cells.row.sparsity == sparsity]
            found.append(_finding(table.experiment.reference, sparsity, here, dense, runs))
    return tuple(found)


def _finding(
    reference: str | None,
    sparsity: float,
    rows: list[Cells],
    dense: Cells | None,
    runs: pd.DataFrame,
) -> Finding:
    sparse = [cells for cells in rows if cells.row.product == "sparse"]
    sentences = []
    for what, group in (
        ("test accuracy (%)", sparse),
        ("the dense models' test accuracy (%)", [c for c in rows if c not in sparse]),
    ):
        ranked = sorted(
            (cells for cells in group if cells.top1.mean is not None),
            key=lambda cells: -(cells.top1.mean or 0),
        )
        if ranked:
            means = ", ".join(f"{c.row.label} {mean_and_std(c.top1)}" for c in ranked)
            baseline = f"; dense {mean_and_std(dense.top1)}" if dense else ""
            sentences.append(
                f"At {percent(sparsity)} sparsity, {what} in descending order of the mean: "
                f"{means}{baseline}."
            )
    sentences += [note for cells in rows for note in cells.notes]
    compared = [cells.row for cells in (*sparse, *([dense] if dense else []))]
    differences = tuple(
        _difference(row, other, runs)
        for row in compared
        if row.label == reference
        for other in compared
        if other != row
    )
    return Finding(sparsity, tuple(sentences), differences)


def _difference(reference: Row, other: Row, runs: pd.DataFrame) -> Difference:
    summary = paired_difference(by_seed(runs, reference), by_seed(runs, other))
    return Difference(reference.label, other.label, summary)
