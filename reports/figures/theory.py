"""Figures of the theory, each drawn from its series.csv by one description of axes a panel."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

import matplotlib.pyplot as plt
import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib import patheffects
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from reports.figures.by_epoch import SPARSE_PHASE, shade_between
from reports.figures.panels import PANELS, Plot
from reports.figures.style import INK, Look, fit_legend, letter, sequence, style

Dash = tuple[int, tuple[float, ...]]
BOUND: Dash = (0, (4, 2))
_DASHES: tuple[Dash, ...] = (BOUND, (0, (1, 1.5)), (0, (6, 1.5, 1, 1.5)), (0, (9, 3)))
"""Dashes of bounds, in order of appearance."""
_WIDTH = 3.15
_ALONE = 5.4
_HEIGHT = 2.6
_COLUMNS = 3
_MARKS = 12
"""Approximate markers per line; lines with more points have a band instead of error bars."""
_FEW = 8
"""Up to this number, different x are the ticks of a logarithmic axis, and the cells of a heat map
show their values."""
# Light to dark, so that grey keeps the order; both ends differ from white and from ink.
_MOST_COLUMNS = 6
"""Most columns of the legend."""
_TRIALS: dict[str, Any] = {
    **{"linestyle": "none", "markersize": 3.4, "markeredgewidth": 0, "alpha": 0.4, "zorder": 2}
}
_ON_CELLS: dict[str, Any] = {
    "color": "#000000",
    "linewidth": 1.6,
    "path_effects": [patheffects.withStroke(linewidth=3.4, foreground="#ffffff")],
}
_CELLS = LinearSegmentedColormap.from_list("cells", ["#f4f1e6", "#8cc3de", "#0b3c5d"])

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class _Drawn:
    """The looks of a figure's lines."""

    looks: Mapping[str, Look]
    """Looks of measured lines and trials; a label has the same look in all panels."""
    dashes: Mapping[str, Dash]
    """Dashes of bounds that belong to no measured line."""

    @classmethod
    def of_series(cls, series: pd.DataFrame) -> Self:
        """Return the looks of all lines of a figure."""
        measured = series.loc[series["role"].isin(("measured", "trial")), "line"].unique()
        looks = cls(dict(zip(measured, sequence(len(measured)), strict=True)), {})
        bounds = series.loc[series["role"] == "bound", "line"].unique()
        alone = [label for label in bounds if looks.of(label) is None]
        # The first dashes are those of the bounds that have a measured line's colour, if any.
        kinds = itertools.cycle(_DASHES[int(len(alone) < len(bounds)) :])
        return replace(looks, dashes=dict(zip(alone, kinds, strict=False)))

    def of(self, line: str) -> Look | None:
        """Return the look of the measured line that another line belongs to, if any.

        That is the one whose label it repeats, or else the first with one of its formulas.
        """
        repeated = [
            label
            for label in self.looks
            if label and re.search(rf"(?<!\w){re.escape(label)}(?!\w)", line)
        ]
        if repeated:
            return self.looks[max(repeated, key=len)]
        formulas = re.findall(r"\$[^$]+\$", line)
        sharing = (label for label in self.looks if any(each in label for each in formulas))
        return self.looks.get(next(sharing, ""))


