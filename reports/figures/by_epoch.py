"""Accuracy by epoch, on validation images or on relabelled ones (Figures 2, 4, 5, 7, 8 and 9).

A value measured at the end of epoch e stands at e + 1, the epochs trained by then.
"""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import SubFigure

from reports.figures.curves import over_epochs, plot, shade
from reports.figures.series import Panel, Series, means

_RELABELLED = {
    "relabelled_true": "true label predicted (%)",
    "relabelled_given": "given label predicted (%)",
}


def accuracy_by_epoch(place: SubFigure, panel: Panel) -> Axes:
    """Draw validation accuracy, sparse phases shaded."""
    axes = place.subplots()
    _validation_accuracy(axes, panel)
    over_epochs(axes, panel)
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
    shade(bottom, panel)
    bottom.set_ylabel("sparsity (%)")
    bottom.set_ylim(-5, 105)
    bottom.set_yticks([0, 50, 100])
    over_epochs(bottom, panel)
    return top


def relabelled(place: SubFigure, panel: Panel) -> Axes:
    """Draw the share of relabelled training images that get their true or their given label."""
    axes = place.subplots()
    for series in panel.series:
        plot(axes, series, _accuracy(panel, series, f"{panel.plot}_accuracy"), high=100)
    shade(axes, panel)
    axes.set_ylim(-3, 103)
    axes.set_ylabel(_RELABELLED[panel.plot])
    over_epochs(axes, panel)
    return axes


def _validation_accuracy(axes: Axes, panel: Panel) -> None:
    curves = [_accuracy(panel, series, "val_accuracy") for series in panel.series]
    for series, curve in zip(panel.series, curves, strict=True):
        plot(axes, series, curve, high=100)
    shade(axes, panel)
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
