"""Figures draw the means of the tables that they are given, and are the same bytes each time."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import rgb_to_hsv, to_rgb
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure

from reports.aggregate import RunRow, Tables
from reports.figures import PLOTS, draw
from reports.figures.series import NothingToDrawError
from reports.figures.style import INK, close, curve_looks, inline_svg, point_looks, to_bytes
from reports.outputs import FORMATS
from reports.source import Source, draw_figure
from study import columns
from study.model import Experiment, Panel, ReportError, Row, Scale, Task
from tests.reports.tiny import check_layout, words

EPOCHS = 10
TASK = Task("toy", "resnet8_s2", "digits", EPOCHS)
SCALE = Scale("toy", "Toy scale", "For tests.")
PHASES = (("dense", 0, 2), ("sparse", 2, 4), ("dense", 4, 6), ("sparse", 6, 10))
SEEDS = (1, 2, 3)
DENSE_FLOPS = 1000.0
FLOPS = {("sparse", 4): 0.25, ("sparse", 10): 0.24, ("dense", 2): 1.0, ("dense", 6): 0.75}


RIGHT = ("both_right", "sparse_right", "dense_right")


@dataclass
class Records:
    """Tables made by hand: means are those of seed 2, standard deviations known."""

    rows: list[RunRow] = field(default_factory=list)
    journal: list[dict[str, Any]] = field(default_factory=list)

    def row(
        self,
        label: str,
        method: str,
        sparsity: float,
        seeds: Iterable[int] = SEEDS,
        epochs: int = EPOCHS,
        phases: tuple[tuple[str, int, int], ...] = PHASES,
        diverged: tuple[int, ...] = (),
        refused: tuple[int, ...] = (),
        relabelled: bool = True,
        top1: float = 0.7,
        cost: float = 0.5,
        speedup: float | None = 2.0,
        right: tuple[float, float, float] | None = (0.6, 0.1, 0.2),
    ) -> Row:
        product = "dense" if method == "dense" else "sparse"
        if method == "dense":
            phases = (("dense", 0, epochs),)
        names = []
        for seed in seeds:
            name = f"{method}_{label}_{sparsity}_{epochs}_seed{seed}".replace(" ", "")
            names.append(name)
            run = RunRow(
                run=name,
                fingerprint=name,
                status="diverged" if seed in diverged else "finished",
                model=TASK.model,
                dataset=TASK.dataset,
                method=method,
                seed=seed,
                epochs=epochs,
                sparsity_requested=sparsity,
                dense_inference_flops=DENSE_FLOPS,
                dense_training_flops=3e6 * epochs,
            )
            if seed in diverged:
                self.rows.append(run)
            else:
                self.rows += [
                    replace(
                        run,
                        product=product,
                        which=which,
                        test_accuracy=top1 + 0.01 * (seed - 2),
                        training_flops=3e6 * EPOCHS * cost,
                        inference_ratio=1 - sparsity,
                        step_speedup=speedup,
                        **dict(zip(RIGHT, right, strict=True)) if right else {},
                        agreement=0.7 if right else None,
                        sparsity_achieved=sparsity,
                        sparsity_pruned=sparsity,
                        certificate_holds=seed not in refused,
                        certificate_failures="too dense" if seed in refused else "",
                    )
                    for which in ("last", "best")
                ]
            self.journal += lines_of(name, seed, sparsity, phases, relabelled)
        return Row(label, method, sparsity, epochs, product, tuple(names), (), None, TASK)

    @property
    def tables(self) -> Tables:
        return Tables(tuple(self.rows), tuple(self.journal))

    def draw(self, *panels: Panel, **more: Any) -> Figure:
        given = {"id": "figure9", "title": "Toy", "paper": "9", "reference": None, **more}
        experiment = Experiment(
            kind="figure", caption="", awaits=None, columns=(), rows=(), panels=panels, **given
        )
        return draw(experiment, SCALE, self.tables)


def accuracy_at(epoch: int, sparsity: float) -> float:
    return 0.4 + 0.03 * epoch - 0.1 * sparsity


def lines_of(
    run: str, seed: int, sparsity: float, phases: Iterable[tuple[str, int, int]], relabelled: bool
) -> Iterator[dict[str, Any]]:
    common = {"run": run, "seed": seed}
    more, prunings = 0.01 * (seed - 2), 0
    for phase, first, end in phases:
        if phase == "sparse" and first:
            change = 0.1 * prunings * seed if prunings else None
            yield {**common, "epoch": first, "event": "prune", "mask_change_of_kept": change}
            prunings += 1
        for epoch in range(first, end):
            accuracy = accuracy_at(epoch, sparsity) + more
            at_end = (phase, epoch + 1)
            ratio = FLOPS[at_end] - 0.1 * sparsity if at_end in FLOPS else 0.5
            yield {
                **common,
                **{"epoch": epoch, "phase": phase, "val_accuracy": accuracy},
                "sparsity": sparsity if phase == "sparse" else 0.0,
                "forward_flops": DENSE_FLOPS * (ratio + more),
                "relabelled_true_accuracy": accuracy / 2 if relabelled else None,
                "relabelled_given_accuracy": accuracy / 4 if relabelled else None,
            }


def curves(axes: Axes) -> dict[str, np.ndarray]:
    named = [line for line in axes.lines if not str(line.get_label()).startswith("_")]
    return {str(line.get_label()): np.asarray(line.get_xydata()) for line in named}


def shaded(axes: Axes) -> list[tuple[float, float]]:
    boxes = [patch for patch in axes.patches if patch.get_label() == "sparse phase"]
    return [(patch.get_x(), patch.get_x() + patch.get_width()) for patch in boxes]


def band(axes: Axes, index: int, x: float) -> tuple[float, float]:
    """Return the ends of a series' band at an x."""
    points = axes.collections[index].get_paths()[0].vertices
    at = points[points[:, 0] == x][:, 1]
    return float(at.min()), float(at.max())


