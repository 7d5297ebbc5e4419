"""Rankings and paired differences of a table's methods, computed and worded alike for each."""

from __future__ import annotations

from dataclasses import dataclass

from reports.cells import Line
from reports.statistics import Summary, paired_difference
from reports.tables import Table
from reports.text import DEGENERATE, mean_and_std, percent


@dataclass(frozen=True)
class Difference:
    """The reference row minus another row, paired by seed, in points of test accuracy."""

    reference: str
    other: str
    summary: Summary

    is_degenerate: bool = False
    """Whether one of the rows is, by the rules of ``reports.models``."""

    @property
    def verdict(self) -> str:
        """Whether the 95 % confidence interval leaves the sign of the difference open."""
        interval = self.summary.interval
        if self.is_degenerate and self.summary.n:
            return f"nothing: degenerate {DEGENERATE}"
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


def findings(table: Table) -> tuple[Finding, ...]:
    """Return one finding per task and sparsity: the rows by their means, and their differences.

    Differences are those of the experiment's reference to every other sparse row and the dense one;
    there are none without a reference, or if it has no runs. Rows without runs, or without any
    result so far, are left out.
    """
    lines = [line for line in table.lines if line.row.runs and not line.is_awaited]
    found = []
    for task in dict.fromkeys(line.row.task for line in lines):
        of_task = [line for line in lines if line.row.task == task]
        dense = next((line for line in of_task if line.is_dense), None)
        sparse = [line for line in of_task if not line.is_dense]
        for sparsity in sorted({line.row.sparsity for line in sparse}):
            here = [line for line in sparse if line.row.sparsity == sparsity]
            found.append(_finding(table.experiment.reference, sparsity, here, dense))
    return tuple(found)


def _named(line: Line) -> str:
    """Return a row's label and accuracy, marked, and the sparsity that none asked it for."""
    sparsity = f" ({line.own_sparsity} % sparsity)" if line.own_sparsity else ""
    mark = f" {DEGENERATE}" if line.degenerate else ""
    return f"{line.row.label}{sparsity} {mean_and_std(line.top1)}{mark}"


def _finding(
    reference: str | None, sparsity: float, lines: list[Line], dense: Line | None
) -> Finding:
    sparse = [line for line in lines if line.row.product == "sparse"]
    sentences = []
    for what, group in (
        ("test accuracy (%)", sparse),
        ("the dense models' test accuracy (%)", [line for line in lines if line not in sparse]),
    ):
        ranked = sorted(
            (line for line in group if line.top1.mean is not None),
            key=lambda line: -(line.top1.mean or 0),
        )
        if ranked:
            means = ", ".join(map(_named, ranked))
            baseline = f"; dense {mean_and_std(dense.top1)}" if dense else ""
            sentences.append(
                f"At {percent(sparsity)} sparsity, {what} in descending order of the mean: "
                f"{means}{baseline}."
            )
    sentences += [note for line in lines for note in line.notes]
    compared = [*sparse, *([dense] if dense else [])]
    differences = tuple(
        Difference(
            line.row.label,
            other.row.label,
            paired_difference(line.accuracies, other.accuracies),
            bool(line.degenerate or other.degenerate),
        )
        for line in compared
        if line.row.label == reference
        for other in compared
        if other is not line
    )
    return Finding(sparsity, tuple(sentences), differences)