def draw(name: str, series: pd.DataFrame) -> Figure:
    """Draw every line of every panel of an experiment.

    Panels and lines appear in the order in which series names them; a panel without a description
    takes its title from its id.

    Args:
        name: the experiment's name in theory.
        series: the columns of theory.layout.SERIES.
    """
    style(maths=True)
    drawn = _Drawn.of_series(series)
    panels = [(str(panel), rows) for panel, rows in series.groupby("panel", sort=False)]
    columns = _columns(len(panels))
    lines = -(-len(panels) // columns)
    width = _ALONE if len(panels) == 1 else _WIDTH * columns
    figure = plt.figure(figsize=(width, _HEIGHT * lines))
    entries: dict[str, Artist] = {}
    last: dict[str, Artist] = {}
    for index, (panel, rows) in enumerate(panels):
        axes = figure.add_subplot(lines, columns, index + 1)
        plot = PANELS.get(name, {}).get(panel) or Plot(panel.replace("_", " "), "", "")
        own, common = _panel(axes, plot, rows, drawn)
        entries |= own
        last |= common
        if len(panels) > 1:
            letter(axes, index, plot.title)
    handles = {label: entries[label] for label in entries if label} | last
    options = range(min(_MOST_COLUMNS, len(handles)), 0, -1)
    if handles:
        fit_legend(figure, handles, options, loc="outside lower center", columnspacing=1.2)
    return figure


def _columns(count: int) -> int:
    return 2 if count == 4 else min(count, _COLUMNS)


def _panel(
    axes: Axes, plot: Plot, rows: pd.DataFrame, drawn: _Drawn
) -> tuple[dict[str, Artist], dict[str, Artist]]:
    """Draw a panel; return the handles of lines by label, and those at the end of the legend."""
    axes.set_xscale("log" if "x" in plot.log else "linear")
    axes.set_yscale("log" if "y" in plot.log else "linear")
    entries: dict[str, Artist] = {}
    last: dict[str, Artist] = {}
    cells = rows[rows["role"] == "cell"]
    if len(cells):
        _cells(axes, plot, cells)
    for (line, role), part in rows.groupby(["line", "role"], sort=False):
        label = str(line)
        look = drawn.of(label)
        if role == "measured":
            entries[label] = _measured(axes, plot, part, drawn.looks[label])
        elif role == "trial":
            marker = {"marker": drawn.looks[label].marker, "color": drawn.looks[label].colour}
            entries.setdefault(label, _curve(axes, plot, part, **marker, **_TRIALS))
        elif role == "fit":
            handle = _curve(axes, plot, part, color=look.colour if look else INK, linewidth=0.9)
            if label not in drawn.looks:
                entries[label] = handle
        elif role == "bound" and len(cells):
            dash = drawn.dashes.get(label, BOUND)
            last[label] = _curve(axes, plot, part, linestyle=dash, **_ON_CELLS)
        elif role == "bound" and look:
            # One entry states for all of them that dashes are bounds.
            _curve(axes, plot, part, color=look.colour, linewidth=1.1, linestyle=BOUND)
            last["bound"] = Line2D([], [], color=INK, linewidth=1.1, linestyle=BOUND)
        elif role == "bound":
            dash = drawn.dashes[label]
            last[label] = _curve(axes, plot, part, color=INK, linewidth=1.1, linestyle=dash)
        elif role == "phase":
            for first, end in zip(part["x"], part["y"], strict=True):
                last[label or SPARSE_PHASE] = shade_between(axes, first, end)
    if not len(cells):
        _ticks(axes, plot, rows)
    if plot.limits is not None and not len(cells):
        axes.set_ylim(*plot.limits)
    if plot.least is not None:
        axes.set_ylim(bottom=max(plot.least, axes.get_ylim()[0]))
    axes.set_xlabel(plot.x)
    axes.set_ylabel(plot.y)
    return entries, last


def _visible(plot: Plot, part: pd.DataFrame) -> pd.DataFrame:
    """Return the rows that a panel's axes can show, by x: positive ones where logarithmic."""
    there = np.isfinite(part["x"]) & np.isfinite(part["y"])
    for axis in plot.log:
        there &= part[axis] > 0
    seen: pd.DataFrame = part.loc[there].drop_duplicates().sort_values("x", kind="stable")
    return seen


def _curve(axes: Axes, plot: Plot, part: pd.DataFrame, **how: Any) -> Line2D:
    seen = _visible(plot, part)
    (line,) = axes.plot(seen["x"], seen["y"], **{"zorder": 2.5, **how})
    return line


def _measured(axes: Axes, plot: Plot, part: pd.DataFrame, look: Look) -> Line2D:
    """Draw a line with markers, and its spread as a band if it is long, else as error bars."""
    seen = _visible(plot, part)
    spread = seen[np.isfinite(seen["low"]) & np.isfinite(seen["high"])]
    low, high = spread["low"], spread["high"]
    if "y" in plot.log:
        # An end at zero is beyond a logarithmic axis; the least positive value stands for it.
        least = seen["y"].min()
        low, high = low.clip(lower=least), high.clip(lower=least)
    if len(part) > _MARKS:
        axes.fill_between(spread["x"], low, high, color=look.colour, alpha=0.15, lw=0)
    elif len(spread):
        axes.vlines(spread["x"], low, high, color=look.colour, linewidth=1.0, zorder=2.8)
    how = {"markevery": max(1, len(seen) // _MARKS), "markersize": 4, "linewidth": 1.4}
    return _curve(axes, plot, part, color=look.colour, marker=look.marker, zorder=3, **how)


def _cells(axes: Axes, plot: Plot, part: pd.DataFrame) -> None:
    """Draw a heat map; a line's label is its place on the axis of y."""
    heights = part["line"].astype(float)
    table = part.assign(line=heights).pivot_table(index="line", columns="x", values="y")
    across = table.columns.to_numpy(dtype=np.float64)
    up = table.index.to_numpy(dtype=np.float64)
    values = table.to_numpy(dtype=np.float64)
    low, high = plot.limits or (float(np.nanmin(values)), float(np.nanmax(values)))
    mesh = axes.pcolormesh(
        _edges(across, "x" in plot.log),
        _edges(up, "y" in plot.log),
        values,
        cmap=_CELLS,
        vmin=low,
        vmax=high,
        zorder=0,
    )
    figure = axes.get_figure(root=True)
    assert figure is not None
    bar = figure.colorbar(mesh, ax=axes, pad=0.02)
    bar.set_label(plot.cells)
    bar.outline.set_visible(False)
    if len(across) <= _FEW:
        for (row, column), value in np.ndenumerate(values):
            if math.isfinite(value):
                dark = high > low and (value - low) / (high - low) > 0.55
                axes.text(
                    float(across[column]),
                    float(up[row]),
                    f"{value:.0f}" if abs(value) >= 10 else f"{value:.2g}",
                    ha="center",
                    va="center",
                    fontsize=6.5,
                    color="#ffffff" if dark else "#000000",
                )
    for axis, places in ((axes.xaxis, across), (axes.yaxis, up)):
        some = places[:: -(-len(places) // _FEW)]
        axis.set_ticks(some, [f"{value:g}" for value in some])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_minor_locator(NullLocator())
    axes.grid(visible=False)
    # Curves go beyond the cells.
    axes.set_xlim(*_edges(across, "x" in plot.log)[[0, -1]])
    axes.set_ylim(*_edges(up, "y" in plot.log)[[0, -1]])


def _edges(centres: Array, log: bool) -> Array:
    """Return where cells around these centres begin and end."""
    at = np.log(centres) if log else centres
    if len(at) == 1:
        middle, first, last = at[:0], at[0] - 0.5, at[0] + 0.5
    else:
        middle = (at[1:] + at[:-1]) / 2
        first, last = at[0] - (middle[0] - at[0]), at[-1] + (at[-1] - middle[-1])
    edges = np.concatenate([[first], middle, [last]])
    return np.exp(edges) if log else edges


def _ticks(axes: Axes, plot: Plot, rows: pd.DataFrame) -> None:
    curves = rows[rows["role"] != "phase"]
    for axis, name in ((axes.xaxis, "x"), (axes.yaxis, "y")):
        if name not in plot.log:
            axis.set_major_locator(MaxNLocator(5))
            continue
        values = _visible(plot, curves)[name]
        if values.empty:
            continue
        own = np.unique(values)
        wide = values.max() >= 100 * values.min()
        if name == "x" and len(own) <= _FEW and own[0] >= 1e-3 and own[-1] < 1e4:
            axis.set_ticks(own, [f"{value:g}" for value in own])
            axis.set_minor_locator(NullLocator())
        elif wide:
            axis.set_major_locator(LogLocator(numticks=7))
            axis.set_minor_locator(NullLocator())
    axes.margins(x=0.03)