def legend(figure: Figure) -> list[str]:
    (found,) = figure.legends
    return [text.get_text() for text in found.get_texts()]


@pytest.fixture
def records() -> Records:
    return Records()


def three(records: Records) -> tuple[Row, ...]:
    """Dense training and AC/DC at two sparsities."""
    return (
        records.row("Dense", "dense", 0.0),
        records.row("AC/DC", "acdc", 0.8),
        records.row("AC/DC", "acdc", 0.95),
    )


@pytest.mark.parametrize(
    ("plot", "factor"),
    [
        ("schedule", 100.0),
        ("accuracy_by_epoch", 100.0),
        ("relabelled_true", 50.0),
        ("relabelled_given", 25.0),
    ],
)
def test_accuracy_by_epoch(plot: str, factor: float, records: Records) -> None:
    figure = records.draw(Panel(plot, "", three(records)))
    axes = figure.axes[0]
    drawn = curves(axes)
    expected = {"Dense": 0.0, "AC/DC, 80 %": 0.8, "AC/DC, 95 %": 0.95}
    assert legend(figure) == [*expected, "sparse phase"]
    assert list(drawn) == list(expected)
    for index, (label, sparsity) in enumerate(expected.items()):
        means = [factor * accuracy_at(epoch, sparsity) for epoch in range(EPOCHS)]
        np.testing.assert_allclose(drawn[label][:, 0], range(1, EPOCHS + 1))
        np.testing.assert_allclose(drawn[label][:, 1], means)
        # The standard deviation of 0.99, 1 and 1.01 times one per cent is one per cent.
        ends = means[6] - factor * 0.01, means[6] + factor * 0.01
        assert band(axes, index, 7) == pytest.approx(ends)
    assert shaded(axes) == [(2, 4), (6, 10)]
    assert all(tick == int(tick) for tick in axes.get_xticks())
    close(figure)


