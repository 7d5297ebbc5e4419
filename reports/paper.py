"""The paper's number beside a cell of ours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from reports.text import NO_ROW, paper_text
from study.columns import Column
from study.model import Row
from study.paper import PaperValue


@dataclass(frozen=True)
class PaperCell:
    """The paper's number in a column."""

    value: PaperValue | None = None
    """None where the paper has none."""
    flops_value: PaperValue | None = None
    """Absolute FLOPs, in units with an SI prefix, which a dense row shows instead of the ratio."""
    flops: float | None = None
    """The same in FLOPs."""
    text: str = NO_ROW
    source: str = ""
    """How surely it is known, and from where."""

    @property
    def shown(self) -> PaperValue | None:
        """The number that is printed."""
        return self.flops_value or self.value


def paper_cell(column: Column, row: Row, paper: Mapping[str, PaperValue]) -> PaperCell:
    """Return the paper's number in a row of a column, from its values by metric."""
    value = next((paper[metric] for metric in column.metrics if metric in paper), None)
    flops, absolute, prefix = None, None, ""
    if row.method == "dense" and column.paper_flops:
        absolute = paper.get(column.paper_flops.metric)
        if absolute is None or absolute.value is None:
            absolute = None
        else:
            prefix = column.paper_flops.prefix
            flops = absolute.value * column.paper_flops.unit
    shown = absolute or value
    source = f"{shown.confidence}: {shown.source}" if shown else ""
    return PaperCell(value, absolute, flops, paper_text(shown, prefix), source)
