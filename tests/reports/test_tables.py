"""Cells against the runs behind them; LaTeX that is whole, escaped and equal to the CSV."""

from __future__ import annotations

import csv
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from reports.cells import Table, accuracy_table, by_seed
from reports.findings import findings
from reports.latex import escape
from reports.outputs import Source, build_table
from reports.paper import paper_values
from reports.plan import PaperRow, ReportError


@pytest.fixture(scope="module")
def table(source: Source) -> Table:
    return build_table(source, source.plan.experiment("table1"))


COLUMNS = (
    *("label", "asked", "pruned", "zero", "n", "top1", "spread"),
    *("inference", "common", "published"),
)
"""Of the LaTeX table."""


def result(source: Source, run: str) -> dict:  # type: ignore[type-arg]
    path = source.study / "runs" / run / "result.json"
    data: dict = json.loads(path.read_text(encoding="utf-8"))  # type: ignore[type-arg]
    return data


def test_cells_are_the_last_epochs_of_finished_runs(source: Source, table: Table) -> None:
    for cells in table.rows:
        results = [result(source, run) for run in cells.row.runs]
        finished = [r for r in results if r["status"] == "finished"]
        accuracies = [
            100 * r["products"][cells.row.product]["last"]["test_accuracy"] for r in finished
        ]
        assert cells.top1.mean == pytest.approx(np.mean(accuracies))
        assert cells.top1.n == len(finished)
        assert cells.top1.diverged == len(results) - len(finished)
        ratios = [r["flops"]["training"] / r["flops"]["dense_training"] for r in finished]
        assert cells.training_ratio.mean == pytest.approx(np.mean(ratios))
        published = [r["flops"]["training_published"] for r in finished]
        assert cells.published_flops.mean == pytest.approx(np.mean(published))
        assert cells.published_formula == finished[0]["flops"]["published_formula"]


def test_the_two_accountings_differ_where_the_method_counts_otherwise(table: Table) -> None:
    """AC/DC's code logs three sparse forward passes where the paper counts a dense gradient."""
    cells = {cells.row.method: cells for cells in table.rows}
    dense, acdc = cells["dense"], cells["acdc"]
    assert dense.published_ratio.mean == dense.training_ratio.mean == 1
    assert (acdc.published_ratio.mean or 1) < (acdc.training_ratio.mean or 0)


def test_sparsity_has_the_scope_it_was_asked_for(table: Table) -> None:
    """RigL leaves its first layer dense: 80 % of the other layers are less of them all."""
    rigl = next(cells for cells in table.rows if cells.row.method == "rigl")
    assert len(rigl.exempt) == 1
    assert rigl.pruned.mean == pytest.approx(80, abs=0.05)
    assert (rigl.sparsity.mean or 100) < 79.99
    acdc = next(cells for cells in table.rows if cells.row.method == "acdc")
    assert acdc.exempt == ()


def test_last_and_best_are_not_mixed_up(source: Source, table: Table) -> None:
    """Runs so short are often best in their last epoch, so the best ones are marked by a zero."""
    runs = source.tables.runs.copy()
    runs.loc[runs["which"] == "best", "test_accuracy"] = 0.0
    marked = accuracy_table(source.plan.experiment("table1"), source.plan.scale, runs)
    assert [cells.top1 for cells in marked.rows] == [cells.top1 for cells in table.rows]
    assert [cells.dense_top1 for cells in marked.rows] == [c.dense_top1 for c in table.rows]
    assert all(cells.top1_best.mean == 0 for cells in marked.rows)


def test_one_run_did_diverge(table: Table) -> None:
    gmp = next(cells for cells in table.rows if cells.row.method == "gmp")
    assert (gmp.top1.n, gmp.top1.diverged) == (2, 1)


def test_ratios_are_of_the_tasks_epochs(source: Source, table: Table) -> None:
    """A row that trains twice as long as the task's dense network costs twice as much."""
    experiment = source.plan.experiment("table1")
    short = replace(experiment, task=replace(experiment.needed_task(), epochs=2))
    halved = accuracy_table(short, source.plan.scale, source.tables.runs)
    for ours, theirs in zip(halved.rows, table.rows, strict=True):
        assert ours.training_ratio.mean == pytest.approx(2 * (theirs.training_ratio.mean or 0))


def test_a_product_that_is_not_there_is_named(source: Source) -> None:
    experiment = source.plan.experiment("table1")
    gmp = next(row for row in experiment.rows if row.method == "gmp")
    wrong = replace(experiment, rows=(replace(gmp, product="dense"),))
    with pytest.raises(ReportError, match=gmp.runs[0]):
        accuracy_table(wrong, source.plan.scale, source.tables.runs)


def test_dense_product_beside_the_sparse_one(source: Source) -> None:
    own = build_table(source, source.plan.experiment("own"))
    assert own.has_dense_product
    acdc = next(cells for cells in own.rows if cells.row.method == "acdc")
    assert acdc.dense_top1 is not None
    expected = [
        100 * result(source, run)["products"]["dense"]["last"]["test_accuracy"]
        for run in acdc.row.runs
    ]
    assert acdc.dense_top1.mean == pytest.approx(np.mean(expected))


