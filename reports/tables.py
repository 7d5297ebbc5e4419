"""A table as LaTeX, CSV and JSON, all from the same cells."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from typing import Any

from reports import text
from reports.cells import FLOPS, Cells, Table
from reports.latex import escape, render
from reports.statistics import Summary
from study.columns import COLUMNS
from study.model import Scale
from study.paper import PaperValue

_CHARACTER_PT = {"footnotesize": 3.6, "scriptsize": 3.3, "tiny": 2.8}
"""Mean width of a character of such tables in Computer Modern."""
_PAGE_PT = {"table": 400.0, "sidewaystable": 620.0}
"""Width that a table may have upright and turned on a page of the usual margins."""
_GAP_PT = 6.0


def caption(table: Table) -> str:
    """Return the caption as plain text: what is shown, at which scale, over how many seeds."""
    shown = set(table.columns)
    parts = [table.experiment.caption, scale_note(table.scale)]
    tasks = [f"{t.model} on {t.dataset}, {t.epochs} epochs" for t in table.experiment.tasks]
    if tasks:
        parts.append(f"{'; '.join(tasks)}.")
    low, high = table.seeds
    if high:
        seeds = f"{high}" if low == high else f"{low} to {high}"
        parts.append(
            "Mean ± sample standard deviation over n runs with different seeds "
            f"(n = {seeds}; none is given for n = 1), after the last epoch. Runs that diverged "
            "or are refused, since the sparsity certificate of their model does not hold, "
            "are counted, not averaged."
        )
        if "failed" in table.left_out:
            parts.append("So are those that failed, by an error that would come again.")
        if "missing" in table.left_out:
            parts.append("Missing: runs without a result so far.")
    if any(COLUMNS[column].heading.endswith("top-1 (%)") for column in table.columns):
        parts.append("Top-1: test accuracy.")
    asked = "Sparsity: asked of the layers that a method does not leave dense"
    if table.shows_own:
        parts.append(
            f"{asked}, and pruned there; zero: of all prunable weights, whatever the reason."
        )
    else:
        parts.append(f"{asked}, of the sparse model that belongs to the dense ones shown.")
    if shown & {"inference_ratio", "dense_inference_ratio"}:
        parts.append("Inference FLOPs: of one image, as a fraction of the dense network's.")
    if shown & {"training_ratio", "published_ratio"}:
        parts.append(
            "Training FLOPs: of the whole training, as a fraction of dense training for the "
            "task's epochs, by the paper's accounting, common to all"
            + (
                ", and as the method's own publication counts it (formulas: Methods)."
                if "published_ratio" in shown
                else "."
            )
        )
    if shown & FLOPS.keys() and any(cells.is_dense for cells in table.rows):
        parts.append("FLOPs of the dense row are absolute.")
    if table.paper_columns:
        parts.append(paper_note(table))
    parts += missing_notes(table)
    if table.so_far:
        parts.append(f"{table.so_far}.")
    return " ".join(parts)


def scale_note(scale: Scale) -> str:
    """Return the scale in a few words, with a warning unless it is the paper's."""
    title = scale.title.rstrip(".")
    return f"{title}." if scale.is_paper else f"{title} (not the paper's scale)."


def paper_note(table: Table) -> str:
    """Return what the paper's columns hold and what their marks mean."""
    numbers = " and ".join(f"Table {n}" if n.isdigit() else n for n in table.paper_tables)
    note = f"Paper: the values of the paper's {numbers}, {table.paper_setting}"
    if not table.scale.is_paper:
        note += "; another network and data set, so not comparable with the columns beside them"
    pairs = [(cells, column) for cells in table.rows for column in table.paper_columns]
    note += f"; unknown: printed there, but not known here; {text.NO_ROW}: no such number there."
    marks = {value.mark for pair in pairs if (value := paper_shown(*pair))}
    if "†" in marks:
        note += (
            " † counted, inferred from the paper's text, or from the compared method's own"
            " publication."
        )
    if "‡" in marks:
        note += " ‡ cited, see below."
    return note


def nearby_notes(table: Table) -> list[str]:
    """Return one sentence on the paper's rows at another sparsity than ours, if there are any."""
    if not table.nearby:
        return []
    return [f"The paper's row is at another sparsity: {'; '.join(table.nearby)}."]


