"""The cells of a table: each row of the plan against the tidy table of runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import pandas as pd

from reports.aggregate import FAILURES, MISSING, so_far
from reports.statistics import Summary, summarise
from reports.text import LEFT_OUT, NO_ROW, NOT_YET, left_out, percent
from study.columns import COLUMNS, Source
from study.model import Experiment, ReportError, Row, Scale
from study.paper import PaperValue, paper_metrics, paper_setting, paper_values

PERCENT = 100.0

_USUAL = ("diverged", "refused")
"""What every table counts of the runs that it leaves out."""

_SOURCES: dict[Source, str] = {
    "row": "",
    "dense": ", dense model,",
    "fine_tuned": ", fine-tuned dense model,",
}
"""How the notes call the models of a row."""

_MEASURES: dict[str, Callable[[pd.DataFrame], pd.Series[float]]] = {
    **dict.fromkeys(
        ("top1", "dense_top1", "dense_ft_top1", "companion_top1"),
        lambda last: PERCENT * last["test_accuracy"],
    ),
    **dict.fromkeys(
        ("inference_ratio", "dense_inference_ratio"), lambda last: last["inference_ratio"]
    ),
    "training_ratio": lambda last: last["training_flops"] / last["dense_task_flops"],
    "published_ratio": lambda last: last["training_flops_published"] / last["dense_task_flops"],
    **dict.fromkeys(
        ("zero_weights", "zero_weights_ft"), lambda last: PERCENT * last["sparsity_achieved"]
    ),
    "dead_filters": lambda last: last["dead_filters"],
}
"""By column, what is averaged of the last records of the column's model."""

FLOPS = {
    "inference_ratio": "inference_flops",
    "training_ratio": "training_flops",
    "published_ratio": "training_flops_published",
}
"""By column, the absolute FLOPs of which it is the ratio to dense."""

_PAPER_FLOPS = {
    "inference_ratio": ("inference_gflops", "G", 1e9),
    "training_ratio": ("train_eflops", "E", 1e18),
}
"""By column, the paper's absolute FLOPs of the dense row, and their unit."""


@dataclass(frozen=True)
class PaperFlops:
    """Absolute FLOPs that the paper has of a dense row."""

    value: PaperValue
    """In FLOPs with the prefix."""
    prefix: str
    flops: float


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
class Unmeasured:
    """A run that has failed, or is missing."""

    run: str
    seed: int
    error: str
    """What it failed by, or why its result cannot be used; empty where there is none yet."""


