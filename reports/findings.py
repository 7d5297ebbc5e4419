"""Paired differences of a table's methods, computed and worded alike for each."""

from __future__ import annotations

from dataclasses import dataclass

from acdc.data import DATASETS
from acdc.metrics import Metric
from reports.statistics import Summary, paired_difference
from reports.tables import Table
from reports.text import DEGENERATE


@dataclass(frozen=True)
class Difference:
    """The reference row minus another row in test accuracy or perplexity, paired by seed."""

    reference: str
    other: str
    summary: Summary
    metric: Metric
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
        if interval[0] <= 0 <= interval[1]:
            return "not distinguishable"
        wins = (interval[0] > 0) == self.metric.higher_is_better
        return f"{self.reference if wins else self.other} better"


@dataclass(frozen=True)
class Finding:
    """What a table shows at one sparsity."""

    sparsity: float
    measure: str
    """What the differences are of."""
    differences: tuple[Difference, ...]


def findings(table: Table) -> list[Finding]:
    """Return how the experiment's reference differs from the others, by task and sparsity.

    The others are the sparse rows of the same sparsity, and the dense one. There is none without
    a reference. Rows without runs, or without any result so far, are left out.
    """
    lines = [line for line in table.lines if line.row.runs and not line.is_awaited]
    places = dict.fromkeys((x.row.task, x.row.sparsity) for x in lines if not x.is_dense)
    found = []
    for task, sparsity in places:
        metric = DATASETS[task.dataset].metric
        compared = [
            line
            for line in sorted(lines, key=lambda line: line.is_dense)
            if line.row.task == task
            and (line.is_dense or (line.row.sparsity, line.row.product) == (sparsity, "sparse"))
        ]
        differences = tuple(
            Difference(
                line.row.label,
                other.row.label,
                paired_difference(line.scores, other.scores),
                metric,
                bool(line.degenerate or other.degenerate),
            )
            for line in compared
            if line.row.label == table.experiment.reference
            for other in compared
            if other is not line
        )
        if differences:
            unit = "points of " if metric.unit else ""
            found.append(Finding(sparsity, f"{unit}test {metric.name}", differences))
    return found