@pytest.mark.parametrize("name", ["table1", "own"])
def test_latex_is_whole(outputs: Path, name: str) -> None:
    text = (outputs / "tables" / f"{name}.tex").read_text(encoding="utf-8")
    begun = re.findall(r"\\begin\{(\w+)\}", text)
    ended = re.findall(r"\\end\{(\w+)\}", text)
    assert begun == ["table", "tabular"]
    assert ended == ["tabular", "table"]
    bare = re.sub(r"\\[{}]", "", text)
    assert bare.count("{") == bare.count("}")
    assert len(re.findall(r"(?<!\\)\$", text)) % 2 == 0
    # A per cent sign that is not escaped would swallow the rest of its line.
    body = text.split("\n", 1)[1]
    assert not re.search(r"(?<!\\)%", body)
    assert all(character.isascii() for character in text)
    for rule in ("toprule", "midrule", "bottomrule"):
        assert f"\\{rule}" in text
    assert "not the paper's scale" in text


@pytest.mark.parametrize("name", ["table1", "own"])
def test_latex_lines_have_as_many_cells_as_columns(outputs: Path, name: str) -> None:
    text = (outputs / "tables" / f"{name}.tex").read_text(encoding="utf-8")
    declared = re.search(r"\\begin\{tabular\}\{(.*)\}\n", text)
    assert declared
    columns = len(re.findall(r"[lrcS]", re.sub(r"\[[^]]*\]|@\{[^}]*\}", "", declared.group(1))))
    for line in text.splitlines():
        if line.endswith(r"\\"):
            spanned = sum(int(n) - 1 for n in re.findall(r"\\multicolumn\{(\d+)\}", line))
            cells = len(re.findall(r"(?<!\\)&", line)) + 1 + spanned
            # The heading over the columns stands on two lines of the source.
            assert cells == columns or "paper:" in line


def test_latex_shows_the_numbers_of_the_csv(outputs: Path, table: Table) -> None:
    text = (outputs / "tables" / "table1.tex").read_text(encoding="utf-8")
    with (outputs / "tables" / "table1.csv").open(encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == len(table.rows)
    for line in lines:
        label = escape(line["label"])
        typeset = next(t for t in text.splitlines() if t.strip().startswith(label + " &"))
        cells = [cell.strip() for cell in re.split(r"(?<!\\)&", typeset)]
        shown = dict(zip(COLUMNS, cells, strict=False))
        assert shown["asked"] == f"{float(line['sparsity_requested_pct']):g}"
        assert shown["pruned"] == f"{float(line['sparsity_pruned_layers_pct_mean']):.2f}"
        assert shown["zero"] == f"{float(line['sparsity_achieved_pct_mean']):.2f}"
        assert shown["n"].split("$")[0] == line["n"]
        assert shown["top1"] == f"{float(line['top1_pct_mean']):.2f}"
        spread = re.search(r"\\num\{(.*)\}", shown["spread"])
        assert (spread.group(1) if spread else "") == (
            f"{float(line['top1_pct_std']):.2f}" if line["top1_pct_std"] else ""
        )
        if line["method"] != "dense":
            assert shown["inference"] == f"{float(line['inference_ratio_mean']):.3f}"
            assert shown["common"] == f"{float(line['training_ratio_mean']):.3f}"
            assert shown["published"] == f"{float(line['training_ratio_published_mean']):.3f}"


def test_diverged_runs_are_named(outputs: Path) -> None:
    text = (outputs / "tables" / "table1.tex").read_text(encoding="utf-8")
    assert r"GMP\_50\% \& co at 90 \%: 2 of 3, 1 diverged." in text


def test_all_diverged_prints_no_number(source: Source) -> None:
    from reports.tables import to_latex

    experiment = source.plan.experiment("table1")
    gmp = next(row for row in experiment.rows if row.method == "gmp")
    only = replace(experiment, rows=(replace(gmp, runs=gmp.runs[-1:]),))
    table = accuracy_table(only, source.plan.scale, source.tables.runs)
    assert table.rows[0].top1.mean is None
    assert "{0 of 1, 1 diverged}" in to_latex(table)


def test_paper_values_are_known_unknown_or_absent() -> None:
    row = paper_values("1", PaperRow("AC/DC", "global"), 0.9)
    assert row is not None
    assert row["top1"].value == 75.04
    assert row["inference_flops_ratio"].value is None
    assert row["inference_flops_ratio"].confidence == "unknown"
    assert paper_values("1", PaperRow("AC/DC", "global"), 0.95) is None
    with pytest.raises(ReportError, match="AC/DC"):
        paper_values("1", PaperRow("ACDC", ""), 0.9)
    with pytest.raises(ReportError, match="global"):
        paper_values("1", PaperRow("AC/DC", "uniform"), 0.9)


def test_paper_column_is_headed_with_the_papers_task(outputs: Path) -> None:
    text = (outputs / "tables" / "table1.tex").read_text(encoding="utf-8")
    assert r"paper:\\ResNet50, ImageNet" in text
    assert "unknown" in text
    assert "paper:" not in (outputs / "tables" / "own.tex").read_text(encoding="utf-8")


def test_escaping_is_done_once() -> None:
    assert escape(r"a_b & 5% \x {~} #1 $ ^") == (
        r"a\_b \& 5\% \textbackslash{}x \{\textasciitilde{}\} \#1 \$ \textasciicircum{}"
    )


def test_findings_are_paired_and_neutral(source: Source, table: Table) -> None:
    (low, high) = findings(table, source.tables.runs)
    assert low.differences == ()
    rows = {cells.row.label: cells.row for cells in table.rows}
    for difference in high.differences:
        ours = by_seed(source.tables.runs, rows[difference.reference])
        theirs = by_seed(source.tables.runs, rows[difference.other])
        pairs = [ours[seed] - theirs[seed] for seed in ours if seed in theirs]
        assert difference.summary.n == len(pairs)
        assert difference.summary.mean == pytest.approx(np.mean(pairs))
        interval = difference.summary.interval
        if interval and interval[0] <= 0 <= interval[1]:
            assert difference.verdict == "not distinguishable"
