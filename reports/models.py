"""The models of a row over its seeds: which runs are averaged, and whether a mean says anything."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from acdc.data import DATASETS
from reports import text
from reports.aggregate import FAILURES, RunRow, Status, Tables
from reports.statistics import Summary, summarise
from study.columns import Source
from study.model import Row

PERCENT = 100.0
UNPRUNED = "dense training, from before the first pruning"
AT_CHANCE = "at chance"
TWO_MODES = "two modes, the lower one"
RULES = {
    UNPRUNED: "From before the first pruning: the dense model, or the one that fine-tuning starts "
    "from, is no product of the method yet.",
    AT_CHANCE: "At chance: the odds of a right answer are below twice those of guessing.",
    TWO_MODES: "Two modes: a gap between two neighbouring seeds is wider than half of the way from "
    "guessing to the best seed.",
}
"""When a mean says nothing of a method; the same for all methods."""


@dataclass(frozen=True)
class Outcome:
    """How a run ended, as far as one of its models is concerned."""

    run: str
    seed: int
    status: Status
    reasons: tuple[str, ...] = ()
    """Why it is refused, failed or cannot be read."""
    last: RunRow | None = None
    """The model after the last epoch; None unless the run finished and is not refused."""
    best: RunRow | None = None
    """The model at the best validation score."""


@dataclass(frozen=True)
class Model:
    """One model of a row over its seeds."""

    outcomes: tuple[Outcome, ...]
    """By seed."""

    def values(self, value: Callable[[RunRow], float], which: str = "last") -> dict[int, float]:
        """Return a value of each run that finished and is not refused, by seed."""
        return {each.seed: value(getattr(each, which)) for each in self.outcomes if each.last}

    def mean(self, value: Callable[[RunRow], float], which: str = "last") -> Summary:
        """Return the mean of a value over the runs that finished, are not refused, and have it."""
        counts = Counter(outcome.status for outcome in self.outcomes)
        values = [each for each in self.values(value, which).values() if not math.isnan(each)]
        return summarise(values, **{status: counts[status] for status in text.LEFT_OUT})

    def averaged(self) -> list[RunRow]:
        """Return the records after the last epoch that enter the means."""
        return [outcome.last for outcome in self.outcomes if outcome.last]

    def of_status(self, status: Status) -> list[Outcome]:
        """Return the runs that ended in some way."""
        return [outcome for outcome in self.outcomes if outcome.status == status]

    @property
    def counts(self) -> Summary:
        """Scores, and the number of runs by status."""
        return self.mean(score)

    @property
    def reasons(self) -> list[str]:
        """Each reason for which runs are left out once, with the seeds that it concerns."""
        seeds: dict[str, list[int]] = {}
        for status in text.LEFT_OUT:
            for outcome in self.of_status(status):
                if outcome.reasons:
                    more = len(outcome.reasons) - 1
                    reason = outcome.reasons[0].rstrip(".") + (f" and {more} more" if more else "")
                    seeds.setdefault(reason, []).append(outcome.seed)
        return [f"{reason} ({text.seeds(each)})" for reason, each in seeds.items()]

    def degenerate(self, chance_counts: bool = False) -> list[str]:
        """Return why means say nothing of the method, with the seeds; empty if they do.

        Args:
            chance_counts: whether runs at chance are as good as others.
        """
        records = self.averaged()
        found = {UNPRUNED: [each.seed for each in records if each.before_pruning]}
        if not chance_counts:
            found[AT_CHANCE] = [each.seed for each in records if is_at_chance(each)]
            found[TWO_MODES] = lower_mode(records)
        return [f"{what} ({text.seeds(seeds)})" for what, seeds in found.items() if seeds]


def explain(notes: Iterable[str]) -> list[str]:
    """Return what the mark of degenerate means means, where notes say that there are any."""
    joined = " ".join(notes)
    rules = [rule for reason, rule in RULES.items() if f"{reason} (" in joined]
    return (
        [f"{text.DEGENERATE}: degenerate, no test of the method. {' '.join(rules)}"]
        if rules
        else []
    )


def score(record: RunRow) -> float:
    """Return the metric on the test split: accuracy in per cent, or perplexity."""
    return DATASETS[record.dataset].metric.of(record.test_accuracy or 0.0, record.test_loss or 0.0)


def is_at_chance(record: RunRow) -> bool:
    """Return whether a run is hardly better than guessing; see Metric.is_at_chance."""
    spec = DATASETS[record.dataset]
    return spec.metric.is_at_chance(score(record), spec.answers)


def lower_mode(records: Sequence[RunRow]) -> list[int]:
    """Return the seeds of the lower of two modes, by seed; empty if there is one mode.

    Two: the best seed is not at chance, and the widest gap between two neighbours is more than half
    of the way from guessing to the best seed.
    """
    if len(records) < 2:
        return []
    spec = DATASETS[records[0].dataset]
    ordered = sorted(records, key=score, reverse=not spec.metric.higher_is_better)
    if is_at_chance(ordered[-1]):
        return []
    gaps = [abs(score(b) - score(a)) for a, b in pairwise(ordered)]
    if max(gaps) <= abs(score(ordered[-1]) - spec.metric.guess(spec.answers)) / 2:
        return []
    return sorted(each.seed for each in ordered[: gaps.index(max(gaps)) + 1])


def models_of(row: Row, tables: Tables) -> dict[Source, Model]:
    """Return the models that a row has; none where it has no runs."""
    models: dict[Source, Model] = {}
    if row.runs:
        models["row"] = _model(row.runs, row.product, tables)
        products = {each.product for run in row.runs for each in tables.by_run[run]}
        if "dense" in products:
            models["dense"] = _model(row.runs, "dense", tables)
    if row.fine_tuned:
        models["fine_tuned"] = _model(row.fine_tuned, "dense", tables)
    return models


def _model(runs: Iterable[str], product: str, tables: Tables) -> Model:
    outcomes = (_outcome(tables.by_run[run], product) for run in runs)
    return Model(tuple(sorted(outcomes, key=lambda outcome: outcome.seed)))


def _outcome(rows: list[RunRow], product: str) -> Outcome:
    """Return how a run ended, as far as a product is concerned."""
    run, seed = rows[0].run, rows[0].seed
    if rows[0].status != "finished":
        error = rows[0].error
        return Outcome(run, seed, rows[0].status, (error,) if error else ())
    found = {row.which: row for row in rows if row.product == product}
    if not found:
        products = ", ".join(dict.fromkeys(str(row.product) for row in rows))
        return Outcome(run, seed, "missing", (f"{run} has no {product} model, only {products}",))
    failures = [
        row.certificate_failures or "" for row in found.values() if row.certificate_holds is False
    ]
    if failures:
        reasons = tuple(dict.fromkeys(FAILURES.join(failures).split(FAILURES)))
        return Outcome(run, seed, "refused", reasons)
    return Outcome(run, seed, "finished", (), found["last"], found["best"])
