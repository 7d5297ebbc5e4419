"""Means that say nothing of a method are marked alike everywhere; STR is at its own sparsity."""

import csv
from pathlib import Path
from typing import Any

import pytest
from scipy.stats import binom

from acdc.data import DATASETS
from reports.aggregate import RunRow, read_runs
from reports.cells import line_of
from reports.export import to_csv
from reports.figures.style import close
from reports.findings import findings
from reports.html import report
from reports.models import is_at_chance, lower_mode, score
from reports.source import Source, build_table, draw_figure, open_study
from reports.tables import requested
from reports.text import DEGENERATE
from reports.typeset import to_latex
from tests.reports.tiny import change_json, line_of_method, runs_of, words


def record(test_accuracy: float, seed: int = 1, dataset: str = "digits") -> RunRow:
    return RunRow(
        run="", fingerprint="", status="finished", model="", dataset=dataset, method="acdc",
        sparsity_requested=0.9, seed=seed, epochs=4, test_accuracy=test_accuracy,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("dataset", "images"), [("digits", 359), ("cifar10", 10_000), ("imagenet", 50_000)]
)
def test_guessing_is_at_chance_and_thrice_its_accuracy_is_not(dataset: str, images: int) -> None:
    guess = 1 / DATASETS[dataset].classes
    likely = binom.isf(1e-5, images, guess) / images
    assert is_at_chance(record(likely, dataset=dataset))
    assert not is_at_chance(record(3 * guess, dataset=dataset))


@pytest.mark.parametrize(
    ("accuracies", "lower"),
    [
        ((0.7,), []),
        ((0.7, 0.68, 0.72), []),
        ((0.43, 0.59, 0.55), []),
        ((0.7, 0.15, 0.72), [2]),
        ((0.35, 0.72, 0.33), [1, 3]),
        ((0.72, 0.4), [2]),
        # Among runs at chance there is no better mode.
        ((0.1, 0.17, 0.1), []),
    ],
)
def test_two_modes(accuracies: tuple[float, ...], lower: list[int]) -> None:
    records = [record(each, seed) for seed, each in enumerate(accuracies, 1)]
    assert lower_mode(records) == lower


def change(source: Source, method: str, seed: int, product: str, which: str, **values: Any) -> None:
    (run,) = runs_of(source, method, seed)

    def update(data: dict[str, Any]) -> None:
        data["products"][product][which].update(values)

    change_json(source.folder / "runs" / run / "result.json", update)


def test_a_degenerate_mean_is_marked_in_every_output(copy: Path) -> None:
    whole = open_study(copy)
    change(whole, "acdc", 2, "sparse", "last", test_accuracy=0.1)
    bad = open_study(copy)
    table = build_table(bad, bad.study.experiment("table1"))
    note = f"{DEGENERATE} AC/DC at 90 %: at chance (seed 2); two modes, the lower one (seed 2)."
    assert note in table.notes
    for line in table.lines:
        marked = {cell.text.endswith(DEGENERATE) for cell in line.cells.values()}
        assert marked == {line.row.method == "acdc"}
    line = line_of_method(bad, "acdc")
    assert line.top1.n == 3
    assert min(line.scores.values()) == pytest.approx(10)
    (plain,) = [x for x in csv.DictReader(to_csv(table).splitlines()) if x["method"] == "acdc"]
    assert plain["top1_degenerate"] == line.degenerate
    tex = to_latex(table)
    shown = next(each for each in tex.splitlines() if each.strip().startswith("AC/DC &"))
    assert shown.count(r"\S{}") == len(table.columns)
    assert f">{line.cells['top1'].text}<" in report(bad)
    for name in ("figure3", "figure2a"):
        figure = draw_figure(bad, bad.study.experiment(name))
        assert note in words(figure)
        close(figure)
    verdicts = {each.other: each.verdict for found in findings(table) for each in found.differences}
    assert verdicts["Dense"].endswith(DEGENERATE)


@pytest.mark.parametrize(("epoch", "early"), [(0, True), (2, False)])
def test_fine_tuning_of_before_the_first_pruning(epoch: int, early: bool, copy: Path) -> None:
    """The phases are dense, sparse, dense, sparse, of an epoch each."""
    whole = open_study(copy)
    change(whole, "acdc", 3, "dense", "best", epoch=epoch)
    bad = open_study(copy)
    line = line_of_method(bad, "acdc", "table9")
    assert bool(line.cells["dense_ft_top1"].degenerate) == early
    assert not line.cells["dense_top1"].degenerate
    # A table of the fine-tuning alone says so too.
    (tuned,) = runs_of(bad, "acdc_dense", 3)
    alone = read_runs(copy, {tuned: bad.study.runs[tuned]})
    assert {row.before_pruning for row in alone.rows} == {early}


def test_a_dense_model_of_before_the_first_pruning(copy: Path) -> None:
    change(open_study(copy), "acdc", 3, "dense", "last", epoch=0)
    line = line_of_method(open_study(copy), "acdc", "table9")
    assert line.cells["dense_top1"].degenerate.endswith("(seed 3)")
    assert not line.cells["top1"].degenerate


def test_a_sparsity_that_is_an_outcome_is_shown_and_refuses_no_run(copy: Path) -> None:
    def without_target(certificate: dict[str, Any], kept: int) -> None:
        layers = certificate["layers"]
        layers[1] |= {"kept": kept, "nonzeros": kept}
        total = sum(each["weights"] for each in layers)
        certificate |= {
            "tolerance": 1.0,
            "pruned": 1 - sum(each["kept"] for each in layers) / total,
            "achieved": 1 - sum(each["nonzeros"] for each in layers) / total,
        }

    for seed, run in enumerate(runs_of(open_study(copy), "acdc"), 1):

        def update(data: dict[str, Any], seed: int = seed) -> None:
            for model in data["products"]["sparse"].values():
                without_target(model["certificate"], 1000 * seed)

        change_json(copy / "runs" / run / "result.json", update)
    found = open_study(copy)
    line = line_of_method(found, "acdc")
    assert (line.top1.n, line.top1.refused) == (3, 0)
    # 100 weights of each of the other layers are kept, of 10,000 in all.
    assert line.own_sparsity == "78.00 ± 10.00"
    assert requested(line) == "\N{EN DASH}"
    assert line_of_method(found, "rigl").own_sparsity == ""
    table = build_table(found, found.study.experiment("table1"))
    assert r"{78.00 $\pm$ 10.00}" in to_latex(table)
    assert ">78.00 ± 10.00<" in report(found)
    for name in ("figure3", "figure2a"):
        figure = draw_figure(found, found.study.experiment(name))
        assert "78.00 ± 10.00 %" in words(figure)
        close(figure)


def test_seeds_are_dots_beside_their_mean(source: Source) -> None:
    experiment = source.study.experiment("figure3")
    figure = draw_figure(source, experiment)
    dots = [tuple(xy) for axes in figure.axes for c in axes.collections for xy in c.get_offsets()]
    for row in experiment.all_rows:
        line = line_of(row, (), source.tables)
        if row.method != "dense" and line.top1.n > 1:
            for each in line.records:
                mine = (each.training_ratio, score(each))
                assert any(dot == pytest.approx(mine) for dot in dots)
    close(figure)
