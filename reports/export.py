"""A table as CSV and JSON, unrounded."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from acdc.files import finite
from reports import text
from reports.cells import Line
from reports.statistics import Summary
from reports.tables import Table
from study.columns import COLUMNS, SCORES
from study.paper import PaperValue


def csv_text(columns: Sequence[str], lines: Iterable[Mapping[str, Any]]) -> str:
    """Return lines as CSV; None is an empty cell."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return buffer.getvalue()


def json_text(data: Mapping[str, Any]) -> str:
    """Return data as JSON; numbers that are not finite are null."""
    return json.dumps(finite(data), indent=1, ensure_ascii=False) + "\n"


def to_csv(table: Table) -> str:
    """Return the cells in full precision, one line per row."""
    lines = [_flat(table, line) for line in table.lines]
    return csv_text(list(lines[0]), lines)


def _flat(table: Table, line: Line) -> dict[str, Any]:
    flat: dict[str, Any] = {
        "label": line.row.label,
        "method": line.row.method,
        "product": line.row.product,
        "sparsity_requested_pct": 100 * line.row.sparsity,
        "n": line.counts.n,
        **{name: getattr(line.counts, name) for name in text.LEFT_OUT},
        "notes": " ".join(line.notes),
        "exempt": " ".join(line.exempt),
    }
    for name, summary in _summaries(table, line).items():
        low, high = summary.interval or (None, None)
        flat |= {f"{name}_mean": summary.mean, f"{name}_std": summary.std}
        flat |= {f"{name}_ci95_low": low, f"{name}_ci95_high": high}
    flat |= {f"{name}_absent": cell.absent for name, cell in line.cells.items()}
    flat |= {f"{name}_degenerate": cell.degenerate for name, cell in line.cells.items()}
    for name in table.paper_columns:
        cell = line.cells[name].paper
        known = cell.value is not None and cell.value.value is not None
        flat[f"paper_{name}"] = (
            cell.value.digits if cell.value and known else text.paper_text(cell.value)
        )
        flat |= _origin(f"paper_{name}", cell.value)
        if absolute := COLUMNS[name].absolute:
            flat[f"paper_{absolute}"] = cell.flops
            flat |= _origin(f"paper_{absolute}", cell.flops_value)
    sparsity = line.paper_sparsity
    # Rounded to what a study can ask for, so that 0.9023 is not 90.22999999999999.
    flat["paper_sparsity_pct"] = None if sparsity is None else round(100 * sparsity, 9)
    flat["cites"] = line.row.paper.cites if line.row.paper else ""
    flat["published_formula"] = line.published_formula
    flat["runs"] = " ".join((*line.row.runs, *line.row.fine_tuned))
    return flat


def _origin(name: str, value: PaperValue | None) -> dict[str, str]:
    """Return the spread and mark of a number of the paper, and where it is known from."""
    return {
        f"{name}_std": value.std_digits if value else "",
        f"{name}_mark": value.mark if value else "",
        f"{name}_confidence": value.confidence if value else "",
        f"{name}_source": value.source if value else "",
    }


def _summaries(table: Table, line: Line) -> dict[str, Summary]:
    """Return what is averaged, by name with its unit, in the order of the columns."""
    found = {}
    if table.shows_own:
        found["sparsity_achieved_pct"] = line.zeros
        found["sparsity_pruned_layers_pct"] = line.pruned
    for name, cell in line.cells.items():
        unit = "_pct" if COLUMNS[name].form == "percent" else ""
        found[f"{name}{unit}"] = cell.summary
        if name in SCORES:
            found[f"{name}_best{unit}"] = line.top1_best
        if cell.flops is not None:
            found[str(COLUMNS[name].absolute)] = cell.flops
    return found


def to_json(table: Table) -> str:
    """Return the same lines as JSON, with caption, scale and what is missing."""
    return json_text(
        {
            "id": table.experiment.id,
            "title": table.title,
            "caption": table.caption,
            "scale": table.scale.name,
            "columns": table.columns,
            "citations": table.citations,
            "missing": table.missing,
            "so_far": table.progress,
            "rows": [_flat(table, line) for line in table.lines],
        }
    )