def test_schedule_has_a_strip_of_sparsity(records: Records) -> None:
    figure = records.draw(Panel("schedule", "", three(records)))
    top, strip = figure.axes
    for patch, sparsity in zip(strip.patches[:2], (80, 95), strict=True):
        steps = patch.get_data()
        expected = [0, 0, *[sparsity] * 2, 0, 0, *[sparsity] * 4]
        np.testing.assert_allclose(steps.values, expected)
        np.testing.assert_allclose(steps.edges, range(EPOCHS + 1))
    assert shaded(strip) == shaded(top) == [(2, 4), (6, 10)]
    assert strip.get_xlim() == top.get_xlim()
    close(figure)


def test_phases_that_differ_are_not_shaded(records: Records) -> None:
    other = (("dense", 0, 5), ("sparse", 5, 10))
    rows = (records.row("AC/DC", "acdc", 0.9), records.row("Short", "acdc", 0.9, phases=other))
    figure = records.draw(Panel("accuracy_by_epoch", "", rows))
    assert shaded(figure.axes[0]) == []
    assert legend(figure) == ["AC/DC, 90 %", "Short, 90 %"]
    close(figure)


def test_mask_change_by_pruning(records: Records) -> None:
    twice = (*PHASES[:3], ("sparse", 6, 7), ("dense", 7, 8), ("sparse", 8, 10))
    row = records.row("AC/DC", "acdc", 0.9, phases=twice)
    dense = records.row("Dense", "dense", 0.0)
    figure = records.draw(Panel("mask_change", "", (dense, row)))
    (axes,) = figure.axes
    assert list(curves(axes)) == ["AC/DC, 90 %"]
    # From the second pruning on, at the epoch that it begins with; 10, 20 and 30 % on average 20.
    np.testing.assert_allclose(curves(axes)["AC/DC, 90 %"], [[6, 20], [8, 40]])
    assert band(axes, 0, 6) == pytest.approx((10, 30))
    assert "% of kept" in axes.get_ylabel()
    close(figure)


@pytest.mark.parametrize(("plot", "ends"), [("sparse_flops", (4, 10)), ("dense_flops", (2, 6))])
def test_flops_at_the_ends_of_phases(plot: str, ends: tuple[int, int], records: Records) -> None:
    figure = records.draw(Panel(plot, "", three(records)))
    (axes,) = figure.axes
    kind = plot.removesuffix("_flops")
    for label, sparsity in (("AC/DC, 80 %", 0.8), ("AC/DC, 95 %", 0.95)):
        expected = [[end, FLOPS[kind, end] - 0.1 * sparsity] for end in ends]
        np.testing.assert_allclose(curves(axes)[label], expected)
    assert axes.get_ylim()[0] == 0
    assert axes.get_ylim()[1] > FLOPS[kind, ends[0]] - 0.08
    close(figure)


def points(axes: Axes) -> dict[str, tuple[float, float]]:
    found = [bar for bar in axes.containers if isinstance(bar, ErrorbarContainer)]
    return {str(bar.get_label()): tuple(bar.lines[0].get_xydata()[0]) for bar in found}


def test_accuracy_over_cost(records: Records) -> None:
    rows = (
        records.row("Dense", "dense", 0.0, top1=0.8, cost=1.0),
        records.row("RigL", "rigl", 0.9, top1=0.7, cost=0.3),
        records.row("RigL 2x", "rigl", 0.9, seeds=(2,), epochs=2 * EPOCHS, top1=0.75, cost=0.6),
        records.row("One-shot", "one_shot", 0.9, top1=0.2, cost=1.0),
        records.row("RigL", "rigl", 0.95, top1=0.6, cost=0.2),
    )
    figure = records.draw(Panel("accuracy_by_flops", "", rows))
    first, second = figure.axes
    assert points(second) == {"RigL": pytest.approx((0.2, 60))}
    drawn = points(first)
    assert drawn.keys() == {"RigL", "RigL 2x", "One-shot"}
    assert drawn["RigL"] == pytest.approx((0.3, 70))
    assert drawn["RigL 2x"] == pytest.approx((0.6, 75))
    assert drawn["One-shot"] == pytest.approx((1.0, 20))
    bars = {str(bar.get_label()): bar for bar in first.containers}
    assert bars["RigL"].has_yerr
    assert not bars["RigL 2x"].has_yerr
    (span,) = bars["RigL"].lines[2]
    np.testing.assert_allclose(span.get_segments()[0][:, 1], [69, 71])
    assert curves(first)["Dense"][0, 1] == pytest.approx(80)
    assert legend(figure) == ["Dense", "RigL", "RigL 2x", "One-shot"]
    close(figure)


