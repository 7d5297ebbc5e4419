"""Iterative hard thresholding against the rate that Theorem 2 predicts."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from reports.figures.style import INK, Look, letter, sequence, style

# Differences of losses below this are rounding error of double precision.
ROUNDING = 1e-16
BOUND = (0, (4, 2))


def draw(curves: pd.DataFrame, summary: pd.DataFrame) -> Figure:
    """Draw the loss gap by iteration without and with noise, and the noise floors by k/k*.

    Lines are geometric means over seeds, bands from the smallest to the largest seed; dashed is
    the bound, where the theorem gives one. The noise floors are arithmetic means with one
    standard deviation, as the theorem speaks of expectations.
    """
    style()
    ratios = sorted(curves["k_ratio"].unique())
    look = dict(zip(ratios, sequence(len(ratios)), strict=True))
    gaussian = sorted(curves.loc[curves["oracle"] == "gaussian", "oracle_label"].unique())
    panels = [("full gradient", curves[curves["oracle"] == "full"])]
    if gaussian:
        loudest = curves.loc[curves["oracle"] == "gaussian"].sort_values("sigma")["oracle_label"]
        name = str(loudest.iloc[-1])
        panels.append((_noise(name), curves[curves["oracle_label"] == name]))
    floors = summary[(summary["sigma"] > 0) & summary["variance_is_bounded"]]
    count = len(panels) + (len(floors) > 0)
    figure, grid = plt.subplots(1, count, figsize=(3.15 * count, 3.5), squeeze=False)
    for index, ((title, data), axes) in enumerate(zip(panels, grid.flat, strict=False)):
        _gaps(axes, data, look)
        letter(axes, index, title)
    grid.flat[0].set_ylabel("loss gap  $f(\\theta_t) - f^\\ast$")
    if len(floors):
        _floors(grid.flat[-1], floors)
        letter(grid.flat[-1], count - 1, "noise floor")
    handles = [
        Line2D(
            [],
            [],
            color=each.colour,
            marker=each.marker,
            markersize=4,
            label=f"$k/k^\\ast = {ratio}$",
        )
        for ratio, each in look.items()
    ]
    handles.append(Line2D([], [], color=INK, linewidth=1, linestyle=BOUND, label="bound"))
    figure.legend(handles=handles, loc="outside lower center", ncols=min(6, len(handles)))
    return figure


def _noise(label: str) -> str:
    return label.replace("Gaussian noise, sigma", "Gaussian noise, $\\sigma$")


def _gaps(axes: Axes, data: pd.DataFrame, look: dict[int, Look]) -> None:
    for ratio, drawn in look.items():
        table = data[data["k_ratio"] == ratio].pivot(
            index="iteration", columns="seed", values="gap"
        )
        if table.empty:
            continue
        gaps = table.where(table > ROUNDING)
        middle = gaps.apply(np.log).mean(axis=1, skipna=False).apply(np.exp)
        marks: dict[str, Any] = {"marker": drawn.marker, "markevery": (ratio % 3, 6)}
        axes.plot(table.index, middle, color=drawn.colour, markersize=4, zorder=3, **marks)
        axes.fill_between(
            table.index, gaps.min(axis=1), gaps.max(axis=1), color=drawn.colour, alpha=0.15, lw=0
        )
        bounded = data[(data["k_ratio"] == ratio) & data["bound_gap"].notna()]
        if len(bounded):
            bound = bounded.groupby("iteration")["bound_gap"].mean()
            bound = bound[bound > ROUNDING]
            axes.plot(
                bound.index,
                bound,
                color=drawn.colour,
                linewidth=1,
                linestyle=BOUND,
                markersize=3.5,
                fillstyle="none",
                **marks,
            )
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(numticks=7))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.set_xlabel("iteration $t$")
    axes.margins(x=0.02)


def _floors(axes: Axes, floors: pd.DataFrame) -> None:
    labels = floors.sort_values("sigma")["oracle_label"].unique()
    for drawn, label in zip(sequence(len(labels)), labels, strict=True):
        groups = floors[floors["oracle_label"] == label].groupby("k_ratio")
        measured, spread = groups["floor_gap"].mean(), groups["floor_gap"].std()
        axes.errorbar(
            measured.index,
            measured,
            yerr=spread,
            color=INK,
            marker=drawn.marker,
            markersize=4.5,
            linewidth=1.1,
            label=_noise(str(label)).replace("Gaussian noise, ", ""),
        )
        bound = groups["predicted_floor_gap"].mean().dropna()
        axes.plot(
            bound.index,
            bound,
            color=INK,
            linewidth=1,
            linestyle=BOUND,
            marker=drawn.marker,
            markersize=4,
            fillstyle="none",
        )
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    ratios = sorted(floors["k_ratio"].unique())
    axes.set_xticks(ratios, [str(ratio) for ratio in ratios])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("$k / k^\\ast$")
    axes.legend(loc="lower right")
