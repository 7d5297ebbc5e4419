"""The lines of a table: what the runs of each row measured, as plain values.

A line is computed once, by ``line_of``. LaTeX, CSV, JSON and HTML print what it holds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from reports import text
from reports.aggregate import RunRow, Tables
from reports.models import PERCENT, Model, models_of, score
from reports.paper import PaperCell, paper_cell
from reports.statistics import NOTHING, Summary
from study.columns import COLUMNS, Column, Source
from study.model import Row
from study.paper import PaperValue, paper_values

_MODELS: dict[Source, str] = {
    "row": "",
    "dense": ", dense model,",
    "fine_tuned": ", fine-tuned dense model,",
}
"""How notes call the models of a row."""


@dataclass(frozen=True)
class Cell:
    """A value of ours, and the paper's beside it."""

    summary: Summary
    """Mean, spread and number of runs by status; mean None where no run can be averaged."""
    text: str
    """As printed: mean and spread, the dense row's absolute FLOPs, or the reason for no number."""
    degenerate: str
    """Why the mean says nothing of the method, and is marked; empty if it does."""
    is_number: bool
    """Whether the text is a number without a unit."""
    absent: str
    """The text if there is no mean, else empty."""
    flops: Summary | None
    """The absolute FLOPs of which the column is a ratio."""
    note: str
    """A remark for readers who point at the cell: absolute FLOPs, why it is degenerate."""
    paper: PaperCell


@dataclass(frozen=True)
class Line:
    """One line of a table. Accuracies and sparsity in per cent, FLOPs relative to dense."""

    row: Row
    cells: Mapping[str, Cell]
    """By column."""
    counts: Summary
    """Accuracies of the first model that the table shows, and its number of runs by status."""
    runs: tuple[str, ...]
    """The runs of that model."""
    notes: tuple[str, ...]
    """Why runs are left out, and why means are degenerate: sentences, by model."""
    degenerate: str
    """Why the accuracy of the row's own product says nothing of the method; empty if it does."""
    is_awaited: bool
    """Whether none of the runs has left a result, not even a damaged one."""
    top1: Summary
    top1_best: Summary
    """At the epoch with the best validation accuracy."""
    training_ratio: Summary
    zeros: Summary
    """Weights that are zero, of all prunable ones."""
    pruned: Summary
    """Weights that the masks prune, of the layers that are not exempt."""
    exempt: tuple[str, ...]
    """Layers that the method leaves out of the sparsity."""
    published_formula: str
    paper_sparsity: float | None
    """Sparsity of the paper's row; None where the paper has no such row."""
    records: tuple[RunRow, ...]
    """The records of the row's own product that enter the means, by seed."""

    @property
    def is_dense(self) -> bool:
        """Whether this is the dense baseline, whose FLOPs are given in absolute units."""
        return self.row.method == "dense"

    @property
    def where(self) -> str:
        """Label and sparsity, such as ``AC/DC at 90 %``."""
        return f"{self.row.label} at {text.percent(self.row.sparsity)}"

    @property
    def own_sparsity(self) -> str:
        """Per cent, such as ``81.30 ± 0.40``, where it is an outcome of the method; else empty."""
        is_outcome = any(record.sparsity_is_outcome for record in self.records)
        return text.mean_and_std(self.pruned) if is_outcome else ""

    @property
    def scores(self) -> dict[int, float]:
        """Test accuracy or perplexity of each averaged run, by seed."""
        return {record.seed: score(record) for record in self.records}


def line_of(row: Row, columns: tuple[str, ...], tables: Tables) -> Line:
    """Return one row's line.

    Args:
        row: of an experiment.
        columns: names of the table's columns; none for a row of a figure.
        tables: the runs, of which only the row's own are used.
    """
    models = models_of(row, tables)
    shown = _shown(row, columns, models)
    own = models.get("row", Model(()))
    paper = (paper_values(row.paper) or None) if row.paper else None
    records = tuple(own.averaged())
    exempt = " ".join(record.exempt or "" for record in records)
    formulas = (each.published_formula for run in row.runs for each in tables.by_run[run])
    formula = next(filter(None, formulas), "")
    return Line(
        row=row,
        cells={name: _cell(name, row, models, formula, paper or {}) for name in columns},
        counts=models[shown[0]].counts if shown else NOTHING,
        runs=row.fine_tuned if shown[:1] == ("fine_tuned",) else row.runs,
        notes=tuple(_notes(row, shown, models)),
        degenerate="; ".join(own.degenerate()),
        is_awaited=bool(shown)
        and all(
            each.status == "missing" and not each.reasons
            for source in shown
            for each in models[source].outcomes
        ),
        top1=own.counts,
        top1_best=own.mean(score, "best"),
        training_ratio=_mean(COLUMNS["training_ratio"], row, models),
        zeros=own.mean(lambda record: PERCENT * _number(record, "sparsity_achieved")),
        pruned=own.mean(lambda record: PERCENT * _number(record, "sparsity_pruned")),
        exempt=tuple(dict.fromkeys(exempt.split())),
        published_formula=formula,
        paper_sparsity=row.paper.sparsity if row.paper and paper else None,
        records=records,
    )


