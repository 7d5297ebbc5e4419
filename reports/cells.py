"""The cells of an accuracy table: one row of the plan against the tidy table of runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import pandas as pd

from reports.paper import UNKNOWN, PaperValue, paper_setting, paper_values
from reports.plan import Experiment, ReportError, Row, Scale
from reports.statistics import Summary, summarise

PERCENT = 100.0
# The paper shows the dense models that go with these tables in a table of their own.
_SPARSE_ONLY = ("1", "2", "3")


@dataclass(frozen=True)
class Cells:
    """One line of a table. Accuracies and achieved sparsity in per cent, FLOPs ratios of dense."""

    row: Row
    sparsity: Summary
    top1: Summary
    """Test accuracy of the product after the last epoch."""
    top1_best: Summary
    """Test accuracy of the product's epoch with the best validation accuracy."""
    dense_top1: Summary | None
    """Test accuracy of the dense product, where a sparse row's method yields one too."""
    inference_flops: Summary
    """FLOPs of one forward pass over one image."""
    inference_ratio: Summary
    training_flops: Summary
    training_ratio: Summary
    """Of dense training for the task's epochs, also where the row's runs are longer."""
    paper: Mapping[str, PaperValue] | None
    """The paper's row by metric; None where the paper has no such row."""

    @property
    def is_dense(self) -> bool:
        """Whether this is the dense baseline, whose FLOPs are given in absolute units."""
        return self.row.method == "dense"

    def paper_value(self, metric: str) -> PaperValue | None:
        """Return a number of the paper: unknown where the paper's row is there but not the number.

        Of a row that has a sparse and a dense accuracy, ``top1`` is that of the row's product.
        """
        if self.paper is None:
            return None
        if metric == "top1":
            own = f"{self.row.product}_top1"
            return self.paper.get("top1", self.paper.get(own, UNKNOWN))
        return self.paper.get(metric, UNKNOWN)


@dataclass(frozen=True)
class Table:
    """A table before it is typeset."""

    experiment: Experiment
    scale: Scale
    rows: tuple[Cells, ...]
    paper_setting: str | None
    """What the paper trained, the heading of its column; None where the paper has no such table."""

    @property
    def has_dense_product(self) -> bool:
        """Whether the table shows the dense models that some methods yield too."""
        if self.experiment.paper_table in _SPARSE_ONLY:
            return False
        return any(cells.dense_top1 is not None for cells in self.rows)

    @property
    def seeds(self) -> tuple[int, int]:
        """Fewest and most runs of a row, diverged ones included."""
        counts = [cells.top1.runs for cells in self.rows]
        return min(counts), max(counts)


def accuracy_table(experiment: Experiment, scale: Scale, runs: pd.DataFrame) -> Table:
    """Return the cells of all rows of an experiment.

    Raises:
        ReportError: the experiment has no rows or no task, or the runs lack a row's product.
    """
    if not experiment.rows:
        raise ReportError(f"experiment {experiment.id} of kind {experiment.kind} has no rows")
    table = experiment.paper_table
    return Table(
        experiment=experiment,
        scale=scale,
        rows=tuple(row_cells(experiment, row, runs) for row in experiment.rows),
        paper_setting=paper_setting(table) if table else None,
    )


def row_cells(experiment: Experiment, row: Row, runs: pd.DataFrame) -> Cells:
    """Return one row's cells from its runs."""
    mine = runs[runs["run"].isin(row.runs)]
    last = _records(mine, row, row.product, "last")
    best = _records(mine, row, row.product, "best")
    diverged = len(row.runs) - len(last)
    epochs = experiment.needed_task().epochs
    dense_training = last["dense_training_flops"] / last["epochs"] * epochs

    def summary(values: Iterable[float]) -> Summary:
        return summarise([float(value) for value in values], diverged)

    dense_top1 = None
    if row.product == "sparse":
        dense = mine[(mine["product"] == "dense") & (mine["which"] == "last")]
        if len(dense):
            dense_top1 = summary(PERCENT * dense["test_accuracy"])
    table = row.paper and (row.paper.table or experiment.paper_table)
    return Cells(
        row=row,
        sparsity=summary(PERCENT * last["sparsity_achieved"]),
        top1=summary(PERCENT * last["test_accuracy"]),
        top1_best=summary(PERCENT * best["test_accuracy"]),
        dense_top1=dense_top1,
        inference_flops=summary(last["inference_flops"]),
        inference_ratio=summary(last["inference_ratio"]),
        training_flops=summary(last["training_flops"]),
        training_ratio=summary(last["training_flops"] / dense_training),
        paper=paper_values(table, row.paper, row.sparsity) if row.paper and table else None,
    )


def _records(runs: pd.DataFrame, row: Row, product: str, which: str) -> pd.DataFrame:
    """Return one record a finished run, by seed; every run of the row is there or has diverged."""
    chosen = runs[(runs["product"] == product) & (runs["which"] == which)]
    diverged = set(runs.loc[runs["status"] == "diverged", "run"])
    for run in row.runs:
        if run not in diverged and not (chosen["run"] == run).any():
            there = sorted(set(runs.loc[runs["run"] == run, "product"].dropna()))
            raise ReportError(
                f"run {run} has no {product} model ({which}); it has {', '.join(there) or 'none'}"
            )
    return chosen.sort_values("seed")


def by_seed(runs: pd.DataFrame, row: Row) -> dict[int, float]:
    """Return the last test accuracy, per cent, of each finished run of a row by seed."""
    mine = runs[
        runs["run"].isin(row.runs) & (runs["product"] == row.product) & (runs["which"] == "last")
    ]
    return dict(
        zip(
            (int(seed) for seed in mine["seed"]),
            (PERCENT * float(accuracy) for accuracy in mine["test_accuracy"]),
            strict=True,
        )
    )
