"""The mean over the seeds of a cell, from what is mirrored of its runs."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

STATUSES = ("finished", "diverged", "failed", "running")
LAST = "_last/"
AVERAGED = ("test_accuracy", "inference_flops")
"""What is averaged of the last epoch of each product."""
TRAINING = "flops/training"


class Child(NamedTuple):
    """A mirrored run of one seed."""

    tags: Mapping[str, str]
    metrics: Mapping[str, float]
    ended_ms: int

    @property
    def products(self) -> set[str]:
        """The products that it has finished with."""
        if self.tags.get("status") != "finished":
            return set()
        return {key.partition(LAST)[0] for key in self.metrics if LAST in key}

    def is_refused(self, product: str) -> bool:
        """Return whether a certificate of a product does not hold."""
        return f"refused.{product}" in self.tags


@dataclass(frozen=True)
class Cell:
    """Runs that differ in their seed alone."""

    metrics: dict[str, float]
    """Counts of seeds, and by quantity its mean and its standard deviation (n - 1)."""
    status: str
    """*running* while a seed is, then *finished* if any seed is."""
    ended_ms: int

    @property
    def state(self) -> str:
        """MLflow's word for the status."""
        return {"running": "RUNNING", "finished": "FINISHED"}.get(self.status, "FAILED")

    @classmethod
    def of(cls, runs: Iterable[Child]) -> Cell:
        """Return the cell of the runs that are mirrored.

        As in the report, a product whose certificate does not hold enters no mean.
        """
        children = list(runs)
        counts = Counter(child.tags.get("status", "running") for child in children)
        metrics = {f"seeds/{status}": float(counts[status]) for status in STATUSES}
        primary = next((c.tags["primary"] for c in children if "primary" in c.tags), None)
        for product in sorted(set().union(*(child.products for child in children))):
            mine = [child for child in children if product in child.products]
            held = [child for child in mine if not child.is_refused(product)]
            metrics[f"{product}{LAST}n"] = float(len(held))
            metrics[f"{product}{LAST}refused"] = float(len(mine) - len(held))
            wanted = [f"{product}{LAST}{quantity}" for quantity in AVERAGED]
            for key in [*wanted, TRAINING] if product == primary else wanted:
                metrics |= dict(_summary(key, [child.metrics[key] for child in held]))
        ended = [status for status in STATUSES[:-1] if counts[status]]
        status = "running" if counts["running"] or not ended else ended[0]
        return cls(metrics, status, max((child.ended_ms for child in children), default=0))


def _summary(key: str, values: list[float]) -> Iterator[tuple[str, float]]:
    if values:
        yield f"{key}_mean", statistics.fmean(values)
    if len(values) > 1:
        yield f"{key}_std", statistics.stdev(values)
