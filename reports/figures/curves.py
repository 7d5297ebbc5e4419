"""Curves over epochs: mean, band, markers, shaded phases."""

from __future__ import annotations

import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from reports.figures.series import Panel, Series

_SHADE = "#808080"
SPARSE_PHASE = "sparse phase"
_MARKS = 14
_BAND = 0.15


def plot(axes: Axes, series: Series, curve: pd.DataFrame, high: float | None = None) -> None:
    """Draw mean and band of one standard deviation; nothing has a spread above ``high``."""
    x, mean, spread = curve.index, curve["mean"], curve["spread"]
    if spread.any():
        upper = (mean + spread).clip(upper=high)
        axes.fill_between(x, mean - spread, upper, color=series.look.colour, alpha=_BAND, lw=0)
    axes.plot(
        x,
        mean,
        color=series.look.colour,
        label=series.label,
        linewidth=1.0 if series.is_dense else 1.4,
        linestyle=(0, (4, 2)) if series.is_dense else "-",
        marker=None if series.is_dense else series.look.marker,
        markersize=3.2,
        markevery=max(1, -(-len(curve) // _MARKS)),
    )


def shade(axes: Axes, panel: Panel) -> None:
    """Shade the sparse phases."""
    for first, end in panel.sparse_phases:
        shade_between(axes, first, end)


def shade_between(axes: Axes, first: float, end: float) -> Artist:
    """Shade one sparse phase, and return its handle for a legend."""
    return axes.axvspan(first, end, color=_SHADE, alpha=0.18, lw=0, zorder=0, label=SPARSE_PHASE)


def over_epochs(axes: Axes, panel: Panel) -> None:
    """Let an axis count epochs, from the first to the last, with ticks at whole ones."""
    axes.set_xlim(0, 1.02 * panel.last)
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True, steps=[1, 2, 5, 10]))
    axes.set_xlabel("epochs trained")