def missing_notes(table: Table) -> list[str]:
    """Return one sentence on what is not there yet, if anything is."""
    return [f"Not there yet: {'; '.join(table.missing)}."] if table.missing else []


def ours_text(cells: Cells, column: str) -> str:
    """Return a cell of ours as text; the dense row's FLOPs are absolute."""
    absence = cells.absence(column)
    summary = cells.ours(column)
    if absence or summary is None or summary.mean is None:
        return absence
    form = COLUMNS[column].form
    if form == "ratio":
        return _flops_text(cells, column) or f"{summary.mean:.{text.DIGITS[form]}f}"
    return text.mean_and_std(summary, text.DIGITS[form])


def _flops_text(cells: Cells, column: str) -> str:
    """Return the absolute FLOPs of a dense row, nothing for another row."""
    if not cells.is_dense or column not in FLOPS:
        return ""
    mean = cells.flops(column).mean
    return "" if mean is None else " ".join(text.engineering(mean))


def paper_shown(cells: Cells, column: str) -> PaperValue | None:
    """Return the number of the paper that stands in a column: of the dense row absolute FLOPs."""
    flops = cells.paper_flops(column)
    return flops.value if flops else cells.paper_value(column)


def paper_text(cells: Cells, column: str) -> str:
    """Return a cell of the paper as text; the dense row's FLOPs are absolute."""
    flops = cells.paper_flops(column)
    return text.paper_text(paper_shown(cells, column), flops.prefix if flops else "")


def paper_source(cells: Cells, column: str) -> str:
    """Return where a cell of the paper is known from, and how surely; empty where it has none."""
    value = paper_shown(cells, column)
    return f"{value.confidence}: {value.source}" if value else ""


def requested(cells: Cells) -> str:
    """Return the sparsity, per cent, that a model was asked for; a dense model of a sparse row."""
    if cells.row.product == "dense" and cells.row.sparsity:
        return "dense"
    return f"{100 * cells.row.sparsity:.6g}"