def test_measured_over_theoretical_speedup(records: Records) -> None:
    rows = (
        records.row("Dense", "dense", 0.0, speedup=None),
        records.row("AC/DC", "acdc", 0.9, seeds=(1,), speedup=1.5),
        records.row("RigL", "rigl", 0.75, seeds=(1,), speedup=0.9),
        records.row("STR", "str", 0.75, seeds=(1,), speedup=None),
    )
    figure = records.draw(Panel("step_speedup", "", rows))
    (axes,) = figure.axes
    assert legend(figure) == ["AC/DC", "RigL"]
    drawn = curves(axes)
    np.testing.assert_allclose(drawn["AC/DC"], [(10, 1.5)])
    np.testing.assert_allclose(drawn["RigL"], [(4, 0.9)])
    low, high = axes.get_ylim()
    assert low < 0.9
    assert high > 1.5
    assert axes.get_xlim()[1] > 10
    with pytest.raises(NothingToDrawError):
        records.draw(Panel("step_speedup", "", rows[-1:]))
    close(figure)


def test_images_that_either_model_gets_right(records: Records) -> None:
    rows = (
        records.row("Dense", "dense", 0.0),
        records.row("AC/DC", "acdc", 0.9, right=(0.6, 0.1, 0.2)),
        records.row("GMP", "gmp", 0.9, right=(0.5, 0.15, 0.25)),
        records.row("STR", "str", 0.9, right=None),
    )
    figure = records.draw(Panel("flips", "", rows))
    (axes,) = figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["AC/DC, 90 %", "GMP, 90 %"]
    widths = [[bar.get_width() for bar in bars] for bars in axes.containers]
    np.testing.assert_allclose(widths, [[60, 50], [10, 15], [20, 25], [10, 10]])
    ends = [[bar.get_x() + bar.get_width() for bar in bars] for bars in axes.containers]
    np.testing.assert_allclose(ends[-1], [100, 100])
    with pytest.raises(NothingToDrawError):
        records.draw(Panel("flips", "", rows[-1:]))
    close(figure)


def test_runs_left_out_are_said_below(records: Records) -> None:
    row = records.row("AC/DC", "acdc", 0.9, diverged=(1,), refused=(3,))
    figure = records.draw(Panel("accuracy_by_epoch", "", (row,)))
    (axes,) = figure.axes
    expected = [100 * accuracy_at(epoch, 0.9) for epoch in range(EPOCHS)]
    np.testing.assert_allclose(curves(axes)["AC/DC, 90 %"][:, 1], expected)
    assert not axes.collections, "one run has no band"
    said = "AC/DC at 90 %: 1 of 3, 1 diverged, 1 refused: too dense (seed 3)."
    assert said in words(figure)
    close(figure)


def test_a_row_without_runs_is_said_below(records: Records) -> None:
    awaited = replace(records.row("AC/DC", "acdc", 0.98), runs=())
    figure = records.draw(Panel("schedule", "", (records.row("AC/DC", "acdc", 0.9), awaited)))
    assert "AC/DC at 98 %: not trained." in words(figure)
    assert legend(figure) == ["AC/DC, 90 %", "sparse phase"]
    close(figure)