@dataclass(frozen=True)
class Model:
    """What is measured of one of a row's models, over its runs."""

    counts: Summary
    """Of accuracies; for how many runs are averaged, and how many are not."""
    refusals: tuple[Refusal, ...]
    failed: tuple[Unmeasured, ...]
    missing: tuple[Unmeasured, ...]
    last: pd.DataFrame = field(compare=False, repr=False)
    """The last records of the runs that are averaged, by seed."""

    def summary(self, values: Iterable[float]) -> Summary:
        """Return the mean of numbers of the runs that are averaged."""
        numbers = [float(value) for value in values]
        return summarise(numbers, **{name: getattr(self.counts, name) for name in LEFT_OUT})

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why runs are refused, have failed or cannot be read, and at which seeds."""
        return (
            *(refusal.reason for refusal in self.refusals),
            *_by_error(self.failed),
            *_by_error(run for run in self.missing if run.error),
        )


@dataclass(frozen=True)
class Cells:
    """One line of a table. Accuracies and achieved sparsity in per cent, FLOPs ratios of dense."""

    row: Row
    columns: tuple[str, ...]
    """What the table shows."""
    models: Mapping[Source, Model]
    """Those that the row has; none where it has no runs."""
    top1_best: Summary
    """Test accuracy of the product's epoch with the best validation accuracy."""
    published_formula: str
    paper: Mapping[str, PaperValue] | None
    """The paper's row by metric; None where the paper has no such row."""

    def ours(self, column: str) -> Summary | None:
        """Return the mean of a column over the row's runs; None where it has no such model."""
        model = self.models.get(COLUMNS[column].source)
        if model is None or column not in _MEASURES:
            return None
        return model.summary(_MEASURES[column](model.last))

    def flops(self, column: str) -> Summary:
        """Return the absolute FLOPs of which a column is the ratio."""
        return self._of_row(FLOPS[column])

    def absence(self, column: str) -> str:
        """Return what stands in a column of ours that has no mean; nothing where it has one."""
        if self.row.method is None:
            return NO_ROW
        if COLUMNS[column].awaits or not self.row.runs:
            return NOT_YET
        summary = self.ours(column)
        if summary is None or summary.is_awaited:
            return NO_ROW
        return left_out(summary) if summary.mean is None else ""

    def paper_value(self, column: str) -> PaperValue | None:
        """Return the paper's number of a column; None where the paper has none there."""
        metrics = COLUMNS[column].metrics
        return (
            next((self.paper[m] for m in metrics if m in self.paper), None) if self.paper else None
        )

    def paper_flops(self, column: str) -> PaperFlops | None:
        """Return the paper's absolute FLOPs of a dense row, where it has them."""
        if not self.is_dense or column not in _PAPER_FLOPS or not self.paper:
            return None
        metric, prefix, unit = _PAPER_FLOPS[column]
        value = self.paper.get(metric)
        if value is None or value.value is None:
            return None
        return PaperFlops(value, prefix, value.value * unit)

    @property
    def paper_sparsity(self) -> float | None:
        """The sparsity of the paper's row; None where it has no such row."""
        return self.row.paper.sparsity if self.row.paper and self.paper else None

    @property
    def counts(self) -> Summary:
        """Of accuracies of the first model that the table shows; for how many runs that are."""
        return self.models[self._shown[0]].counts if self._shown else _NOTHING

    @property
    def runs(self) -> tuple[str, ...]:
        """The runs of the first model that the table shows."""
        return self.row.fine_tuned if self._shown[:1] == ("fine_tuned",) else self.row.runs

    @property
    def top1(self) -> Summary:
        """Test accuracy of the product after the last epoch."""
        return self.models["row"].counts if self.models else _NOTHING

    @property
    def sparsity(self) -> Summary:
        """Weights that are zero, of all prunable ones."""
        return self._of_row("sparsity_achieved", PERCENT)

    @property
    def pruned(self) -> Summary:
        """Weights that the masks prune, of the layers that are not exempt."""
        return self._of_row("sparsity_pruned", PERCENT)

    @property
    def training_ratio(self) -> Summary:
        """Training FLOPs, of those of dense training for the task's epochs."""
        return self.ours("training_ratio") or _NOTHING

    def _of_row(self, name: str, factor: float = 1) -> Summary:
        model = self.models.get("row")
        return model.summary(factor * model.last[name]) if model else _NOTHING

    @property
    def exempt(self) -> tuple[str, ...]:
        """Layers that the row's method leaves out of the sparsity."""
        if not self.models:
            return ()
        return tuple(dict.fromkeys(" ".join(self.models["row"].last["exempt"]).split()))

    @property
    def refusals(self) -> tuple[Refusal, ...]:
        """The refused runs of all models that the table shows."""
        return tuple(r for source in self._shown for r in self.models[source].refusals)

    @property
    def failed(self) -> tuple[Unmeasured, ...]:
        """The failed runs of all models that the table shows, each once."""
        return tuple(dict.fromkeys(r for source in self._shown for r in self.models[source].failed))

    @property
    def missing(self) -> tuple[Unmeasured, ...]:
        """The missing runs of all models that the table shows, each once."""
        return tuple(
            dict.fromkeys(r for source in self._shown for r in self.models[source].missing)
        )

    @property
    def notes(self) -> tuple[str, ...]:
        """Why fewer runs are averaged than there are, a sentence for each model concerned."""
        return tuple(
            f"{self.row.label}{_SOURCES[source]} at {percent(self.row.sparsity)}: "
            + ": ".join(filter(None, (left_out(model.counts), "; ".join(model.reasons))))
            + "."
            for source in self._shown
            for model in (self.models[source],)
            # Runs that diverged are missing from both products, and said so once.
            if not model.counts.is_whole
            and (model.refusals or source != "dense" or "row" not in self._shown)
        )

    @property
    def is_awaited(self) -> bool:
        """Whether there are runs, none of which has left a result, not even a damaged one."""
        shown = [self.models[source] for source in self._shown]
        return (
            bool(shown)
            and all(model.counts.is_awaited for model in shown)
            and not any(run.error for run in self.missing)
        )

    @property
    def _shown(self) -> tuple[Source, ...]:
        """The models that the table shows; the row's own where it has none of these."""
        sources: list[Source] = [COLUMNS[column].source for column in self.columns]
        if self.row.product == "dense":
            sources = ["row" if source == "dense" else source for source in sources]
        found = tuple(source for source in self.models if source in sources)
        return found or tuple(source for source in self.models if source == "row")

    @property
    def is_dense(self) -> bool:
        """Whether this is the dense baseline, whose FLOPs are given in absolute units."""
        return self.row.method == "dense"


