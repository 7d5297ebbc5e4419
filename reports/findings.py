"""What the runs of a table say about its methods, computed and worded alike for every method."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from reports.cells import Cells, Table, by_seed
from reports.plan import Row
from reports.statistics import Summary, paired_difference
from reports.text import mean_and_std, percent

_REFERENCE = "acdc"


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
        if interval is None:
            return "one pair only"
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
    """Return one finding a task and sparsity: the range of means, and AC/DC minus every other row.

    Rows without runs are left out.
    """
    rows = [cells for cells in table.rows if cells.row.runs]
    found = []
    for task in dict.fromkeys(cells.row.task for cells in rows):
        of_task = [cells for cells in rows if cells.row.task == task]
        dense = next((cells for cells in of_task if cells.is_dense), None)
        sparse = [cells for cells in of_task if not cells.is_dense]
        for sparsity in sorted({cells.row.sparsity for cells in sparse}):
            here = [cells for cells in sparse if cells.row.sparsity == sparsity]
            found.append(_finding(sparsity, here, dense, runs))
    return tuple(found)


def _finding(
    sparsity: float, rows: list[Cells], dense: Cells | None, runs: pd.DataFrame
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
    reference = next((cells.row for cells in sparse if cells.row.method == _REFERENCE), None)
    if reference is None:
        return Finding(sparsity, tuple(sentences), ())
    compared = (*sparse, *([dense] if dense else []))
    others = [cells.row for cells in compared if cells.row != reference]
    return Finding(
        sparsity, tuple(sentences), tuple(_difference(reference, row, runs) for row in others)
    )


def _difference(reference: Row, other: Row, runs: pd.DataFrame) -> Difference:
    summary = paired_difference(by_seed(runs, reference), by_seed(runs, other))
    return Difference(reference.label, other.label, summary)