@pytest.mark.parametrize(
    ("plot", "column"),
    [
        *((plot, f"{plot}_accuracy") for plot in ("relabelled_true", "relabelled_given")),
        ("mask_change", "mask_change_of_kept"),
    ],
)
def test_a_journal_without_a_plots_column_is_named(
    plot: str, column: str, records: Records
) -> None:
    # One pruning changes no mask.
    row = records.row("AC/DC", "acdc", 0.9, relabelled=False, phases=PHASES[:2])
    for rows in ((row,), (records.row("Other", "acdc", 0.9), row)):
        with pytest.raises(ReportError, match=rf"figure9.*{row.runs[0]} has no {column}"):
            records.draw(Panel(plot, "", rows))


def test_nothing_to_draw_is_an_error(records: Records) -> None:
    diverged = records.row("AC/DC", "acdc", 0.9, diverged=SEEDS)
    dense = records.row("Dense", "dense", 0.0)
    with pytest.raises(ReportError, match="figure9: schedule has no run to draw"):
        records.draw(Panel("schedule", "", (diverged,)))
    with pytest.raises(ReportError, match="figure9: schedule has no run of a sparse method"):
        records.draw(Panel("schedule", "", (dense, diverged)))
    with pytest.raises(ReportError, match="figure9: sparse_flops has no run of a sparse method"):
        records.draw(Panel("sparse_flops", "", (dense, diverged)))
    with pytest.raises(ReportError, match="plot=pie: unknown"):
        records.draw(Panel("pie", "", (dense,)))
    with pytest.raises(ReportError, match="figure9 of kind figure has no panels"):
        records.draw()


def test_letters_legend_and_heading(records: Records) -> None:
    rows = three(records)
    panels = [Panel(plot, f"the {plot}", rows[1:]) for plot in ("sparse_flops", "dense_flops")]
    figure = records.draw(Panel("accuracy_by_epoch", "accuracy", rows), *panels)
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles == ["(a) accuracy", "(b) the sparse_flops", "(c) the dense_flops"]
    assert legend(figure) == ["Dense", "AC/DC, 80 %", "AC/DC, 95 %", "sparse phase"]
    assert figure.legends[0].get_title().get_text() == "Figure 9 at toy scale"
    close(figure)
    figure = records.draw(Panel("schedule", "untitled", rows), paper=None, title="Our own")
    assert figure.legends[0].get_title().get_text() == "Our own at toy scale"
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["", ""]
    close(figure)


def crowd(records: Records) -> tuple[Row, ...]:
    """As many series as a plot of accuracy over cost may have."""
    rows = [records.row("Dense", "dense", 0.0, top1=0.8, cost=1.0)]
    for sparsity in (0.8, 0.9, 0.95):
        for place, (method, name) in enumerate(
            [
                ("acdc", "AC/DC"),
                ("acdc", "AC/DC, short dense phases"),
                ("top_kast", "Top-KAST, backward 0 %"),
                ("top_kast", "Top-KAST, backward 80 %"),
                ("rigl", "RigL"),
                ("gmp", "GMP"),
            ]
        ):
            head, *tail = name.split(", ")
            for times in (1, 2, 5):
                label = ", ".join([f"{head} {times}x", *tail])
                top1 = 0.75 - 0.02 * place + 0.01 * times - 0.1 * sparsity
                cost = times * (0.3 + 0.05 * place)
                epochs = times * EPOCHS
                row = records.row(label, method, sparsity, epochs=epochs, top1=top1, cost=cost)
                rows.append(row)
    return tuple(rows)


LAYOUTS = {
    "two": ("schedule", "relabelled_true"),
    "three": ("accuracy_by_epoch", "mask_change", "dense_flops"),
    "four": ("schedule", "mask_change", "sparse_flops", "relabelled_given"),
    "the same twice": ("schedule", "schedule"),
    "points and curves": ("accuracy_by_flops", "mask_change"),
    "crowd": ("accuracy_by_flops",),
    "speed": ("step_speedup", "step_speedup"),
    "pairs": ("flips",),
}