_NOTHING = Summary(None, None, 0)


def _by_error(runs: Iterable[Unmeasured]) -> list[str]:
    """Return each error once, with the seeds that it came at."""
    seeds: dict[str, list[str]] = {}
    for run in runs:
        seeds.setdefault(run.error.rstrip("."), []).append(str(run.seed))
    return [
        f"{error} (seed{'s' if len(each) > 1 else ''} {', '.join(each)})"
        for error, each in seeds.items()
    ]


def no_result(rows: Iterable[Cells]) -> list[str]:
    """Return one sentence on the rows that are still without any result, if there are any."""
    awaited = dict.fromkeys(
        f"{cells.row.label} at {percent(cells.row.sparsity)}" for cells in rows if cells.is_awaited
    )
    return [f"No result so far: {', '.join(awaited)}."] if awaited else []


@dataclass(frozen=True)
class Table:
    """A table before it is typeset."""

    experiment: Experiment
    scale: Scale
    rows: tuple[Cells, ...]
    so_far: str = ""
    """How many of its runs are there, where some are missing."""

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of its columns."""
        return self.experiment.columns

    @property
    def shows_own(self) -> bool:
        """Whether any column is of the rows' own products, whose sparsity then stands beside."""
        return any(COLUMNS[column].source == "row" for column in self.columns)

    @property
    def paper_tables(self) -> tuple[str, ...]:
        """The paper's tables whose values stand beside ours."""
        tables = {cells.row.paper.table for cells in self.rows if cells.row.paper}
        return tuple(sorted(tables, key=lambda table: (not table.isdigit(), len(table), table)))

    @property
    def paper_columns(self) -> tuple[str, ...]:
        """The columns of which those tables have any number."""
        there = paper_metrics(self.paper_tables)
        return tuple(c for c in self.columns if there.intersection(COLUMNS[c].metrics))

    @property
    def paper_setting(self) -> str:
        """What the paper trained; empty where its tables have no such values."""
        return paper_setting(self.paper_tables)

    @property
    def notes(self) -> tuple[str, ...]:
        """What is missing from the means, and why."""
        found = (note for cells in self.rows if not cells.is_awaited for note in cells.notes)
        return (*found, *no_result(self.rows))

    @property
    def left_out(self) -> tuple[str, ...]:
        """What can have become of runs that are not averaged: more than usual only where it has."""
        counts = [model.counts for cells in self.rows for model in cells.models.values()]
        return tuple(
            name
            for name in LEFT_OUT
            if name in _USUAL or any(getattr(summary, name) for summary in counts)
        )

    @property
    def citations(self) -> tuple[str, ...]:
        """Where the cited values are from, a sentence for each label and publication."""
        found: dict[str, dict[str, dict[str, None]]] = {}
        for cells in self.rows:
            by = f": {cells.row.paper.cites}" if cells.row.paper and cells.row.paper.cites else ""
            for column in self.paper_columns:
                value = cells.paper_value(column)
                if value is not None and value.mark == "‡":
                    sources = found.setdefault(f"{cells.row.label}{by}", {})
                    sources.setdefault(value.source, {})[percent(cells.row.sparsity)] = None
        return tuple(
            f"{who}: "
            + "; ".join(f"{source} ({', '.join(where)})" for source, where in sources.items())
            + "."
            for who, sources in found.items()
        )

    @property
    def nearby(self) -> tuple[str, ...]:
        """The rows that stand beside one of the paper at another sparsity, and at which."""
        return tuple(
            f"{cells.row.label}, {percent(cells.row.sparsity)} (at {percent(theirs)})"
            for cells in self.rows
            for theirs in (cells.paper_sparsity,)
            if theirs is not None and theirs != cells.row.sparsity
        )

    @property
    def missing(self) -> tuple[str, ...]:
        """What is not there yet, and what it waits for."""
        found = []
        waits: dict[str, list[str]] = {}
        for column in self.columns:
            awaits = COLUMNS[column].awaits
            if awaits:
                waits.setdefault(awaits, []).append(COLUMNS[column].heading)
        found += [f"{' and '.join(names)}: {awaits}" for awaits, names in waits.items()]
        if self.experiment.awaits and self.experiment.awaits not in waits:
            found.append(self.experiment.awaits)
        empty = dict.fromkeys(
            f"{cells.row.label} at {percent(cells.row.sparsity)}"
            for cells in self.rows
            if cells.row.method is not None and not cells.row.runs
        )
        if empty and not found:
            found.append(f"no runs at this scale: {', '.join(empty)}")
        return tuple(found)

    @property
    def seeds(self) -> tuple[int, int]:
        """Fewest and most runs of a row that has any, those that are not averaged included."""
        counts = [cells.counts.runs for cells in self.rows if cells.counts.runs]
        return min(counts, default=0), max(counts, default=0)