def to_csv(table: Table) -> str:
    """Return the cells in full precision, one line a row."""
    buffer = io.StringIO()
    lines = [_flat(table, cells) for cells in table.rows]
    writer = csv.DictWriter(buffer, list(lines[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return buffer.getvalue()


def _flat(table: Table, cells: Cells) -> dict[str, Any]:
    flat: dict[str, Any] = {
        "label": cells.row.label,
        "method": cells.row.method,
        "product": cells.row.product,
        "sparsity_requested_pct": 100 * cells.row.sparsity,
        "n": cells.counts.n,
        **{name: getattr(cells.counts, name) for name in table.left_out},
        "notes": " ".join(cells.notes),
        "exempt": " ".join(cells.exempt),
    }
    for name, summary in _summaries(table, cells).items():
        low, high = summary.interval or (None, None)
        flat |= {f"{name}_mean": summary.mean, f"{name}_std": summary.std}
        flat |= {f"{name}_ci95_low": low, f"{name}_ci95_high": high}
    for column in table.columns:
        flat[f"{column}_absent"] = cells.absence(column)
    for column in table.paper_columns:
        value = cells.paper_value(column)
        known = value is not None and value.value is not None
        flat[f"paper_{column}"] = value.digits if value and known else text.paper_text(value)
        flat |= _origin(f"paper_{column}", value)
        if column in FLOPS:
            flops = cells.paper_flops(column)
            flat[f"paper_{FLOPS[column]}"] = flops.flops if flops else None
            flat |= _origin(f"paper_{FLOPS[column]}", flops.value if flops else None)
    flat["paper_sparsity_pct"] = _percent(cells.paper_sparsity)
    flat["cites"] = cells.row.paper.cites if cells.row.paper else ""
    flat["published_formula"] = cells.published_formula
    flat["runs"] = " ".join((*cells.row.runs, *cells.row.fine_tuned))
    return flat


def _origin(name: str, value: PaperValue | None) -> dict[str, str]:
    """Return what stands beside a number of the paper: spread, mark and where it is known from."""
    return {
        f"{name}_std": value.std_digits if value else "",
        f"{name}_mark": value.mark if value else "",
        f"{name}_confidence": value.confidence if value else "",
        f"{name}_source": value.source if value else "",
    }


def _percent(fraction: float | None) -> float | None:
    # Rounded to what the study can ask for, so that 0.9023 is not 90.22999999999999.
    return None if fraction is None else round(100 * fraction, 9)


def _summaries(table: Table, cells: Cells) -> dict[str, Summary]:
    """Return what is averaged, by name with its unit, in the order of the columns."""
    nothing = Summary(None, None, 0)
    found = {}
    if table.shows_own:
        found["sparsity_achieved_pct"] = cells.sparsity
        found["sparsity_pruned_layers_pct"] = cells.pruned
    for column in table.columns:
        unit = "_pct" if COLUMNS[column].form == "percent" else ""
        found[f"{column}{unit}"] = cells.ours(column) or nothing
        if column == "top1":
            found["top1_best_pct"] = cells.top1_best
        if column in FLOPS:
            found[FLOPS[column]] = cells.flops(column)
    return found


def to_json(table: Table) -> dict[str, Any]:
    """Return the table as plain data: caption, scale, and each row's cells with their runs."""
    return {
        "id": table.experiment.id,
        "title": text.title(table.experiment, table.scale),
        "caption": caption(table),
        "scale": table.scale.name,
        "columns": list(table.columns),
        "paper_setting": table.paper_setting,
        "citations": list(table.citations),
        "missing": list(table.missing),
        **({"so_far": table.so_far} if table.so_far else {}),
        "rows": [
            {
                "label": cells.row.label,
                "method": cells.row.method,
                "product": cells.row.product,
                "sparsity": cells.row.sparsity,
                "epochs": cells.row.epochs,
                "runs": list(cells.row.runs),
                "fine_tuned": list(cells.row.fine_tuned),
                "exempt": list(cells.exempt),
                "refused": [
                    {"run": refusal.run, "seed": refusal.seed, "reasons": list(refusal.reasons)}
                    for refusal in cells.refusals
                ],
                **{
                    name: [vars(run) for run in found]
                    for name, found in (("failed", cells.failed), ("missing", cells.missing))
                    if name in table.left_out
                },
                "notes": list(cells.notes),
                "published_formula": cells.published_formula,
                **{
                    name: _plain(summary, table.left_out)
                    for name, summary in _summaries(table, cells).items()
                },
                "absent": {column: cells.absence(column) for column in table.columns},
                "paper": {
                    column: value and _plain_paper(value)
                    for column in table.paper_columns
                    for value in (cells.paper_value(column),)
                },
                "paper_flops": {
                    FLOPS[column]: _plain_paper(flops.value) | {"flops": flops.flops}
                    for column in table.paper_columns
                    for flops in (cells.paper_flops(column),)
                    if flops
                },
                "paper_sparsity": cells.paper_sparsity,
                "cites": cells.row.paper.cites if cells.row.paper else "",
            }
            for cells in table.rows
        ],
    }


def _plain(summary: Summary, left_out: Iterable[str]) -> dict[str, Any]:
    names = ("mean", "std", "n", *left_out)
    return {**{name: getattr(summary, name) for name in names}, "ci95": summary.interval}


def _plain_paper(value: PaperValue) -> dict[str, Any]:
    return {**vars(value), "value": value.value, "std": value.std, "mark": value.mark}


def to_latex(table: Table) -> str:
    """Return a complete table environment for booktabs and siunitx (3 or later).

    One that is too wide for a page stands on its side, which needs the package rotating too.
    """
    environment, size = _fitting(table)
    return render(
        "table.tex.j2",
        id=table.experiment.id,
        environment=environment,
        size=size,
        caption=escape(f"{text.title(table.experiment, table.scale)}. {caption(table)}"),
        heads=_heads(table),
        lines=[_latex_line(table, cells) for cells in table.rows],
        shows_own=table.shows_own,
        notes=[escape(note) for note in table.notes],
        nearby=[escape(note) for note in nearby_notes(table)],
        citations=[escape(citation) for citation in table.citations],
    )


def _heads(table: Table) -> list[dict[str, Any]]:
    """Return for each column its heading, its place, and what stands below it."""
    heads = []
    first = 6 if table.shows_own else 4
    for column in table.columns:
        is_spread = _has_spread(column)
        has_paper = column in table.paper_columns
        span = 1 + is_spread + has_paper
        digits = text.DIGITS[COLUMNS[column].form]
        heads.append(
            {
                "heading": r"\\".join(map(escape, broken(COLUMNS[column].heading))),
                "span": span,
                "first": first,
                "last": first + span - 1,
                "ours": 1 + is_spread,
                "paper": has_paper,
                "form": f"S[table-format = {_integers(table, column)}.{digits}]"
                + (r" @{\,} r" if is_spread else "")
                + (" r" if has_paper else ""),
            }
        )
        first += span
    return heads


def _has_spread(column: str) -> bool:
    """Return whether a column's standard deviation is printed."""
    return COLUMNS[column].form != "ratio"


def broken(heading: str) -> tuple[str, ...]:
    """Return a heading in two lines of the most equal length, in one where it is a word."""
    words = heading.split(" ")
    options = [(" ".join(words[:i]), " ".join(words[i:])) for i in range(1, len(words))]
    return min(options, key=lambda lines: max(map(len, lines)), default=(heading,))


def _integers(table: Table, column: str) -> int:
    """Return the digits before the point of the largest mean of a column."""
    means = [s.mean for cells in table.rows if (s := cells.ours(column)) and s.mean is not None]
    least = 2 if COLUMNS[column].form == "percent" else 1
    return max((len(f"{mean:.0f}") for mean in means), default=least)


def _fitting(table: Table) -> tuple[str, str]:
    """Return the environment and the largest font in which the table fits on a page."""
    texts = [max(len(cells.row.label) for cells in table.rows)]
    texts += [6, 6, 6, 3] if table.shows_own else [6, 3]
    gaps = len(texts)
    for column in table.columns:
        ours = max(len(ours_text(cells, column)) for cells in table.rows)
        theirs = 0
        if column in table.paper_columns:
            theirs = max(len(paper_text(cells, column)) for cells in table.rows)
        heading = max(map(len, broken(COLUMNS[column].heading)))
        texts += [max(ours + theirs, heading)]
    gaps += sum(2 if column in table.paper_columns else 1 for column in table.columns)
    for environment, page in _PAGE_PT.items():
        for size in ("footnotesize", "scriptsize"):
            if sum(texts) * _CHARACTER_PT[size] + gaps * _GAP_PT <= page:
                return environment, size
    return "sidewaystable", "tiny"


def _latex_line(table: Table, cells: Cells) -> dict[str, Any]:
    return {
        "sparsity": cells.row.sparsity,
        "label": escape(cells.row.label),
        "requested": requested(cells),
        "pruned": _latex_percent(cells.pruned),
        "achieved": _latex_percent(cells.sparsity),
        "n": (f"{cells.counts.n}" if cells.runs else "--") + ("$^\\ast$" if cells.notes else ""),
        "cells": [
            cell
            for column in table.columns
            for cell in (
                _latex_ours(cells, column),
                *([escape(paper_text(cells, column))] if column in table.paper_columns else []),
            )
        ],
    }


def _latex_percent(summary: Summary) -> str:
    return "{--}" if summary.mean is None else f"{summary.mean:.2f}"


def _latex_ours(cells: Cells, column: str) -> str:
    """Return a cell of ours; where it has a spread, two cells.

    siunitx leaves out an uncertainty of 0.00, which is a result here, hence a cell of its own.
    """
    summary = cells.ours(column)
    absence = cells.absence(column)
    digits = text.DIGITS[COLUMNS[column].form]
    if absence or summary is None or summary.mean is None:
        words = escape(absence)
        return f"\\multicolumn{{2}}{{c}}{{{words}}}" if _has_spread(column) else f"{{{words}}}"
    if not _has_spread(column):
        absolute = _flops_text(cells, column)
        return f"{{{escape(absolute)}}}" if absolute else f"{summary.mean:.{digits}f}"
    spread = "" if summary.std is None else f"$\\pm$ \\num{{{summary.std:.{digits}f}}}"
    return f"{summary.mean:.{digits}f} & {spread}"
