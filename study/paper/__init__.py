"""The paper's own values, with where each is known from."""

from __future__ import annotations

import csv
import functools
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from acdc.messages import allowed_values
from study.model import PaperRow, ReportError

_FILE = Path(__file__).with_name("tables.csv")

_CHECKPOINTS = "README"
"""What stands for a table's number in the rows of the models that the authors released."""


@dataclass(frozen=True)
class PaperValue:
    """One number of the paper."""

    digits: str
    """As tables.csv has it: empty where it is not known, ``-`` where the paper prints a dash."""
    std_digits: str
    confidence: str
    source: str
    is_cited: bool = False
    """Whether it is of another publication, or of a model that the authors released."""

    @property
    def is_dash(self) -> bool:
        """Whether the paper prints a dash."""
        return self.digits == "-"

    @property
    def value(self) -> float | None:
        """The number; None where it is not known or not printed."""
        return float(self.digits) if self.digits and not self.is_dash else None

    @property
    def mark(self) -> str:
        """A dagger where counted, a double dagger where cited, a dagger where inferred.

        No publication printed what is counted, also where the row cites one.
        """
        if self.value is None:
            return ""
        if self.confidence == "derived":
            return "†"
        if self.is_cited:
            return "‡"
        return "†" if self.confidence in ("secondary", "from-text") else ""


@functools.cache
def _rows() -> tuple[dict[str, str], ...]:
    with _FILE.open(newline="", encoding="utf-8") as file:
        return tuple(csv.DictReader(file))


def _of_table(table: str) -> list[dict[str, str]]:
    """Return the rows of a table.

    Raises:
        ReportError: no such table; lists those that there are.
    """
    rows = [row for row in _rows() if row["table"] == table]
    if not rows:
        known = allowed_values(table, {row["table"] for row in _rows()})
        raise ReportError(f"paper.table={table}: no such table. {known}")
    return rows


def paper_setting(tables: Iterable[str]) -> str:
    """Return what tables of the paper trained, such as ``ResNet50 and MobileNetV1 on ImageNet``.

    Raises:
        ReportError: no such table; lists those that there are.
    """
    models: dict[str, dict[str, None]] = {}
    for table in tables:
        for row in _of_table(table):
            models.setdefault(row["dataset"], {})[row["model"]] = None
    return "; ".join(f"{' and '.join(names)} on {dataset}" for dataset, names in models.items())


def paper_metrics(tables: Iterable[str]) -> frozenset[str]:
    """Return the metrics of which tables of the paper have any number.

    Raises:
        ReportError: no such table; lists those that there are.
    """
    return frozenset(row["metric"] for table in tables for row in _of_table(table))


def paper_values(paper_row: PaperRow) -> dict[str, PaperValue]:
    """Return the metrics of one row of the paper, none if it has no such row at this sparsity.

    An empty variant stands for the method's only variant at that sparsity. Where a number is not
    known, that of the model which the authors released for the same row stands in, as cited.

    Raises:
        ReportError: the paper's table has no such method or variant at any sparsity, or
            several variants at this one of which none is named.
    """
    table, method, variant = paper_row.table, paper_row.method, paper_row.variant
    rows = [row for row in _of_table(table) if row["method"] == method]
    if not rows:
        known = allowed_values(method, {row["method"] for row in _of_table(table)})
        raise ReportError(f"paper.method={method}: not in Table {table}. {known}")
    variants = list(dict.fromkeys(row["variant"] for row in rows))
    here = [row for row in rows if _is_at(row, 100 * paper_row.sparsity)]
    if variant:
        is_clear = variant in variants
        here = [row for row in here if row["variant"] == variant]
    else:
        is_clear = len({row["variant"] for row in here}) <= 1
    if not is_clear:
        raise ReportError(
            f"paper.variant={variant}: names no single row of {method} at "
            f"{100 * paper_row.sparsity:g} % in Table {table}. {allowed_values(variant, variants)}"
        )
    cited = bool(paper_row.cites)
    return {row["metric"]: _known(row) or _value(row, cited) for row in here}


def _is_at(row: dict[str, str], percent: float) -> bool:
    return abs(float(row["sparsity_pct"]) - percent) < 1e-6


def _known(row: dict[str, str]) -> PaperValue | None:
    """Return the number of the released model that stands in for one that is not known."""
    if row["confidence"] != "unknown":
        return None
    metric = row["metric"].removeprefix("sparse_")
    for other in _rows():
        if (
            other["table"] == _CHECKPOINTS
            and other["metric"] == metric
            and all(other[key] == row[key] for key in ("model", "dataset", "method", "variant"))
            and _is_at(other, float(row["sparsity_pct"]))
        ):
            return _value(other, is_cited=True)
    return None


def _value(row: dict[str, str], is_cited: bool) -> PaperValue:
    return PaperValue(row["value"], row["std"], row["confidence"], row["source"], is_cited)
