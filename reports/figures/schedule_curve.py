"""Validation accuracy and sparsity by epoch, with the sparse phases shaded (Figure 2a)."""

from __future__ import annotations

from itertools import groupby

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from reports.cells import averaged, row_cells
from reports.figures.style import Look, below, looks, style
from reports.plan import Experiment, ReportError
from reports.text import percent

SHADE = "#808080"


def draw(experiment: Experiment, runs: pd.DataFrame, epochs: pd.DataFrame) -> Figure:
    """Draw the mean over seeds with a band of one standard deviation, epoch by epoch.

    A value measured at the end of epoch e stands at e + 1, the epochs trained by then.

    Raises:
        ReportError: no row of the experiment has a run to draw.
    """
    style()
    look = looks((row.method, row.label) for row in experiment.rows)
    # What a run did before it diverged is not averaged, nor anything that a refused run did.
    shown = {row: epochs[epochs["run"].isin(averaged(runs, row))] for row in experiment.rows}
    curves = [(row, _by_epoch(mine)) for row, mine in shown.items() if len(mine)]
    if not curves:
        raise ReportError(f"experiment {experiment.id}: it has no run to draw")
    figure, (top, bottom) = plt.subplots(
        2, 1, sharex=True, figsize=(6.6, 4.4), gridspec_kw={"height_ratios": [3, 1]}
    )
    for row, curve in curves:
        drawn = look[row.method, row.label]
        is_dense = row.method == "dense"
        label = row.label if is_dense else f"{row.label}, {percent(row.sparsity)}"
        marks = _marks(drawn, is_dense)
        x = curve.index + 1
        mean, spread = 100 * curve["accuracy"], 100 * curve["spread"]
        if not is_dense:
            # An accuracy has no spread above 100 %, whatever its standard deviation.
            high = np.minimum(mean + spread, 100)
            top.fill_between(x, mean - spread, high, color=drawn.colour, alpha=0.2, lw=0)
        top.plot(x, mean, color=drawn.colour, label=label, **marks)
        if not is_dense:
            edges = [int(curve.index[0]), *x]
            bottom.stairs(100 * curve["sparsity"], edges, baseline=None, color=drawn.colour, lw=1.6)
    alternating = next((row for row, _ in curves if row.method != "dense"), None)
    handles, labels = top.get_legend_handles_labels()
    if alternating is not None:
        phases = sparse_phases(shown[alternating])
        for start, end in phases:
            for axes in (top, bottom):
                axes.axvspan(start, end, color=SHADE, alpha=0.2, lw=0, zorder=0)
        if phases:
            handles.append(Patch(color=SHADE, alpha=0.2, lw=0))
            labels.append("sparse phase")
    last = max(int(curve.index.max()) for _, curve in curves) + 1
    top.set_xlim(0, 1.01 * last)
    top.set_ylim(*_limits([curve for _, curve in curves]))
    top.set_ylabel("validation accuracy (%)")
    bottom.set_ylabel("sparsity (%)")
    bottom.set_ylim(-5, 105)
    bottom.set_yticks([0, 50, 100])
    notes = [n for row in experiment.rows for n in row_cells(experiment, row, runs).notes]
    bottom.set_xlabel("\n".join(["epochs trained", *below(notes)]))
    bottom.xaxis.set_major_locator(MaxNLocator(10, integer=True, steps=[1, 2, 5, 10]))
    figure.legend(handles, labels, loc="outside upper center", ncols=min(4, len(labels)))
    return figure


def _marks(look: Look, is_dense: bool) -> dict[str, object]:
    if is_dense:
        return {"linewidth": 0.9, "linestyle": (0, (4, 2))}
    return {"marker": look.marker, "markersize": 3.2, "linestyle": "-"}


def _by_epoch(epochs: pd.DataFrame) -> pd.DataFrame:
    """Return accuracy (mean), spread (std, 0 for one run) and sparsity by epoch."""
    groups = epochs.groupby("epoch")
    return pd.DataFrame(
        {
            "accuracy": groups["val_accuracy"].mean(),
            "spread": groups["val_accuracy"].std().fillna(0.0),
            "sparsity": groups["sparsity"].mean(),
        }
    )


def sparse_phases(epochs: pd.DataFrame) -> list[tuple[int, int]]:
    """Return the half-open ranges of epochs that the first run spent in sparse phases."""
    mine = epochs[epochs["run"] == epochs["run"].iloc[0]].sort_values("epoch")
    phases = []
    for phase, group in groupby(zip(mine["epoch"], mine["phase"], strict=True), lambda p: p[1]):
        numbers = [int(epoch) for epoch, _ in group]
        if phase == "sparse":
            phases.append((numbers[0], numbers[-1] + 1))
    return phases


def _limits(curves: list[pd.DataFrame]) -> tuple[float, float]:
    """Return the range of accuracies, without the climb of the first epochs.

    The first tenth would otherwise take most of the axis; what lies below is cut off visibly,
    at the panel's edge.
    """
    values = np.concatenate([100 * c["accuracy"][len(c) // 10 :] for c in curves])
    low, high = float(values.min()), float(values.max())
    margin = 0.06 * max(high - low, 1.0)
    return max(0.0, low - margin), min(100.0 + margin, high + margin)
