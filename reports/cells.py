"""The cells of an accuracy table: one row of the plan against the tidy table of runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import pandas as pd

from reports.aggregate import FAILURES
from reports.paper import UNKNOWN, PaperValue, paper_setting, paper_values
from reports.plan import Experiment, ReportError, Row, Scale
from reports.statistics import Summary, summarise
from reports.text import left_out, percent

PERCENT = 100.0
# The paper shows the dense models that go with these tables in a table of their own.
_SPARSE_ONLY = ("1", "2", "3")


@dataclass(frozen=True)
class Refusal:
    """A run that enters no mean, since a certificate of its product does not hold."""

    run: str
    seed: int
    reasons: tuple[str, ...]

    @property
    def reason(self) -> str:
        """The first reason, and how many more there are."""
        more = f" and {len(self.reasons) - 1} more" if len(self.reasons) > 1 else ""
        return f"{self.reasons[0]}{more} (seed {self.seed})"


@dataclass(frozen=True)
class Cells:
    """One line of a table. Accuracies and achieved sparsity in per cent, FLOPs ratios of dense."""

    row: Row
    sparsity: Summary
    """Weights that are zero, of all prunable ones."""
    pruned: Summary
    """Weights that the masks prune, of the layers that are not exempt: those it was asked of."""
    exempt: tuple[str, ...]
    """Layers that the row's method leaves out of the sparsity."""
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
    """By the paper's accounting."""
    training_ratio: Summary
    """Of dense training for the task's epochs, also where the row's runs are longer."""
    published_flops: Summary
    """Training FLOPs by the formula that the method's own publication counts with."""
    published_ratio: Summary
    published_formula: str
    refusals: tuple[Refusal, ...]
    dense_refusals: tuple[Refusal, ...]
    """The same of the dense product."""
    paper: Mapping[str, PaperValue] | None
    """The paper's row by metric; None where the paper has no such row."""

    @property
    def notes(self) -> tuple[str, ...]:
        """Why fewer runs are averaged than there are, a sentence for each product concerned."""
        return tuple(
            f"{self.row.label}{of} at {percent(self.row.sparsity)}: {left_out(summary)}"
            + (f": {'; '.join(refusal.reason for refusal in refusals)}." if refusals else ".")
            for of, summary, refusals in (
                ("", self.top1, self.refusals),
                (", dense model,", self.dense_top1, self.dense_refusals),
            )
            # Runs that diverged are missing from both products, and said so once.
            if summary and not summary.is_whole and (refusals or not of)
        )

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
    def notes(self) -> tuple[str, ...]:
        """What is missing from the means, and why."""
        return tuple(note for cells in self.rows for note in cells.notes)

    @property
    def seeds(self) -> tuple[int, int]:
        """Fewest and most runs of a row, those that are not averaged included."""
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
    refusals = refused(mine, row.product)
    last = _records(mine, row, "last")
    best = _records(mine, row, "best")
    diverged = mine.loc[mine["status"] == "diverged", "run"].nunique()
    dense_training = last["dense_training_flops"] / last["epochs"] * experiment.needed_task().epochs

    def summary(values: Iterable[float], refused: int = len(refusals)) -> Summary:
        return summarise([float(value) for value in values], diverged, refused)

    dense_top1 = None
    dense_refusals: tuple[Refusal, ...] = ()
    if row.product == "sparse" and (mine["product"] == "dense").any():
        dense_refusals = refused(mine, "dense")
        dense = _admitted(mine, "dense", "last")
        dense_top1 = summary(PERCENT * dense["test_accuracy"], len(dense_refusals))
    table = row.paper and (row.paper.table or experiment.paper_table)
    return Cells(
        row=row,
        sparsity=summary(PERCENT * last["sparsity_achieved"]),
        pruned=summary(PERCENT * last["sparsity_pruned"]),
        exempt=tuple(dict.fromkeys(" ".join(last["exempt"]).split())),
        top1=summary(PERCENT * last["test_accuracy"]),
        top1_best=summary(PERCENT * best["test_accuracy"]),
        dense_top1=dense_top1,
        inference_flops=summary(last["inference_flops"]),
        inference_ratio=summary(last["inference_ratio"]),
        training_flops=summary(last["training_flops"]),
        training_ratio=summary(last["training_flops"] / dense_training),
        published_flops=summary(last["training_flops_published"]),
        published_ratio=summary(last["training_flops_published"] / dense_training),
        published_formula=str(mine["published_formula"].iloc[0]),
        refusals=refusals,
        dense_refusals=dense_refusals,
        paper=paper_values(table, row.paper, row.sparsity) if row.paper and table else None,
    )


def refused(runs: pd.DataFrame, product: str) -> tuple[Refusal, ...]:
    """Return the runs of which a record of a product has no certificate that holds, by seed."""
    failing = runs[(runs["product"] == product) & ~runs["certificate_holds"].fillna(True)]
    return tuple(
        Refusal(
            str(run),
            int(records["seed"].iloc[0]),
            tuple(dict.fromkeys(FAILURES.join(records["certificate_failures"]).split(FAILURES))),
        )
        for run, records in failing.sort_values("seed").groupby("run", sort=False)
    )


def _admitted(runs: pd.DataFrame, product: str, which: str) -> pd.DataFrame:
    """Return one record a run, by seed, of those runs that finished and are not refused."""
    out = [refusal.run for refusal in refused(runs, product)]
    chosen = runs[(runs["product"] == product) & (runs["which"] == which)]
    return chosen[~chosen["run"].isin(out)].sort_values("seed")


def _records(runs: pd.DataFrame, row: Row, which: str) -> pd.DataFrame:
    """Return the admitted records of a row's product.

    Raises:
        ReportError: a run has neither diverged nor such a record.
    """
    chosen = runs[(runs["product"] == row.product) & (runs["which"] == which)]
    diverged = set(runs.loc[runs["status"] == "diverged", "run"])
    for run in row.runs:
        if run not in diverged and not (chosen["run"] == run).any():
            there = sorted(set(runs.loc[runs["run"] == run, "product"].dropna()))
            raise ReportError(
                f"run {run} has no {row.product} model ({which}); "
                f"it has {', '.join(there) or 'none'}"
            )
    return _admitted(runs, row.product, which)


def averaged(runs: pd.DataFrame, row: Row) -> list[str]:
    """Return the runs of a row that finished and are not refused."""
    return list(_admitted(runs[runs["run"].isin(row.runs)], row.product, "last")["run"])


def by_seed(runs: pd.DataFrame, row: Row) -> dict[int, float]:
    """Return the last test accuracy, per cent, of each averaged run of a row by seed."""
    mine = _admitted(runs[runs["run"].isin(row.runs)], row.product, "last")
    return dict(
        zip(
            (int(seed) for seed in mine["seed"]),
            (PERCENT * float(accuracy) for accuracy in mine["test_accuracy"]),
            strict=True,
        )
    )
