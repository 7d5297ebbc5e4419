"""A table as LaTeX, for booktabs and siunitx (3 or later)."""

from __future__ import annotations

import textwrap
from typing import Any

from reports import text
from reports.cells import Cell, Line
from reports.encoding import Tex, escape_latex, latex_letters, render_latex
from reports.statistics import Summary
from reports.tables import Table, requested
from study.columns import COLUMNS

_UPRIGHT = 12
"""Most columns of a table that is not rotated."""
_MARK = f"{{$^{{{escape_latex(text.DEGENERATE)}}}$}}"
_LABEL = 40
"""Letters of a line of a label."""
_LONGEST = 2500
"""Letters of a caption; LaTeX sets it in one line first, of at most 5.7 m."""


def to_latex(table: Table) -> str:
    """Return a complete table environment.

    One of many columns is rotated, which needs the package rotating too; one that is wider than
    the text is scaled to it.
    """
    heads = _heads(table)
    return render_latex(
        "table.tex.j2",
        table=table,
        is_long=len(table.title + table.caption) > _LONGEST,
        environment="sidewaystable" if heads[-1]["last"] > _UPRIGHT else "table",
        heads=heads,
        label=_label,
        requested=requested,
        pruned=_pruned,
        percent=_percent,
        ours=_ours,
    )


def _heads(table: Table) -> list[dict[str, Any]]:
    """Return for each column its heading, its place, and what is below it."""
    heads = []
    first = 6 if table.shows_own else 4
    for name in table.columns:
        form = COLUMNS[name].form
        has_spread, has_paper = form != "ratio", name in table.paper_columns
        span = 1 + has_spread + has_paper
        means = [line.cells[name].summary.mean for line in table.lines]
        least = 2 if form == "percent" else 1
        is_marked = any(line.cells[name].degenerate for line in table.lines)
        room = f", table-space-text-post = {_MARK}" if is_marked and not has_spread else ""
        integers = max((len(f"{mean:.0f}") for mean in means if mean is not None), default=least)
        heads.append(
            {
                "name": name,
                "heading": broken(COLUMNS[name].heading),
                "span": span,
                "first": first,
                "last": first + span - 1,
                "ours": 1 + has_spread,
                "paper": has_paper,
                "form": f"S[table-format = {integers}.{text.DIGITS[form]}{room}]"
                + (r" @{\,} r" if has_spread else "")
                + (" r" if has_paper else ""),
            }
        )
        first += span
    return heads


def broken(heading: str) -> tuple[str, ...]:
    """Return a heading in two lines of similar length, or in one if it is a word."""
    words = heading.split(" ")
    options = [(" ".join(words[:i]), " ".join(words[i:])) for i in range(1, len(words))]
    return min(options, key=lambda lines: max(map(len, lines)), default=(heading,))


def _wrapped(label: str) -> list[str]:
    """Return a label in lines that leave room for the columns."""
    return textwrap.wrap(latex_letters(label), _LABEL) or [""]


def _label(line: Line) -> Tex:
    lines = [escape_latex(part) for part in _wrapped(line.row.label)]
    return Tex(r"\shortstack[l]{" + r"\\".join(lines) + "}") if len(lines) > 1 else lines[0]


def _pruned(line: Line) -> str:
    own = escape_latex(line.own_sparsity)
    return Tex(f"{{{own}}}") if own else _percent(line.pruned)


def _percent(summary: Summary) -> str:
    return Tex("{--}") if summary.mean is None else f"{summary.mean:.2f}"


def _ours(cell: Cell, has_spread: bool) -> Tex:
    """Return a cell of ours; where it has a spread, two cells.

    siunitx leaves out an uncertainty of 0.00, which is a result here, hence a cell of its own.
    """
    if not cell.is_number:
        words = escape_latex(cell.text)
        return Tex(f"\\multicolumn{{2}}{{c}}{{{words}}}" if has_spread else f"{{{words}}}")
    number = cell.text.removesuffix(f" {text.DEGENERATE}")
    mark = _MARK if cell.degenerate else ""
    if not has_spread:
        return Tex(number + mark)
    mean, _, spread = number.partition(" ± ")
    return Tex(f"{mean} & " + (f"$\\pm$ \\num{{{spread}}}" if spread else "") + mark)
