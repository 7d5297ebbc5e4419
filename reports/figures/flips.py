"""Which images a sparse and a dense model get right."""

from __future__ import annotations

from statistics import fmean

from matplotlib.axes import Axes
from matplotlib.figure import SubFigure

from reports.figures.series import NothingToDrawError, Panel
from reports.figures.style import words
from reports.text import percent

_PARTS = (
    ("both right", "both_right", "#4477aa"),
    ("sparse model alone", "sparse_right", "#ccbb44"),
    ("dense model alone", "dense_right", "#ee6677"),
)


def flips(place: SubFigure, panel: Panel) -> Axes:
    """Draw the shares of test images that both models get right, either alone, or neither."""
    axes = place.subplots()
    rows = []
    for each in panel.sparse:
        records = [record for record in each.line.records if record.agreement is not None]
        if records:
            shares = [fmean(100 * getattr(r, field) for r in records) for _, field, _ in _PARTS]
            rows.append((words(f"{each.row.label}, {percent(each.row.sparsity)}"), shares))
    if not rows:
        raise NothingToDrawError(f"experiment {panel.experiment}: no pair was compared")
    names = [name for name, _ in rows]
    left = [0.0] * len(rows)
    for part, (label, _, colour) in enumerate(_PARTS):
        widths = [shares[part] for _, shares in rows]
        axes.barh(names, widths, left=left, color=colour, label=label, height=0.6)
        left = [start + width for start, width in zip(left, widths, strict=True)]
    rest = [100 - start for start in left]
    axes.barh(names, rest, left=left, color="#bbbbbb", label="both wrong", height=0.6)
    for y, (_, shares) in enumerate(rows):
        text = f"{shares[1]:.1f} / {shares[2]:.1f} "
        axes.text(shares[0], y, text, ha="right", va="center", fontsize=7, color="white")
    axes.set_axisbelow(True)
    axes.set_xlim(0, 100)
    axes.set_xlabel("test images (%); in the bars: right in one model alone")
    axes.invert_yaxis()
    return axes
