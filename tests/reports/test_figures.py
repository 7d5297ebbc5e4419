"""Figures draw the numbers they were given, and are the same bytes each time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.container import ErrorbarContainer

from reports.figures.style import INK, close, inline_svg, looks, to_bytes
from reports.outputs import FORMATS, Source, build_table, draw_figure
from reports.theory import read_curves, read_summary, verdicts


def test_accuracy_over_cost(source: Source) -> None:
    table = build_table(source, source.plan.experiment("own"))
    figure = draw_figure(source, source.plan.experiment("figure3"))
    sparsities = sorted({c.row.sparsity for c in table.rows} - {0.0})
    assert len(figure.axes) == len(sparsities)
    for axes, sparsity in zip(figure.axes, sparsities, strict=True):
        drawn = {
            str(bar.get_label()): bar.lines[0].get_xydata()[0]
            for bar in axes.containers
            if isinstance(bar, ErrorbarContainer)
        }
        here = [c for c in table.rows if c.row.sparsity == sparsity]
        assert set(drawn) == {cells.row.label for cells in here}
        for cells in here:
            x, y = drawn[cells.row.label]
            assert x == pytest.approx(cells.training_ratio.mean)
            if y > axes.get_ylim()[0]:
                assert y == pytest.approx(cells.top1.mean)
            else:
                assert f"{cells.top1.mean:.1f} % ↓" in [t.get_text() for t in axes.texts]
        dense = next(cells for cells in table.rows if cells.is_dense)
        assert axes.lines[0].get_ydata()[0] == pytest.approx(dense.top1.mean)
    close(figure)


def test_schedule_shows_mean_sparsity_and_phases(source: Source) -> None:
    experiment = source.plan.experiment("figure2a")
    figure = draw_figure(source, experiment)
    top, bottom = figure.axes
    acdc = next(row for row in experiment.rows if row.method == "acdc")
    epochs = source.tables.epochs
    mine = epochs[epochs["run"].isin(acdc.runs)]
    expected = 100 * mine.groupby("epoch")["val_accuracy"].mean()
    line = next(line for line in top.lines if line.get_label() == "AC/DC, 90 %")
    np.testing.assert_allclose(line.get_xdata(), expected.index + 1)
    np.testing.assert_allclose(line.get_ydata(), expected)
    steps = bottom.patches[0].get_data()
    np.testing.assert_allclose(steps.values, 100 * mine.groupby("epoch")["sparsity"].mean())
    np.testing.assert_allclose(steps.edges, np.arange(len(expected) + 1))
    shaded = [patch.get_extents().transformed(top.transData.inverted()) for patch in top.patches]
    assert [(round(box.x0), round(box.x1)) for box in shaded] == [(1, 2), (3, 4)]
    close(figure)


def test_iht_draws_gaps_and_no_vacuous_bound(source: Source) -> None:
    curves = read_curves(source.study)
    figure = draw_figure(source, source.plan.experiment("theory_iht"))
    assert len(figure.axes) == 3
    full = curves[curves["oracle"] == "full"]
    bounded = full.loc[~full["bound_is_vacuous"], "k_ratio"].nunique()
    ratios = full["k_ratio"].nunique()
    assert bounded < ratios
    assert len(figure.axes[0].lines) == ratios + bounded
    first = full[(full["k_ratio"] == 1)].pivot(index="iteration", columns="seed", values="gap")
    drawn = figure.axes[0].lines[0].get_ydata()
    np.testing.assert_allclose(drawn[:3], np.exp(np.log(first).mean(axis=1))[:3])
    assert all(axes.get_yscale() == "log" for axes in figure.axes)
    close(figure)


def test_verdicts_are_those_of_the_runs(source: Source) -> None:
    summary = read_summary(source.study)
    table = verdicts(summary)
    assert len(table) == summary.groupby(["oracle_label", "k_ratio"]).ngroups
    for line in table.itertuples():
        same = (summary["oracle_label"] == line.oracle_label) & (summary["k_ratio"] == line.k_ratio)
        runs = summary[same]
        if line.verdict == "vacuous":
            assert runs["bound_is_vacuous"].all()
        elif line.verdict == "holds":
            assert runs["holds"].astype(bool).all()


@pytest.mark.parametrize("name", ["figure3", "figure2a", "theory_iht"])
def test_the_same_figure_is_the_same_bytes(source: Source, outputs: Path, name: str) -> None:
    figure = draw_figure(source, source.plan.experiment(name))
    for form in FORMATS:
        stored = (outputs / "figures" / f"{name}.{form}").read_bytes()
        assert stored
        assert to_bytes(figure, form, name) == stored
    close(figure)


def test_methods_keep_their_look() -> None:
    alone = looks([("rigl", "RigL")])["rigl", "RigL"]
    among = looks([("dense", "Dense"), ("mine", "Mine"), ("acdc", "AC/DC"), ("rigl", "RigL")])
    assert among["rigl", "RigL"] == alone
    assert among["dense", "Dense"].colour == INK
    variants = looks([("rigl", "RigL"), ("rigl", "RigL (ERK)")])
    plain, erk = variants.values()
    assert (plain.colour, plain.marker) == (erk.colour, erk.marker)
    assert plain.fill != erk.fill


def test_inline_svg_has_its_own_ids_and_the_pages_ink(outputs: Path) -> None:
    svg = (outputs / "figures" / "figure3.svg").read_bytes()
    text = inline_svg(svg, "figure3", 'a "quoted" <text>')
    assert text.startswith("<svg")
    assert INK not in text
    assert 'id="figure3-' in text
    assert "&quot;quoted&quot; &lt;text" in text
