"""Changes from phase to phase: the masks and the cost of inference (Figures 4 to 7)."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import SubFigure

from reports.figures.curves import over_epochs, plot
from reports.figures.series import Panel, means

_CHANGE = "mask_change_of_kept"


def mask_change(place: SubFigure, panel: Panel) -> Axes:
    """Draw the share of the kept weights that the pruning before had not kept.

    The released code divides by all weights instead, which makes sparsities incomparable.
    """
    axes = place.subplots()
    for series in panel.sparse:
        prunings = series.events[series.events["event"] == "prune"]
        found = panel.recorded(prunings, _CHANGE, series.runs)
        plot(axes, series, means(found["epoch"], 100 * found[_CHANGE]))
    axes.set_ylabel("new weights (% of kept)")
    _from_zero(axes)
    over_epochs(axes, panel)
    return axes


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
        plot(axes, series, means(found["epoch"] + 1, ratio))
    axes.set_ylabel("inference FLOPs (dense = 1)")
    _from_zero(axes)
    over_epochs(axes, panel)
    return axes


def _from_zero(axes: Axes) -> None:
    axes.set_ylim(0, 1.06 * axes.dataLim.y1 or 1.0)
