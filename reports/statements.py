"""The table of the theory's statements: claim, measured value, verdict."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from reports.encoding import render_latex
from reports.export import csv_text, json_text
from reports.text import NO_ROW
from reports.theory import Found
from theory.statements import Statement
from theory.statistics import LEVEL, Interval

ID = "theory"
"""Name of the table's files."""
CAPTION = (
    f"Statements of the theory, as reconstructed. Brackets: {LEVEL:.0%} interval of what was "
    "measured; none where it was computed without a sample. For $=$, a statement holds where the "
    "interval contains the prediction and reaches at most as far to either side as said in "
    "parentheses; for $\\leq$ and $\\geq$, where the whole interval is on that side; for never, "
    "where no trial of $n$ violated it and the interval of their frequency ends at most at the "
    "value in parentheses. It does not hold where the interval excludes the prediction or a trial "
    "diverged, and is undecided otherwise."
)
"""Prose with mathematics."""

_SIGNS = {"equals": "=", "at most": r"\leq", "at least": r"\geq"}
_COLUMNS = (
    *("experiment", "id", "source", "claim", "measure", "relation", "predicted", "tolerance"),
    *("value", "low", "high", "level", "trials", "violations", "diverged", "verdict", "criterion"),
    "note",
)
_FLOATS = ("predicted", "tolerance", "value", "low", "high")
_ROUNDING = 1e-9
_WIDE = 100.0
"""Ends whose ratio exceeds it are rounded separately."""
_FEWEST, _MOST = 2, 6
"""Digits after the decimal point of a measured value with a spread."""


def number(value: float, digits: int = 3) -> str:
    r"""Return a number as mathematics, ``$1.2 \times 10^{-5}$``, with some leading digits."""
    if not math.isfinite(value):
        return _not_finite(value)
    power = _power(value)
    scaled = value / 10.0**power
    if abs(scaled) < 10**digits:
        return f"${scaled:.{digits}g}{_times(power)}$"
    return f"${scaled:.0f}{_times(power)}$"


def predicted(statement: Statement) -> str:
    """Return the prediction with its relation, as prose with mathematics."""
    tolerance = f" ({number(statement.tolerance)})" if math.isfinite(statement.tolerance) else ""
    if statement.relation == "never":
        return f"never{tolerance}"
    value = number(statement.predicted).strip("$")
    return f"${_SIGNS[statement.relation]} {value}$" + (
        tolerance if statement.relation == "equals" else ""
    )


def measured(statement: Statement) -> tuple[str, str]:
    """Return the measured value and its interval (may be empty), as prose with mathematics.

    The width of the interval determines the digits; up to two more are added where rounding would
    make an end equal the prediction.
    """
    found = statement.measured
    ends = [found.value, found.low, found.high]
    largest = max((abs(end) for end in ends if math.isfinite(end)), default=0.0)
    # What was computed has at most a spread of rounding.
    if found.high - found.low <= _ROUNDING * largest or not math.isfinite(found.value):
        return number(found.value, 4), ""
    if found.low > 0 and found.high > _WIDE * found.low:
        value, low, high = (number(end).strip("$") for end in ends)
        return f"${value}$", f"$[{low}, {high}]$"
    power = _power(largest)
    scale = 10.0**power
    digits = _digits(found, statement.predicted, scale)
    value, low, high = (
        f"{end / scale:.{digits}f}" if math.isfinite(end) else _not_finite(end).strip("$")
        for end in ends
    )
    return f"${value}{_times(power)}$", f"$[{low}, {high}]{_times(power)}$"


def _digits(found: Interval, prediction: float, scale: float) -> int:
    width = (found.high - found.low) / scale
    if not math.isfinite(width):
        return _FEWEST
    digits = min(max(1 - math.floor(math.log10(width)), 0), _MOST)
    ends = [end / scale for end in (found.low, found.high) if end != prediction]
    for _ in range(2):
        if digits < _MOST and any(
            round(end, digits) == round(prediction / scale, digits) for end in ends
        ):
            digits += 1
    return digits


def _power(value: float) -> int:
    """Return the power of ten that is written out: 0 where plain digits are short."""
    if value == 0 or 1e-3 <= abs(value) < 1e5:
        return 0
    return math.floor(math.log10(abs(value)))


def _times(power: int) -> str:
    return rf" \times 10^{{{power}}}" if power else ""


def _not_finite(value: float) -> str:
    if math.isnan(value):
        return NO_ROW
    return r"$\infty$" if value > 0 else r"$-\infty$"


def rows(found: Iterable[Found]) -> list[dict[str, Any]]:
    """Return every statement as plain data, in the order of the table."""
    return [
        {"experiment": each.experiment.id}
        | {
            # JSON may have a whole number where a float is meant.
            key: float(value) if key in _FLOATS and isinstance(value, int) else value
            for key, value in statement.plain().items()
        }
        for each in found
        for statement in each.statements
    ]


def to_csv(found: Sequence[Found]) -> str:
    """Return the table as CSV, numbers unrounded."""
    return csv_text(_COLUMNS, rows(found))


def to_json(found: Sequence[Found]) -> str:
    """Return the table as JSON, with the experiments without statements."""
    missing = {each.experiment.id: each.problem for each in found if each.problem}
    return json_text({"caption": CAPTION, "statements": rows(found), "missing": missing})


def to_latex(found: Sequence[Found]) -> str:
    """Return a table that spans pages; it needs booktabs, longtable, amsmath and amssymb."""
    return render_latex(
        "statements.tex.j2",
        id=ID,
        caption=CAPTION,
        groups=[each for each in found if each.statements],
        measured=measured,
        predicted=predicted,
        missing=remarks(found),
    )


def remarks(found: Iterable[Found]) -> list[str]:
    """Return a sentence that lists the experiments without statements, if there are any."""
    missing = [each.experiment.id for each in found if each.problem]
    return [f"Not there: {', '.join(missing)}."] if missing else []
