"""What claims are about: a quantity of a row, such as ``top1 of AC/DC at 90 %``, by seed."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from functools import partial
from statistics import fmean
from typing import TYPE_CHECKING, Any

import pandas as pd
from scipy.stats import kendalltau

from reports import text
from reports.aggregate import RunRow, Tables
from reports.cells import value_of
from reports.models import models_of
from study.columns import COLUMNS, Column
from study.model import Row, Study

if TYPE_CHECKING:
    from pandas.api.typing import SeriesGroupBy

OTHERS = "every other method"
MARGIN = 1.5
"""Points by which a sparsity that is an outcome may miss the row's; the paper's rows of STR miss
theirs by up to 1.27."""
_BOTH_MODELS = Column("FLOPs", "fine_tuned", "ratio", (), "training_flops", "dense_training_flops")
_COLUMNS = {**COLUMNS, "co_training_ratio": _BOTH_MODELS}
_TERM = re.compile(
    r"(?P<name>\w+) of (?P<label>.+?)(?: at (?P<sparsity>[\d.]+) %)?(?: in (?P<experiment>\w+))?"
)


def find_rows(term: str, experiment: str, study: Study) -> tuple[str, list[Row]]:
    """Return the name in a term of an experiment's claim, and the rows that it is about.

    Raises:
        ValueError: it is not NAME of ROW at SPARSITY % in ID, or there is no such name.
    """
    found = _TERM.fullmatch(term)
    if not found or found["name"] not in {*_COLUMNS, *STATISTICS}:
        raise ValueError(f"claims.yaml: {term!r} is no quantity")
    sparsity, label = float(found["sparsity"] or 0) / 100, found["label"]
    place = found["experiment"] or experiment
    rows = [row for each in study.experiments if each.id == place for row in each.all_rows]
    return found["name"], [
        row for row in rows if math.isclose(row.sparsity, sparsity) and label in (row.label, OTHERS)
    ]


def others(term: str, than: str, experiment: str, study: Study) -> list[str]:
    """Return a term about OTHERS as one per row that has runs, without the method of ``than``.

    Any other term is returned as it is.
    """
    if OTHERS not in term:
        return [term]
    ours = {row.method for row in find_rows(than, experiment, study)[1]}
    theirs = find_rows(term, experiment, study)[1]
    labels = {row.label: None for row in theirs if row.runs and row.method not in ours}
    return [term.replace(OTHERS, label) for label in labels]


def measure(
    quantity: str, experiment: str, study: Study, tables: Tables, chance_counts: bool = False
) -> tuple[dict[int, float], str]:
    """Return a term, or the ratio ``A / B`` of two, by seed, and why it is no test, else empty.

    Args:
        quantity: as written in a claim.
        experiment: of the claim.
        study: with the rows.
        tables: their runs.
        chance_counts: whether runs at chance are a test.
    """
    if " / " in quantity:
        (ours, problem), (theirs, other) = (
            measure(term, experiment, study, tables, chance_counts)
            for term in quantity.split(" / ")
        )
        common = ours.keys() & theirs.keys()
        return {seed: ours[seed] / theirs[seed] for seed in common}, problem or other
    name, rows = find_rows(quantity, experiment, study)
    column, where = _COLUMNS.get(name), quantity.partition(" of ")[2]
    if column and column.awaits:
        return {}, f"needs {column.awaits}"
    if not rows or not rows[0].runs:
        return {}, f"{where}: not trained at this scale"
    models = models_of(rows[0], tables)
    model, own = models.get(column.source if column else "row"), models["row"]
    if not model or not model.averaged():
        return {}, f"{where}: no run to average ({text.left_out((model or own).counts)})"
    if column:
        values = model.values(value_of(column, rows[0]))
    else:
        values = {each.seed: _statistic(name, each, tables) for each in model.averaged()}
    undefined = [seed for seed, value in values.items() if math.isnan(value)]
    problems = [f"not defined at {text.seeds(undefined)}"] if undefined else []
    for each in (own, model):
        problems += each.degenerate(chance_counts)
    zeros = [each.sparsity_pruned or 0.0 for each in own.averaged() if each.sparsity_is_outcome]
    if zeros and abs(fmean(zeros) - rows[0].sparsity) > MARGIN / 100:
        problems.append(f"its sparsity is {100 * fmean(zeros):.2f} %")
    return ({}, f"{where}: {problems[0]}") if problems else (values, "")


class Trace:
    """What a run recorded by epoch, and the layers of its model."""

    def __init__(self, record: RunRow, tables: Tables) -> None:
        epochs, events = tables.epochs, tables.events
        self.epochs = epochs[epochs["run"] == record.run].sort_values("epoch")
        mine = events[events["run"] == record.run].sort_values("epoch")
        self.mask_changes = mine["mask_change_of_kept"].dropna()
        self.kept = pd.Series([layer.kept / layer.weights for layer in tables.layers[record.run]])
        self.dense = record.dense_inference_flops or math.nan
        self.images = (record.dense_training_flops or math.nan) / record.epochs / (3 * self.dense)

    def of(self, kind: str, column: str, since: float = 0) -> SeriesGroupBy[Any, Any]:
        """Return a column in the sparse or the dense phases, grouped by phase."""
        phase = self.epochs["phase"]
        chosen = (phase == kind) & (self.epochs["epoch"] >= since)
        return self.epochs[column][chosen].groupby((phase != phase.shift()).cumsum())

    def dips(self) -> Any:
        """Return how many prunings lower the validation accuracy, in per cent."""
        accuracy, starts = self.epochs["val_accuracy"], self.of("sparse", "epoch").head(1).index
        return 100 * (accuracy < accuracy.shift())[starts].mean()

    def recoveries(self) -> Any:
        """Return how many sparse phases end at a higher accuracy than they begin, in per cent."""
        accuracy = self.of("sparse", "val_accuracy")
        return 100 * (accuracy.last() > accuracy.first()).mean()

    def sparse_flops_range(self) -> Any:
        """Return by how much the ends of sparse phases differ in inference FLOPs, smallest = 1."""
        ends = self.of("sparse", "forward_flops").last()
        return ends.max() / ends.min() - 1

    def dense_flops_fall(self) -> Any:
        """Return inference FLOPs at the end of the first dense phase minus those of the last."""
        ends = self.of("dense", "forward_flops").last()
        return (ends.iloc[0] - ends.iloc[-1]) / self.dense

    def flops_rule_error(self) -> Any:
        """Return the relative error of 3 f (sparse), 2 f + F (dense) as FLOPs of an image."""
        flops, spent = self.epochs["forward_flops"], self.epochs["train_flops"]
        rule = (3 * flops).where(self.epochs["phase"] == "sparse", 2 * flops + self.dense)
        return (spent.diff().fillna(spent) / (self.images * rule) - 1).abs().max()

    def relabelled(self, label: str, place: str) -> Any:
        """Return how many relabelled images get their given or true label, in per cent.

        Args:
            label: given or true.
            place: last: after the last epoch; last_dense: after the last dense phase; before_drop:
                before the learning rate halves; in_sparse, in_dense: at the ends of phases since.
        """
        column, epochs = f"relabelled_{label}_accuracy", self.epochs
        rates = epochs["learning_rate"]
        drop = epochs["epoch"][rates < rates.cummax() / 2].min()
        if place.startswith("in_"):
            return 100 * self.of(place.removeprefix("in_"), column, drop).last().mean()
        chosen = {"last_dense": epochs["phase"] == "dense", "before_drop": epochs["epoch"] < drop}
        return 100 * epochs[chosen.get(place, rates.notna())][column].iloc[-1]


def _trend(values: pd.Series[float]) -> float:
    """Return Kendall's tau of values and their order: 1 if each is above all before it."""
    few = len(values) < 3
    return math.nan if few else float(kendalltau(range(len(values)), values).statistic)