def _shown(
    row: Row, columns: tuple[str, ...], models: Mapping[Source, Model]
) -> tuple[Source, ...]:
    """Return the models that a table shows; the row's own where it has none of these."""
    sources: list[Source] = [COLUMNS[name].source for name in columns]
    if row.product == "dense":
        sources = ["row" if source == "dense" else source for source in sources]
    found = tuple(source for source in models if source in sources)
    return found or tuple(source for source in models if source == "row")


def _notes(row: Row, shown: tuple[Source, ...], models: Mapping[Source, Model]) -> Iterable[str]:
    for source in shown:
        model = models[source]
        where = f"{row.label}{_MODELS[source]} at {text.percent(row.sparsity)}"
        # A run that diverged lacks both products, and is noted once.
        repeated = source == "dense" and "row" in shown and not model.of_status("refused")
        if not model.counts.is_whole and not repeated:
            parts = [text.left_out(model.counts), "; ".join(model.reasons)]
            yield ": ".join(filter(None, (where, *parts))) + "."
        if degenerate := model.degenerate():
            yield f"{text.DEGENERATE} {where}: {'; '.join(degenerate)}."


def _number(record: RunRow, field: str) -> float:
    return float(getattr(record, field))


def _mean(column: Column, row: Row, models: Mapping[Source, Model]) -> Summary:
    """Return the mean of a column over a row's runs; no runs where it has no such model."""
    if column.field is None or column.source not in models:
        return NOTHING
    return models[column.source].mean(value_of(column, row))


def value_of(column: Column, row: Row) -> Callable[[RunRow], float]:
    """Return the function of a run's record that a column shows of a row; one with a field."""

    def value(record: RunRow) -> float:
        if column.optional and getattr(record, str(column.field)) is None:
            return math.nan
        number = _number(record, str(column.field))
        if column.over:
            whole = _number(record, column.over)
            # Rows that train longer are compared with dense training for the task's epochs.
            is_training = column.over in ("dense_training_flops", "epochs")
            number /= whole / record.epochs * row.task.epochs if is_training else whole
        return PERCENT * number if column.form == "percent" else number

    return value


def _cell(
    name: str,
    row: Row,
    models: Mapping[Source, Model],
    formula: str,
    paper: Mapping[str, PaperValue],
) -> Cell:
    """Return a row's cell in a column."""
    column = COLUMNS[name]
    summary = _mean(column, row, models)
    flops, note, absolute = None, "", ""
    if column.absolute:
        field = column.absolute
        flops = models["row"].mean(lambda r: _number(r, field)) if "row" in models else NOTHING
        if flops.mean is not None:
            note = text.quantity(flops.mean, "FLOPs")
            note += f": {formula}" if name == "published_ratio" else ""
            absolute = " ".join(text.engineering(flops.mean)) if row.method == "dense" else ""
    absent = _absent(column, row, summary)
    if absent or absolute:
        shown = absent or absolute
    elif column.form == "ratio":
        shown = f"{summary.mean:.{text.DIGITS[column.form]}f}"
    else:
        shown = text.mean_and_std(summary, text.DIGITS[column.form])
    model = models.get(column.source, Model(()))
    degenerate = "; ".join(model.degenerate())
    return Cell(
        summary=summary,
        text=f"{shown} {text.DEGENERATE}" if degenerate else shown,
        degenerate=degenerate,
        is_number=not (absent or absolute),
        absent=absent,
        flops=flops,
        note="; ".join(filter(None, (note, degenerate))),
        paper=paper_cell(column, row, paper),
    )


def _absent(column: Column, row: Row, summary: Summary) -> str:
    """Return what stands in a cell that has no mean; empty where it has one."""
    if row.method is None:
        return text.NO_ROW
    if column.awaits or not row.runs:
        return text.NOT_YET
    if not summary.runs or summary.is_awaited:
        return text.NO_ROW
    return text.left_out(summary) or text.NO_ROW if summary.mean is None else ""


def remarks(lines: Iterable[Line], tables: Tables, runs: Iterable[str]) -> list[str]:
    """Return sentences on what lines of some runs leave out, and on what to know of the rest."""
    lines = list(lines)
    awaited = dict.fromkeys(line.where for line in lines if line.is_awaited)
    return [
        *(note for line in lines if not line.is_awaited for note in line.notes),
        *([f"No result so far: {', '.join(awaited)}."] if awaited else []),
        *tables.mixture(runs),
    ]
