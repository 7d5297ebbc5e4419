"""Accuracy against training cost, one plot a sparsity (Figure 3), and what FLOPs mean in time."""

from __future__ import annotations

import math
from itertools import groupby

from matplotlib.axes import Axes
from matplotlib.figure import SubFigure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from reports.figures.series import NothingToDrawError, Panel, Series
from reports.figures.style import INK, extent, variant, words
from reports.text import DEGENERATE, percent

_COLUMNS = 3


def accuracy_by_flops(place: SubFigure, panel: Panel) -> Axes:
    """Draw test accuracy over training FLOPs relative to dense.

    Mean and standard deviation, and beside them each seed as a dot.
    """
    sparsities = sorted({series.row.sparsity for series in panel.sparse})
    columns = min(_COLUMNS, len(sparsities))
    grid = place.add_gridspec(math.ceil(len(sparsities) / columns), columns)
    dense = [series for series in panel.series if series.line.is_dense]
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


def step_speedup(place: SubFigure, panel: Panel) -> Axes:
    """Draw by how much sparse products speed up a training step, over what FLOPs promise."""
    axes = place.subplots()
    points = []
    for each in panel.sparse:
        for record in each.line.records:
            if record.step_speedup and record.inference_ratio:
                at = 1 / record.inference_ratio, record.step_speedup
                points.append(at)
                axes.plot(
                    *at,
                    linestyle="none",
                    color=each.look.colour,
                    marker=each.look.marker,
                    fillstyle=each.look.fill,
                    label=words(each.row.label),
                )
    if not points:
        raise NothingToDrawError(
            f"experiment {panel.experiment}: no step of {panel.plot} was measured"
        )
    speedup_axes(axes, points)
    return axes


def speedup_axes(axes: Axes, points: list[tuple[float, float]]) -> None:
    """Set axes of measured over theoretical speed-ups, with a line where they would be equal."""
    most = 1.15 * max(2.0, *(promised for promised, _ in points))
    axes.plot([1, most], [1, most], color=INK, linewidth=0.9, linestyle=(0, (4, 2)))
    axes.axhline(1, color=INK, linewidth=0.6)
    axes.set(xscale="log", yscale="log", xlabel="speed-up by FLOPs", ylabel="measured speed-up")
    top = max(measured for _, measured in points)
    axes.set_xlim(1, most)
    axes.set_ylim(min(0.8, *(0.9 * measured for _, measured in points)), 1.3 * max(2.0, top))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter(NullFormatter())


def _points(axes: Axes, series: list[Series], dense: list[Series]) -> None:
    for each in dense:
        axes.axhline(
            each.top1, color=INK, linewidth=0.9, linestyle=(0, (4, 2)), label=words(each.row.label)
        )
    for each in series:
        _point(axes, each)
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
    axes.margins(y=0.12)
    axes.set_ylim(bottom=max(0.0, axes.get_ylim()[0]))
    axes.set_xlim(0, max([1.0, *(each.cost for each in series)]) * 1.08)
    axes.yaxis.set_major_locator(MaxNLocator(6))
    axes.xaxis.set_major_locator(MaxNLocator(6))


def _point(axes: Axes, series: Series) -> None:
    spread, look, name = series.line.top1.std, series.look, series.row.label
    if series.line.own_sparsity:
        name += f" ({series.line.own_sparsity} %)"
    if spread is not None:
        costs, accuracies = zip(*series.seeds, strict=True)
        axes.scatter(costs, accuracies, s=8, color=look.colour, alpha=0.6, lw=0, zorder=5)
    axes.errorbar(
        [series.cost],
        [series.top1],
        yerr=[spread] if spread is not None else None,
        linestyle="none",
        color=look.colour,
        marker=look.marker,
        markersize=look.size,
        fillstyle=look.fill,
        markeredgewidth=1.1,
        elinewidth=1.0,
        label=words(name),
        # Where two points coincide, the hollow one shows the other.
        zorder=3 if look.fill == "full" else 4,
    )
    if series.line.degenerate:
        axes.text(series.cost, series.top1, f"{DEGENERATE}  ", ha="right", color=INK)


def _length(series: Series) -> tuple[str, str, float]:
    return str(series.row.method), variant(series.row), extent(series.row)
