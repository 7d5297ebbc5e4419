"""Accuracy against training cost, one panel a sparsity (Figure 3 of the paper)."""

from __future__ import annotations

import math

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from reports.cells import Cells, Table
from reports.figures.style import INK, Look, below, letter, looks, style
from reports.text import percent

_OFF_SCALE_METHOD = "one_shot"


def draw(table: Table) -> Figure:
    """Draw test accuracy (mean and standard deviation) over training FLOPs relative to dense."""
    style()
    look = looks((cells.row.method, cells.row.label) for cells in table.rows)
    dense = next((cells for cells in table.rows if cells.is_dense), None)
    sparsities = sorted({cells.row.sparsity for cells in table.rows if not cells.is_dense})
    columns = min(3, len(sparsities))
    lines = math.ceil(len(sparsities) / columns)
    width = columns * (2.75 if columns == 3 else 3.3 if columns == 2 else 5.0)
    figure, grid = plt.subplots(lines, columns, figsize=(width, 2.9 * lines + 0.6), squeeze=False)
    panels = list(grid.flat)
    for index, (axes, sparsity) in enumerate(zip(panels, sparsities, strict=False)):
        here = [c for c in table.rows if not c.is_dense and c.row.sparsity == sparsity]
        _panel(axes, here, dense, look)
        letter(axes, index, f"{percent(sparsity)} sparsity")
        if index % columns == 0:
            axes.set_ylabel("test accuracy (%)")
    for axes in panels[len(sparsities) :]:
        axes.remove()
    xlabel = "training FLOPs, fraction of dense training"
    figure.supxlabel("\n".join([xlabel, *below(table.notes)]), fontsize=9)
    drawn = {
        text: handle
        for axes in panels[: len(sparsities)]
        for handle, text in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    handles = {
        cells.row.label: drawn[cells.row.label] for cells in table.rows if cells.row.label in drawn
    }
    figure.legend(
        handles.values(),
        handles.keys(),
        loc="outside upper center",
        ncols=int(width / 1.17),
        handlelength=1.8,
        columnspacing=1.4,
    )
    return figure


def _panel(
    axes: Axes, rows: list[Cells], dense: Cells | None, look: dict[tuple[str, str], Look]
) -> None:
    shown = [cells for cells in rows if cells.top1.mean is not None]
    low, high = _limits([*shown, *([dense] if dense else [])])
    if dense is not None and dense.top1.mean is not None:
        axes.axhline(
            dense.top1.mean, color=INK, linewidth=0.9, linestyle=(0, (4, 2)), label=dense.row.label
        )
    for cells in shown:
        mean, spread = cells.top1.mean, cells.top1.std
        assert mean is not None
        assert cells.training_ratio.mean is not None
        style = look[cells.row.method, cells.row.label]
        cost = cells.training_ratio.mean
        inside = mean >= low
        axes.errorbar(
            [cost],
            [mean if inside else low],
            yerr=[spread] if spread is not None and inside else None,
            linestyle="none",
            color=style.colour,
            marker=style.marker,
            fillstyle=style.fill,
            markeredgewidth=1.2,
            elinewidth=1.1,
            label=cells.row.label,
            clip_on=inside,
            # Where two points coincide, the hollow one shows the other.
            zorder=3 if style.fill == "full" else 4,
        )
        if not inside:
            axes.annotate(
                f"{mean:.1f} % ↓",
                (cost, low),
                xytext=(-7, 3),
                textcoords="offset points",
                ha="right",
                fontsize=8,
                color=INK,
            )
    axes.set_ylim(low, high)
    costs = [cells.training_ratio.mean or 0 for cells in shown]
    axes.set_xlim(0, max([1.0, *costs]) * 1.08)
    axes.yaxis.set_major_locator(MaxNLocator(6))
    axes.xaxis.set_major_locator(MaxNLocator(6))


def _limits(rows: list[Cells]) -> tuple[float, float]:
    """Return the range of accuracies, without one-shot pruning where it would flatten the rest."""
    ends: list[float] = []
    floor: list[float] = []
    for cells in rows:
        if cells.top1.mean is None:
            continue
        spread = cells.top1.std or 0.0
        target = floor if cells.row.method == _OFF_SCALE_METHOD else ends
        target += [cells.top1.mean - spread, cells.top1.mean + spread]
    if not ends:
        ends, floor = floor or [0.0, 100.0], []
    low, high = min(ends), max(ends)
    reach = max(high - low, 1.0)
    if floor and min(floor) > low - reach:
        low = min(low, *floor)
        high = max(high, *floor)
    margin = 0.12 * max(high - low, 1.0)
    return float(np.floor((low - margin) * 10) / 10), float(np.ceil((high + margin) * 10) / 10)
