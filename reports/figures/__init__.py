"""The figures: panels of plots drawn from the tidy tables alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure, SubFigure

from reports.aggregate import Tables
from reports.figures import by_epoch
from reports.figures.by_flops import accuracy_by_flops, step_speedup
from reports.figures.flips import flips
from reports.figures.series import CURVES, NothingToDrawError, Panel, notes, series_of
from reports.figures.style import (
    Look,
    close,
    curve_looks,
    fit_legend,
    letter,
    point_looks,
    style,
    words,
)
from study import model
from study.model import Experiment, ReportError, Row, Scale

PLOTS: dict[str, Callable[[SubFigure, Panel], Axes]] = {
    "schedule": by_epoch.schedule,
    "accuracy_by_epoch": by_epoch.accuracy_by_epoch,
    "accuracy_by_flops": accuracy_by_flops,
    "step_speedup": step_speedup,
    "flips": flips,
    "mask_change": by_epoch.mask_change,
    "sparse_flops": by_epoch.phase_flops,
    "dense_flops": by_epoch.phase_flops,
    "relabelled_true": by_epoch.relabelled,
    "relabelled_given": by_epoch.relabelled,
}
"""Draw each plot into its part of a figure, and return the axes that carry the title."""

_WIDTH = 3.4
"""Inches of one plot of several, about a column of text."""
_NARROW = 2.75
"""Of one of three beside each other."""
_HEIGHT = 2.7
_ALONE = (6.0, 3.4)
_LETTERS_PER_INCH = 13
_MOST_COLUMNS = 5


def draw(experiment: Experiment, scale: Scale, tables: Tables) -> Figure:
    """Draw the panels of an experiment's figure, which share one legend.

    Means over seeds with one standard deviation; runs that are left out are listed below. A panel
    without any averaged run says so.

    Raises:
        NothingToDrawError: no run of any panel is averaged.
        ReportError: there is no panel, a plot is unknown, a panel has no rows, or a run has not
            recorded what a plot shows.
    """
    if not experiment.panels:
        raise ReportError(f"experiment {experiment.id} of kind {experiment.kind} has no panels")
    style()
    looks = {
        "points": point_looks(experiment.all_rows),
        "curves": curve_looks(
            row for panel in experiment.panels if panel.plot in CURVES for row in panel.rows
        ),
    }
    panels = [_panel(experiment, each, looks, tables) for each in experiment.panels]
    columns, lines, size = _layout(experiment)
    figure = plt.figure(figsize=size)
    places = figure.subfigures(lines, columns, squeeze=False).flat
    empty = []
    for index, panel in enumerate(panels):
        try:
            axes = _axes(places[index], panel)
        except NothingToDrawError as error:
            empty.append(error)
            axes = _empty(places[index], "no run to draw")
        if len(panels) > 1:
            letter(axes, index, words(experiment.panels[index].title))
    if len(empty) == len(panels):
        close(figure)
        raise empty[0]
    _below(figure, _remarks(experiment, tables))
    _legend(figure, _heading(experiment, scale))
    return figure


def blank(experiment: Experiment, scale: Scale, tables: Tables, reason: str) -> Figure:
    """Draw the heading of a figure that cannot be drawn, and the reason."""
    style()
    figure = plt.figure(figsize=_ALONE)
    _empty(figure, words(reason, _letters(figure)))
    figure.suptitle(_heading(experiment, scale), fontsize=9)
    _below(figure, _remarks(experiment, tables))
    return figure


def _panel(
    experiment: Experiment,
    planned: model.Panel,
    looks: Mapping[str, Mapping[Row, Look]],
    tables: Tables,
) -> Panel:
    if planned.plot not in PLOTS:
        raise ReportError(
            f"experiment {experiment.id}: plot={planned.plot}: unknown. Allowed: {', '.join(PLOTS)}"
        )
    look = looks["curves" if planned.plot in CURVES else "points"]
    if not planned.rows:
        raise ReportError(f"experiment {experiment.id}: {planned.plot} has no rows to draw")
    found = (series_of(row, look[row], tables, planned.plot) for row in planned.rows)
    return Panel(experiment.id, planned.plot, tuple(each for each in found if each))


def _axes(place: SubFigure, panel: Panel) -> Axes:
    """Draw a panel, and return the axes that carry its title."""
    if not panel.series:
        raise NothingToDrawError(f"experiment {panel.experiment}: {panel.plot} has no run to draw")
    return PLOTS[panel.plot](place, panel)


def _empty(place: SubFigure | Figure, text: str) -> Axes:
    """Return axes that hold nothing but words."""
    place.clear()
    axes = place.subplots()
    axes.axis("off")
    axes.text(0.5, 0.5, text, ha="center", va="center", fontsize=9)
    return axes


def _remarks(experiment: Experiment, tables: Tables) -> list[str]:
    """Return the sentences below a figure: how many runs exist, and what it leaves out."""
    progress = tables.progress(experiment.runs)
    return [*([f"{progress}."] if progress else []), *notes(experiment, tables)]


def _layout(experiment: Experiment) -> tuple[int, int, tuple[float, float]]:
    """Return columns and lines of panels, and the figure's width and height in inches."""
    across = max(
        len({row.sparsity for row in panel.rows if row.method != "dense"})
        if panel.plot == "accuracy_by_flops"
        else 1
        for panel in experiment.panels
    )
    count = len(experiment.panels)
    if across == 1 and count == 1:
        return 1, 1, _ALONE
    columns = 2 if across == 1 else 1
    lines = -(-count // columns)
    wide = _WIDTH * 2 if across < 3 else _NARROW * 3
    return columns, lines, (wide, _HEIGHT * lines * -(-across // 3) + 0.5)


def _heading(experiment: Experiment, scale: Scale) -> str:
    name = f"Figure {experiment.paper}" if experiment.paper else experiment.title
    return words(f"{name} at {scale.name} scale")


def _below(figure: Figure, sentences: list[str]) -> None:
    if sentences:
        text = "\n".join(words(each, _letters(figure)) for each in sentences)
        figure.supxlabel(text, fontsize=8)
        figure.set_figheight(figure.get_figheight() + 0.16 * (text.count("\n") + 1))


def _letters(figure: Figure) -> int:
    """Return how many letters fit into a line of a figure."""
    return round(_LETTERS_PER_INCH * figure.get_figwidth())


def _legend(figure: Figure, heading: str) -> None:
    """Name each series once, above the panels."""
    handles = {
        label: handle[0] if isinstance(handle, ErrorbarContainer) else handle
        for axes in figure.axes
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    if by_epoch.SPARSE_PHASE in handles:
        handles[by_epoch.SPARSE_PHASE] = handles.pop(by_epoch.SPARSE_PHASE)
    count = len(handles)
    columns = (-(-count // lines) for lines in range(-(-count // _MOST_COLUMNS), count + 1))
    place = "outside upper center"
    fit_legend(figure, handles, columns, title=heading, loc=place, columnspacing=1.4)
