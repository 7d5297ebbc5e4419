"""A run whose sparsity certificate does not hold enters no mean, and everything says so."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from reports.aggregate import aggregate, write_tables
from reports.cells import Cells, by_seed
from reports.figures.style import close
from reports.findings import findings
from reports.html import report
from reports.outputs import Source, build_table, draw_figure, write_table
from study.model import read_study

Spoil = Callable[[dict[str, Any]], None]


def more_weights_than_the_mask(records: dict[str, Any]) -> None:
    layer = records["best"]["certificate"]["layers"][1]
    layer["nonzeros"] = layer["kept"] + 1


def not_the_sparsity(records: dict[str, Any]) -> None:
    records["last"]["certificate"]["requested"] = 0.5


def does_not_hold(records: dict[str, Any]) -> None:
    records["last"]["certificate"]["holds"] = False


def no_certificate(records: dict[str, Any]) -> None:
    del records["last"]["certificate"]


REASONS: dict[Spoil, str] = {
    more_weights_than_the_mask: "weights that are not zero, its mask keeps",
    not_the_sparsity: "50.0000% were requested",
    does_not_hold: "the certificate does not hold",
    no_certificate: "there is no certificate",
}


def row_of(source: Source, method: str, table: str = "table1") -> Cells:
    rows = build_table(source, source.plan.experiment(table)).rows
    return next(cells for cells in rows if cells.row.method == method)


@pytest.fixture
def spoiled(study: Path, tmp_path: Path) -> Callable[..., Source]:
    """Return a function that spoils the results of a method at some seeds and aggregates them."""

    def make(spoil: Spoil, *seeds: int, product: str = "sparse", method: str = "acdc") -> Source:
        copy = tmp_path / "study"
        shutil.copytree(study, copy)
        plan = read_study(copy)
        for name, run in plan.runs.items():
            if run["method"] == method and run["seed"] in seeds:
                path = copy / "runs" / name / "result.json"
                data = json.loads(path.read_text(encoding="utf-8"))
                spoil(data["products"][product])
                path.write_text(json.dumps(data), encoding="utf-8")
        tables = aggregate(copy, plan)
        write_tables(copy, tables)
        return Source(copy, plan, tables)

    return make


@pytest.mark.parametrize("spoil", REASONS, ids=lambda spoil: spoil.__name__)
def test_its_values_enter_no_mean(
    spoil: Spoil, spoiled: Callable[..., Source], source: Source
) -> None:
    whole = by_seed(source.tables.runs, row_of(source, "acdc").row)
    bad = spoiled(spoil, 2)
    cells = row_of(bad, "acdc")
    assert (cells.top1.n, cells.top1.refused, cells.top1.diverged) == (2, 1, 0)
    assert cells.top1.mean == pytest.approx((whole[1] + whole[3]) / 2)
    assert set(by_seed(bad.tables.runs, cells.row)) == {1, 3}
    ratio = cells.ours("inference_ratio")
    for summary in (cells.top1_best, cells.sparsity, ratio, cells.training_ratio):
        assert summary is not None
        assert (summary.n, summary.refused) == (2, 1)
    (note,) = cells.notes
    assert note.startswith("AC/DC at 90 %: 2 of 3, 1 refused: ")
    assert REASONS[spoil] in note
    assert note.endswith("(seed 2).")
    others = [c for c in build_table(bad, bad.plan.experiment("table1")).rows if c != cells]
    assert all(c.top1.refused == 0 for c in others)


def test_every_output_says_so(spoiled: Callable[..., Source]) -> None:
    bad = spoiled(no_certificate, 2)
    experiment = bad.plan.experiment("table1")
    said = "AC/DC at 90 %: 2 of 3, 1 refused: there is no certificate (seed 2)."
    tex, data, plain = (path.read_text() for path in write_table(bad, experiment))
    assert said.replace("%", r"\%") in tex
    (line,) = [row for row in csv.DictReader(data.splitlines()) if row["method"] == "acdc"]
    assert (line["n"], line["refused"], line["notes"]) == ("2", "1", said)
    (row,) = [row for row in json.loads(plain)["rows"] if row["method"] == "acdc"]
    assert row["top1_pct"]["refused"] == 1
    (refused,) = row["refused"]
    assert refused["reasons"] == ["there is no certificate"]
    page = report(bad)
    assert said in page
    assert ", of which 1 diverged and 1 refused" in page
    start = page.index("<h3>Refused</h3>")
    assert f"{refused['run']}</a>, sparse model (last)" in page[start : page.index("</ul>", start)]
    (finding,) = [
        f for f in findings(build_table(bad, experiment), bad.tables.runs) if f.sparsity == 0.9
    ]
    assert said in finding.sentences
    assert {d.summary.n for d in finding.differences if d.other == "Dense"} == {2}


@pytest.mark.parametrize("name", ["figure3", "figure2a"])
def test_every_figure_says_so(name: str, spoiled: Callable[..., Source]) -> None:
    bad = spoiled(no_certificate, 2)
    figure = draw_figure(bad, bad.plan.experiment(name))
    texts = [text.get_text() for text in figure.findobj() if hasattr(text, "get_text")]
    below = " ".join(" ".join(texts).split())
    assert "AC/DC at 90 %: 2 of 3, 1 refused: there is no certificate (seed 2)." in below
    close(figure)


def test_a_refused_run_is_not_drawn(spoiled: Callable[..., Source]) -> None:
    bad = spoiled(no_certificate, 1, 2)
    experiment = bad.plan.experiment("figure2a")
    figure = draw_figure(bad, experiment)
    line = next(x for x in figure.axes[0].lines if x.get_label() == "AC/DC, 90 %")
    epochs = bad.tables.epochs
    acdc = next(row for row in experiment.all_rows if row.method == "acdc")
    (third,) = [run for run in acdc.run.lifecycle if "_seed3-" in run]
    expected = 100 * epochs[epochs["run"] == third]["val_accuracy"]
    assert list(line.get_ydata()) == pytest.approx(list(expected))
    close(figure)


def test_where_all_are_refused_there_is_no_number(spoiled: Callable[..., Source]) -> None:
    bad = spoiled(does_not_hold, 1, 2, 3)
    cells = row_of(bad, "acdc")
    assert (cells.top1.mean, cells.top1.n, cells.top1.refused) == (None, 0, 3)
    tex = write_table(bad, bad.plan.experiment("table1"))[0].read_text()
    assert r"\multicolumn{2}{c}{0 of 3, 3 refused}" in tex
    assert "0 of 3, 3 refused" in report(bad)


def test_the_dense_model_is_refused_by_itself(spoiled: Callable[..., Source]) -> None:
    cells = row_of(spoiled(no_certificate, 2, product="dense"), "acdc", "own")
    assert (cells.top1.n, cells.top1.refused) == (3, 0)
    dense = cells.ours("dense_top1")
    assert dense is not None
    assert (dense.n, dense.refused) == (2, 1)
    assert cells.notes == (
        "AC/DC, dense model, at 90 %: 2 of 3, 1 refused: there is no certificate (seed 2).",
    )


def test_the_fine_tuned_dense_model_is_refused_by_itself(spoiled: Callable[..., Source]) -> None:
    bad = spoiled(no_certificate, 2, product="dense", method="acdc_dense")
    cells = row_of(bad, "acdc", "table9")
    tuned, dense = cells.ours("dense_ft_top1"), cells.ours("dense_top1")
    assert tuned is not None
    assert dense is not None
    assert (tuned.n, tuned.refused) == (2, 1)
    assert (cells.top1.n, dense.n) == (3, 3)
    (note,) = cells.notes
    assert note.startswith("AC/DC, fine-tuned dense model, at 90 %: 2 of 3, 1 refused: ")
