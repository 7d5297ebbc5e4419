"""Accuracy against training cost, one plot a sparsity (Figure 3)."""

from __future__ import annotations

import math
from itertools import groupby

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import SubFigure
from matplotlib.ticker import MaxNLocator

from reports.figures.series import Panel, Series
from reports.figures.style import INK, extent, variant, words
from reports.text import DEGENERATE, percent

_OFF_SCALE_METHOD = "one_shot"
_COLUMNS = 3


def accuracy_by_flops(place: SubFigure, panel: Panel) -> Axes:
    """Draw test accuracy over training FLOPs relative to dense.

    Mean and standard deviation, and beside them each seed as a dot.
    """
    sparsities = sorted({series.row.sparsity for series in panel.sparse})
    columns = min(_COLUMNS, len(sparsities))
    grid = place.add_gridspec(math.ceil(len(sparsities) / columns), columns)
    dense = [series for series in panel.series if series.is_dense]
    drawn = []
    for index, sparsity in enumerate(sparsities):
        axes = place.add_subplot(grid[index])
        here = [series for series in panel.sparse if series.row.sparsity == sparsity]
        _points(axes, here, dense)
        axes.set_title(f"{percent(sparsity)} sparsity", loc="right")
        if index % columns == 0:
            axes.set_ylabel("test accuracy (%)")
        if index + columns >= len(sparsities):
            axes.set_xlabel("training FLOPs (dense = 1)")
        drawn.append(axes)
    return drawn[0]


def _points(axes: Axes, series: list[Series], dense: list[Series]) -> None:
    low, high = _limits([*series, *dense])
    for each in dense:
        axes.axhline(
            each.top1, color=INK, linewidth=0.9, linestyle=(0, (4, 2)), label=words(each.row.label)
        )
    for each in series:
        _point(axes, each, low)
    # A faint line leads from a method to itself, trained longer.
    for _, group in groupby(sorted(series, key=_length), key=lambda each: _length(each)[:2]):
        path = list(group)
        axes.plot(
            [each.cost for each in path],
            [each.top1 for each in path],
            color=path[0].look.colour,
            linewidth=0.8,
            alpha=0.5,
            zorder=2,
        )
    axes.set_ylim(low, high)
    axes.set_xlim(0, max([1.0, *(each.cost for each in series)]) * 1.08)
    axes.yaxis.set_major_locator(MaxNLocator(6))
    axes.xaxis.set_major_locator(MaxNLocator(6))


def _point(axes: Axes, series: Series, low: float) -> None:
    mean, spread, look = series.top1, series.line.top1.std, series.look
    inside = mean >= low
    name = series.row.label
    if series.line.own_sparsity:
        name += f" ({series.line.own_sparsity} %)"
    if spread is not None:
        costs, accuracies = zip(*series.seeds, strict=True)
        axes.scatter(costs, accuracies, s=8, color=look.colour, alpha=0.6, lw=0, zorder=5)
    axes.errorbar(
        [series.cost],
        [mean if inside else low],
        yerr=[spread] if spread is not None and inside else None,
        linestyle="none",
        color=look.colour,
        marker=look.marker,
        markersize=look.size,
        fillstyle=look.fill,
        markeredgewidth=1.1,
        elinewidth=1.0,
        label=words(name),
        clip_on=inside,
        # Where two points coincide, the hollow one shows the other.
        zorder=3 if look.fill == "full" else 4,
    )
    mark = DEGENERATE if series.line.degenerate else ""
    if mark or not inside:
        axes.annotate(
            mark if inside else f"{mark} {mean:.1f} % ↓".strip(),
            (series.cost, max(mean, low)),
            xytext=(-7, 3),
            textcoords="offset points",
            ha="right",
            fontsize=8,
            color=INK,
        )


def _length(series: Series) -> tuple[str, str, float]:
    return str(series.row.method), variant(series.row), extent(series.row)


def _limits(series: list[Series]) -> tuple[float, float]:
    """Return the range of accuracies, without one-shot pruning where it would flatten the rest."""
    ends: list[float] = []
    floor: list[float] = []
    for each in series:
        spread = each.line.top1.std or 0.0
        target = floor if each.row.method == _OFF_SCALE_METHOD else ends
        target += [each.top1 - spread, each.top1 + spread, *(y for _, y in each.seeds)]
    if not ends:
        ends, floor = floor, []
    low, high = min(ends), max(ends)
    reach = max(high - low, 1.0)
    if floor and min(floor) > low - reach:
        low = min(low, *floor)
        high = max(high, *floor)
    margin = 0.12 * max(high - low, 1.0)
    low = max(0.0, low - margin)
    return float(np.floor(low * 10) / 10), float(np.ceil((high + margin) * 10) / 10)
