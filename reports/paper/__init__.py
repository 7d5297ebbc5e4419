"""The paper's own values, with where each is known from."""

from __future__ import annotations

import csv
import functools
from dataclasses import dataclass
from pathlib import Path

from reports.plan import PaperRow, ReportError

_FILE = Path(__file__).with_name("tables.csv")


@dataclass(frozen=True)
class PaperValue:
    """One number of the paper; ``value`` is None where it is not known or not printed."""

    value: float | None
    std: float | None
    confidence: str
    source: str
    is_dash: bool = False
    """Whether the paper prints a dash."""

    @property
    def is_marked(self) -> bool:
        """Whether the number is counted, inferred from the text or from another publication."""
        return self.value is not None and self.confidence in ("secondary", "derived", "from-text")


UNKNOWN = PaperValue(None, None, "unknown", "not known")


@functools.cache
def _rows() -> tuple[dict[str, str], ...]:
    with _FILE.open(newline="", encoding="utf-8") as file:
        return tuple(csv.DictReader(file))


def paper_setting(table: str) -> str:
    """Return what a table of the paper trained, such as ``ResNet50, ImageNet``.

    Raises:
        ReportError: no such table; lists those that there are.
    """
    for row in _rows():
        if row["table"] == table:
            return f"{row['model']}, {row['dataset']}"
    known = ", ".join(sorted({row["table"] for row in _rows()}))
    raise ReportError(f"paper_table: {table!r} is unknown; {known} are accepted")


def paper_values(table: str, paper_row: PaperRow, sparsity: float) -> dict[str, PaperValue] | None:
    """Return the metrics of one row of the paper, or None if the paper has no such row.

    An empty variant stands for the method's only variant at that sparsity.

    Raises:
        ReportError: the paper's table has no such method or variant at any sparsity, or
            several variants at this one of which none is named.
    """
    method, variant = paper_row.method, paper_row.variant
    rows = [row for row in _rows() if row["table"] == table and row["method"] == method]
    if not rows:
        known = ", ".join(sorted({row["method"] for row in _rows() if row["table"] == table}))
        raise ReportError(
            f"paper: table {table} of the paper has no method {method!r}; {known} are accepted"
        )
    variants = sorted({row["variant"] for row in rows})
    here = [row for row in rows if abs(float(row["sparsity_pct"]) - 100 * sparsity) < 1e-6]
    if variant:
        is_clear = variant in variants
        here = [row for row in here if row["variant"] == variant]
    else:
        is_clear = len({row["variant"] for row in here}) <= 1
    if not is_clear:
        raise ReportError(
            f"paper: {method} at {100 * sparsity:g} % has no one row of variant "
            f"{variant!r} in table {table} of the paper; {', '.join(variants)} are accepted"
        )
    return {row["metric"]: _value(row) for row in here} or None


def _value(row: dict[str, str]) -> PaperValue:
    is_dash = row["value"] == "-"
    known = bool(row["value"]) and not is_dash
    return PaperValue(
        value=float(row["value"]) if known else None,
        std=float(row["std"]) if row["std"] else None,
        confidence=row["confidence"],
        source=row["source"],
        is_dash=is_dash,
    )