STATISTICS: dict[str, Callable[[Trace], Any]] = {
    "dips": Trace.dips,
    "recoveries": Trace.recoveries,
    "peak_trend": lambda trace: _trend(trace.of("sparse", "val_accuracy").max()),
    "mask_change_trend": lambda trace: _trend(trace.mask_changes),
    "mask_change_left": lambda trace: trace.mask_changes.iloc[-1] / trace.mask_changes.iloc[0],
    "sparse_flops_range": Trace.sparse_flops_range,
    "dense_flops_fall": Trace.dense_flops_fall,
    "flops_rule_error": Trace.flops_rule_error,
    "emptied_layers": lambda trace: (trace.kept == 0).sum(),
    "depth_trend": lambda trace: _trend(1 - trace.kept),
    **{
        f"{label}_{place}": partial(Trace.relabelled, label=label, place=place)
        for label in ("given", "true")
        for place in ("last", "last_dense", "before_drop", "in_sparse", "in_dense")
    },
}
"""What claims may name beside the columns of tables. Trends are Kendall's tau: of the best accuracy
of each sparse phase, of the changes of the mask, of the layers' sparsity from input to output."""


def _statistic(name: str, record: RunRow, tables: Tables) -> float:
    """Return a statistic of a run; NaN where its journal lacks what that needs."""
    try:
        return float(STATISTICS[name](Trace(record, tables)))
    except (KeyError, IndexError):
        return math.nan