def table_cells(experiment: Experiment, scale: Scale, runs: pd.DataFrame) -> Table:
    """Return the cells of all rows of an experiment.

    Raises:
        ReportError: the experiment has no rows, or the runs lack a row's product.
    """
    if not experiment.rows:
        raise ReportError(f"experiment {experiment.id} of kind {experiment.kind} has no rows")
    rows = tuple(row_cells(experiment, row, runs) for row in experiment.rows)
    return Table(experiment, scale, rows, so_far(experiment.runs, runs))


def row_cells(experiment: Experiment, row: Row, runs: pd.DataFrame) -> Cells:
    """Return one row's cells from its runs.

    Raises:
        ReportError: a run has finished without the row's product.
    """
    models: dict[Source, Model] = {}
    best, formula = _NOTHING, ""
    if row.runs:
        mine = runs[runs["run"].isin(row.runs)]
        _check(mine, row.runs, row.product)
        models["row"] = _model(row, mine, row.product)
        best = models["row"].summary(
            PERCENT * _admitted(mine, row.product, "best")["test_accuracy"]
        )
        formula = next(iter(mine["published_formula"].dropna()), "")
        if (mine["product"] == "dense").any():
            models["dense"] = _model(row, mine, "dense")
    if row.fine_tuned:
        tuned = runs[runs["run"].isin(row.fine_tuned)]
        _check(tuned, row.fine_tuned, "dense")
        models["fine_tuned"] = _model(row, tuned, "dense")
    paper = (paper_values(row.paper) or None) if row.paper else None
    return Cells(row, experiment.columns, models, best, formula, paper)


def _model(row: Row, runs: pd.DataFrame, product: str) -> Model:
    refusals = refused(runs, product)
    last = _admitted(runs, product, "last")
    epochs = row.task.epochs if row.task else row.epochs
    last = last.assign(dense_task_flops=last["dense_training_flops"] / last["epochs"] * epochs)
    failed, missing = _unmeasured(runs, "failed"), _unmeasured(runs, MISSING)
    counts = summarise(
        [PERCENT * float(value) for value in last["test_accuracy"]],
        diverged=runs.loc[runs["status"] == "diverged", "run"].nunique(),
        refused=len(refusals),
        failed=len(failed),
        missing=len(missing),
    )
    return Model(counts, refusals, failed, missing, last)


def _unmeasured(runs: pd.DataFrame, status: str) -> tuple[Unmeasured, ...]:
    """Return the runs of a status, by seed."""
    found = runs[runs["status"] == status].sort_values("seed")
    errors = found["error"].fillna("")
    return tuple(
        Unmeasured(str(run), int(seed), str(error))
        for run, seed, error in zip(found["run"], found["seed"], errors, strict=True)
    )


def _check(runs: pd.DataFrame, names: Iterable[str], product: str) -> None:
    """Raise a ReportError if a run has finished without both records of a product."""
    unfinished = set(runs.loc[runs["status"] != "finished", "run"])
    for which in ("last", "best"):
        chosen = runs[(runs["product"] == product) & (runs["which"] == which)]
        for run in names:
            if run not in unfinished and not (chosen["run"] == run).any():
                there = sorted(set(runs.loc[runs["run"] == run, "product"].dropna()))
                raise ReportError(
                    f"run {run} has no {product} model ({which}); "
                    f"it has {', '.join(there) or 'none'}"
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