def test_every_plot_is_in_a_layout() -> None:
    assert set(PLOTS) == set(get_args(columns.Plot)) == {p for ps in LAYOUTS.values() for p in ps}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_nothing_overlaps_or_leaves_the_figure(layout: str, records: Records) -> None:
    rows = (*three(records), records.row("AC/DC", "acdc", 0.9, diverged=(1,)))
    shown = crowd(records) if layout == "crowd" else rows
    figure = records.draw(*(Panel(plot, plot, shown) for plot in LAYOUTS[layout]))
    check_layout(figure)
    smallest = min(axes.get_window_extent().height for axes in figure.axes) / figure.dpi
    assert smallest > 0.4
    close(figure)


def test_methods_keep_their_look(records: Records) -> None:
    rigl = records.row("RigL", "rigl", 0.9)
    erk = records.row("RigL (ERK)", "rigl", 0.9)
    longer = records.row("RigL 2x (ERK)", "rigl", 0.9, epochs=2 * EPOCHS)
    others = (
        records.row("Dense", "dense", 0.0),
        records.row("Mine", "mine", 0.9),
        records.row("AC/DC", "acdc", 0.9),
    )
    alone = point_looks([rigl])[rigl]
    looks = point_looks([*others, rigl, erk, longer])
    assert looks[rigl] == alone
    assert looks[others[0]].colour == INK
    assert len({look.colour for look in looks.values()}) == 4
    assert (alone.colour, alone.marker) == (looks[erk].colour, looks[erk].marker)
    assert alone.fill != looks[erk].fill == looks[longer].fill
    assert looks[longer].size > looks[erk].size == alone.size
    assert curve_looks([others[2]])[others[2]].colour == looks[others[2]].colour


def test_sparser_is_darker(records: Records) -> None:
    rows = [records.row("AC/DC", "acdc", s) for s in (0.95, 0.5, 0.9, 0.75)]
    looks = curve_looks(rows)
    by_sparsity = [looks[row].colour for row in sorted(rows, key=lambda row: row.sparsity)]
    luminance = [np.dot(to_rgb(colour), (0.2126, 0.7152, 0.0722)) for colour in by_sparsity]
    assert all(b < a - 0.05 for a, b in pairwise(luminance))
    hues = [rgb_to_hsv(to_rgb(colour))[0] for colour in by_sparsity]
    assert max(hues) - min(hues) < 0.02
    assert len({looks[row].marker for row in rows}) == len(rows)


def test_page_colours(records: Records) -> None:
    rows = three(records)
    figure = records.draw(Panel("accuracy_by_epoch", "", rows))
    text = inline_svg(to_bytes(figure, "svg", "toy"), "toy", 'a "quoted" <text>')
    close(figure)
    assert INK not in text
    assert text.startswith("<svg")
    assert "a &#34;quoted&#34; &lt;text&gt;" in text
    assert 'id="toy-' in text
    for look in curve_looks(rows).values():
        assert f": {look.colour}" not in text
    for share, ground in ((55, "var(--page, white)"), (50, "currentColor")):
        assert f"color-mix(in srgb, var(--c0, #0072b2) {share}%, {ground})" in text


def test_equal_images_of_a_figure_have_no_id_in_common() -> None:
    figure = Figure()
    for axes in figure.subplots(1, 2):
        axes.imshow(np.eye(3))
        axes.plot([0, 1], marker="o")
    text = inline_svg(to_bytes(figure, "svg", "toy"), "toy", "two panels")
    assert text.count("<image") == 2
    ids, used = (re.findall(rf'{key}([^")]+)', text) for key in ('\\bid="', '(?:href="|url\\()#'))
    assert len(ids) == len(set(ids))
    assert set(ids) == set(used)


def test_the_same_figure_is_the_same_bytes(source: Source, outputs: Path) -> None:
    for experiment in source.study.experiments:
        if experiment.kind == "figure":
            figure = draw_figure(source, experiment)
            for form in FORMATS:
                stored = (outputs / "figures" / f"{experiment.id}.{form}").read_bytes()
                assert stored
                assert to_bytes(figure, form, experiment.id) == stored
            close(figure)
