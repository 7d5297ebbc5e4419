"""Curves over epochs (Figures 2 and 4 to 9).

A value measured at the end of epoch e stands at e + 1, the epochs trained by then; one of a
pruning at the epoch that it begins.
"""

from __future__ import annotations

import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import SubFigure
from matplotlib.ticker import MaxNLocator

from reports.figures.series import Panel, Series, means

SPARSE_PHASE = "sparse phase"
_SHADE = "#808080"
_MARKS = 14
_BAND = 0.15
_RELABELLED = {
    "relabelled_true": "true label predicted (%)",
    "relabelled_given": "given label predicted (%)",
}
_CHANGE = "mask_change_of_kept"


def accuracy_by_epoch(place: SubFigure, panel: Panel) -> Axes:
    """Draw validation accuracy, sparse phases shaded."""
    axes = place.subplots()
    _validation_accuracy(axes, panel)
    _over_epochs(axes, panel)
    return axes


def schedule(place: SubFigure, panel: Panel) -> Axes:
    """Draw validation accuracy above the sparsity at the end of each epoch."""
    grid = place.add_gridspec(2, 1, height_ratios=(5, 2))
    top = place.add_subplot(grid[0])
    bottom = place.add_subplot(grid[1], sharex=top)
    top.tick_params(labelbottom=False)
    _validation_accuracy(top, panel)
    for series in panel.sparse:
        sparsity = 100 * series.epochs.groupby("epoch")["sparsity"].mean()
        edges = [*sparsity.index, sparsity.index[-1] + 1]
        bottom.stairs(sparsity, edges, baseline=None, color=series.look.colour, lw=1.4)
    _shade(bottom, panel)
    bottom.set_ylabel("sparsity (%)")
    bottom.set_ylim(-5, 105)
    bottom.set_yticks([0, 50, 100])
    _over_epochs(bottom, panel)
    return top


def relabelled(place: SubFigure, panel: Panel) -> Axes:
    """Draw the share of relabelled training images that get their true or their given label."""
    axes = place.subplots()
    for series in panel.series:
        _plot(axes, series, _accuracy(panel, series, f"{panel.plot}_accuracy"), high=100)
    _shade(axes, panel)
    axes.set_ylim(-3, 103)
    axes.set_ylabel(_RELABELLED[panel.plot])
    _over_epochs(axes, panel)
    return axes


def mask_change(place: SubFigure, panel: Panel) -> Axes:
    """Draw the share of the kept weights that the pruning before had not kept.

    The released code divides by all weights instead, which makes sparsities incomparable.
    """
    axes = place.subplots()
    for series in panel.sparse:
        prunings = series.events[series.events["event"] == "prune"]
        found = panel.recorded(prunings, _CHANGE, series.runs)
        _plot(axes, series, means(found["epoch"], 100 * found[_CHANGE]))
    return _from_zero(axes, panel, "new weights (% of kept)")


def phase_flops(place: SubFigure, panel: Panel) -> Axes:
    """Draw the FLOPs of inference, relative to dense, where each sparse or dense phase ends."""
    axes = place.subplots()
    kind = panel.plot.removesuffix("_flops")
    for series in panel.sparse:
        records = panel.recorded(series.epochs, "forward_flops", series.runs)
        ends = [end for name, _, end in series.phases if name == kind]
        found = records[(records["epoch"] + 1).isin(ends)]
        dense = {record.run: record.dense_inference_flops for record in series.line.records}
        ratio = found["forward_flops"] / found["run"].map(dense)
        _plot(axes, series, means(found["epoch"] + 1, ratio))
    return _from_zero(axes, panel, "inference FLOPs (dense = 1)")


def shade_between(axes: Axes, first: float, end: float) -> Artist:
    """Shade one sparse phase, and return its handle for a legend."""
    return axes.axvspan(first, end, color=_SHADE, alpha=0.18, lw=0, zorder=0, label=SPARSE_PHASE)


def _validation_accuracy(axes: Axes, panel: Panel) -> None:
    curves = [_accuracy(panel, series, "val_accuracy") for series in panel.series]
    for series, curve in zip(panel.series, curves, strict=True):
        _plot(axes, series, curve, high=100)
    _shade(axes, panel)
    axes.set_ylim(*_limits(curves))
    axes.set_ylabel("validation accuracy (%)")


def _accuracy(panel: Panel, series: Series, column: str) -> pd.DataFrame:
    """Return an accuracy in per cent by epochs trained."""
    records = panel.recorded(series.epochs, column, series.runs)
    return means(records["epoch"] + 1, 100 * records[column])


def _limits(curves: list[pd.DataFrame]) -> tuple[float, float]:
    """Return the range of accuracies, without the climb of the first epochs.

    The first tenth would otherwise take most of the axis; what lies below is cut off visibly,
    at the panel's edge.
    """
    later = pd.concat([curve[len(curve) // 10 :] for curve in curves])
    low, high = later["mean"].min(), min(100.0, (later["mean"] + later["spread"]).max())
    margin = 0.06 * max(high - low, 1.0)
    return max(0.0, low - margin), high + margin


def _plot(axes: Axes, series: Series, curve: pd.DataFrame, high: float | None = None) -> None:
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
        linewidth=1.0 if series.line.is_dense else 1.4,
        linestyle=(0, (4, 2)) if series.line.is_dense else "-",
        marker=None if series.line.is_dense else series.look.marker,
        markersize=3.2,
        markevery=max(1, -(-len(curve) // _MARKS)),
    )


def _shade(axes: Axes, panel: Panel) -> None:
    for first, end in panel.sparse_phases:
        shade_between(axes, first, end)


def _from_zero(axes: Axes, panel: Panel, label: str) -> Axes:
    axes.set_ylabel(label)
    axes.set_ylim(0, 1.06 * axes.dataLim.y1 or 1.0)
    _over_epochs(axes, panel)
    return axes


def _over_epochs(axes: Axes, panel: Panel) -> None:
    """Let an axis count epochs, from the first to the last, with ticks at whole ones."""
    axes.set_xlim(0, 1.02 * panel.last)
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True, steps=[1, 2, 5, 10]))
    axes.set_xlabel("epochs trained")
