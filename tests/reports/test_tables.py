"""Cells against the runs behind them; LaTeX that is whole, escaped and equal to the CSV."""

import csv
import json
import re
import subprocess
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from acdc.metrics import ACCURACY, PERPLEXITY
from reports.aggregate import RunRow
from reports.cells import Line, line_of
from reports.encoding import escape_latex as escape
from reports.findings import Difference, findings
from reports.source import Source, build_table
from reports.statistics import summarise
from reports.tables import Table, table_of
from reports.text import NO_ROW
from reports.typeset import broken, to_latex
from study import columns
from tests.reports.tiny import SPEEDUPS


@pytest.fixture(scope="module")
def table(source: Source) -> Table:
    return build_table(source, source.study.experiment("table1"))


@pytest.fixture(scope="module")
def pairs(source: Source) -> Table:
    return build_table(source, source.study.experiment("table9"))


@pytest.fixture(scope="module")
def companions(source: Source) -> Table:
    return build_table(source, source.study.experiment("table6"))


COLUMNS = (
    *("label", "asked", "pruned", "zero", "n", "top1", "spread", "paper_top1"),
    *("inference", "paper_inference", "common", "paper_common", "published"),
)
"""Of the LaTeX table."""


def of_method(table: Table, method: str) -> Line:
    return next(line for line in table.lines if line.row.method == method)


def mean(line: Line, column: str) -> float:
    found = line.cells[column].summary.mean
    return found


def result(source: Source, run: str) -> Any:
    path = source.folder / "runs" / run / "result.json"
    return json.loads(path.read_text(encoding="utf-8"))


def trained(table: Table) -> list[Line]:
    return [line for line in table.lines if line.row.runs]


def test_columns_name_fields_of_a_run() -> None:
    known = {field.name for field in fields(RunRow)}
    for column in columns.COLUMNS.values():
        assert {column.field, column.over} - {None} <= known
        assert (column.field is None) == (column.awaits is not None)


def test_measured_time(source: Source) -> None:
    """Half of the epochs are in sparse phases, whose steps take 1 / SPEEDUP of a dense one."""
    own = build_table(source, source.study.experiment("own"))
    assert mean(of_method(own, "acdc"), "time_ratio") == pytest.approx(0.5 + 0.5 / 2)
    assert mean(of_method(own, "rigl"), "time_ratio") == pytest.approx(0.5 + 0.5 / 4)
    for method in ("dense", "one_shot"):
        cell = of_method(own, method).cells["time_ratio"]
        assert (cell.text, cell.is_number) == (NO_ROW, False)


def test_a_table_without_measured_times_has_no_column_for_them(source: Source) -> None:
    experiment = source.study.experiment("own")
    rows = tuple(row for row in experiment.rows if row.method not in SPEEDUPS)
    found = table_of(replace(experiment, rows=rows), source.study.scale, source.tables)
    assert "time_ratio" in experiment.columns
    assert set(experiment.columns) - set(found.columns) == {"time_ratio"}


def test_means_of_finished_runs(source: Source, table: Table) -> None:
    for line in trained(table):
        results = [result(source, run) for run in line.row.runs]
        finished = [r for r in results if r["status"] == "finished"]
        for found, which in ((line.cells["top1"].summary, "last"), (line.top1_best, "best")):
            models = [r["products"][line.row.product][which] for r in finished]
            expected = np.mean([100 * model["test_accuracy"] for model in models])
            assert found.mean == pytest.approx(expected)
        assert line.top1.n == len(finished)
        assert line.top1.diverged == len(results) - len(finished)
        ratios = [r["flops"]["training"] / r["flops"]["dense_training"] for r in finished]
        assert mean(line, "training_ratio") == pytest.approx(np.mean(ratios))
        inference = [
            r["products"][line.row.product]["last"]["inference_flops"]
            / r["flops"]["dense_inference"]
            for r in finished
        ]
        assert mean(line, "inference_ratio") == pytest.approx(np.mean(inference))
        published = [r["flops"]["training_published"] for r in finished]
        flops = line.cells["published_ratio"].flops
        assert flops.mean == pytest.approx(np.mean(published))
        assert line.published_formula == finished[0]["flops"]["published_formula"]


def test_each_column_is_of_its_own_model(source: Source, pairs: Table) -> None:
    line = of_method(pairs, "acdc")

    def accuracies(runs: tuple[str, ...], product: str) -> list[float]:
        products = [result(source, run)["products"][product]["last"] for run in runs]
        return [100 * record["test_accuracy"] for record in products]

    for column, runs, product in (
        ("top1", line.row.runs, "sparse"),
        ("dense_top1", line.row.runs, "dense"),
        ("dense_ft_top1", line.row.fine_tuned, "dense"),
    ):
        expected = accuracies(runs, product)
        summary = line.cells[column].summary
        assert (summary.mean, summary.std) == (
            pytest.approx(np.mean(expected)),
            pytest.approx(np.std(expected, ddof=1)),
        )
    gmp = of_method(pairs, "gmp")
    assert gmp.cells["dense_top1"].absent == gmp.cells["dense_ft_top1"].absent == NO_ROW


def test_zeros_and_dead_filters(source: Source) -> None:
    own = build_table(source, source.study.experiment("own"))
    line = of_method(own, "acdc")
    records = [result(source, run)["products"]["dense"]["last"] for run in line.row.runs]
    certificates = [record["certificate"] for record in records]
    zeros = [
        100 * (1 - sum(x["nonzeros"] for x in c["layers"]) / sum(x["weights"] for x in c["layers"]))
        for c in certificates
    ]
    assert mean(line, "zero_weights") == pytest.approx(np.mean(zeros))
    dead = [c["dead_filters"] for c in certificates]
    assert mean(line, "dense_dead_filters") == pytest.approx(np.mean(dead))
    assert mean(line, "dense_inference_ratio") == pytest.approx(
        np.mean([record["inference_flops"] for record in records])
        / result(source, line.row.runs[0])["flops"]["dense_inference"]
    )


def test_sparsity_of_models_not_shown(outputs: Path, table: Table, companions: Table) -> None:
    tex = (outputs / "tables" / "table6.tex").read_text(encoding="utf-8")
    assert "{pruned}" not in tex
    assert "{zero}" not in tex
    assert "{pruned} & {zero}" in to_latex(table)
    assert "asked of the layers" in companions.caption
    assert "zero: of all prunable weights" not in companions.caption
    with (outputs / "tables" / "table6.csv").open(encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    assert not any(key.startswith("sparsity_achieved") for key in lines[0])
    assert [line["n"] for line in lines] == ["3", "3"]


def test_companion_column(source: Source) -> None:
    experiment = source.study.experiment("table9")
    both = replace(experiment, columns=("companion_top1", "dense_ft_top1"))
    table = table_of(both, source.study.scale, source.tables)
    line = of_method(table, "acdc")
    assert line.cells["companion_top1"].summary == line.cells["dense_ft_top1"].summary
    assert line.runs == line.row.fine_tuned


def test_scope_of_sparsity(table: Table) -> None:
    """RigL leaves its first layer dense: 80 % of the other layers are less of them all."""
    rigl = of_method(table, "rigl")
    assert len(rigl.exempt) == 1
    assert rigl.pruned.mean == pytest.approx(80, abs=0.05)
    assert (rigl.zeros.mean or 100) < 79.99
    assert of_method(table, "acdc").exempt == ()


def test_ratios_are_of_the_tasks_epochs(source: Source, table: Table) -> None:
    """A row that trains twice as long as the task's dense network costs twice as much."""
    for line in trained(table):
        short = replace(line.row, task=replace(line.row.task, epochs=2))
        halved = line_of(short, table.columns, source.tables)
        assert mean(halved, "training_ratio") == pytest.approx(2 * mean(line, "training_ratio"))


def test_cited_row(table: Table) -> None:
    cited = next(line for line in table.lines if line.row.method is None)
    assert {cited.cells[column].text for column in table.columns} == {NO_ROW}
    assert cited.cells["top1"].paper.text == "74.31‡"
    assert cited.cells["training_ratio"].paper.text == NO_ROW
    rigl = next(c for c in table.citations if c.startswith("RigL: Evci et al. 2020: "))
    assert "(80 %)" in rigl
    tex = to_latex(table)
    assert r"74.31\textdaggerdbl{}" in tex
    assert "STR: Kusupati et al. 2020" in tex
    assert "published_ratio" not in table.paper_columns


def test_paper_row_at_another_sparsity(outputs: Path, table: Table, companions: Table) -> None:
    assert [note.split(": ")[1] for note in table.nearby] == ["STR, 90 % (at 90.23 %)."]
    assert companions.nearby == ()
    assert r"STR, 90 \% (at 90.23 \%)" in to_latex(table)
    assert "STR, 90 % (at 90.23 %)" in (outputs / "report.html").read_text(encoding="utf-8")
    with (outputs / "tables" / "table1.csv").open(encoding="utf-8") as file:
        lines = {line["label"]: line for line in csv.DictReader(file)}
    assert {label: line["paper_sparsity_pct"] for label, line in lines.items()} == {
        "Dense": "0.0",
        "RigL": "80.0",
        "AC/DC": "90.0",
        "GMP_50% & co": "",
        "One-shot": "",
        "STR": "90.23",
        "Awaited": "90.0",
    }


def test_json_holds_the_lines_of_the_csv(outputs: Path) -> None:
    with (outputs / "tables" / "table1.csv").open(encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    data = json.loads((outputs / "tables" / "table1.json").read_text(encoding="utf-8"))
    for line, row in zip(lines, data["rows"], strict=True):
        assert line == {key: "" if value is None else str(value) for key, value in row.items()}


def test_paper_values_in_csv(outputs: Path, table: Table) -> None:
    """Number, spread, unit and mark, put together again."""
    with (outputs / "tables" / "table1.csv").open(encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    units = {"inference_flops": (1e9, " G"), "training_flops": (1e18, " E")}
    seen = set()
    for shown, line in zip(table.lines, lines, strict=True):
        for column in table.paper_columns:
            name, unit = column, ""
            absolute = column.replace("ratio", "flops")
            number = line[f"paper_{column}"]
            if line.get(f"paper_{absolute}") and column != absolute:
                name = absolute
                factor, unit = units[absolute]
                number = f"{float(line[f'paper_{absolute}']) / factor:g}"
            spread = line[f"paper_{name}_std"]
            mark = line[f"paper_{name}_mark"]
            printed = number + (f" ± {spread}" if spread else "") + unit + mark
            assert printed == shown.cells[column].paper.text
            seen.add((bool(unit), mark))
    assert {(True, "†"), (False, "‡"), (False, "†"), (False, "")} <= seen


def test_what_is_not_there_yet_says_so_and_why(pairs: Table, table: Table) -> None:
    assert {line.cells["latency_batch1"].text for line in pairs.lines} == {"not there yet"}
    assert pairs.missing == ("ms, batch 1, 4 cores: timing inference in a sparse engine",)
    assert "Not there yet: ms, batch 1" in pairs.caption
    awaited = of_method(table, "woodfisher")
    assert {awaited.cells[column].text for column in table.columns} == {"not there yet"}
    assert table.missing == ("no runs at this scale: Awaited at 90 %",)


def test_table_without_runs(outputs: Path) -> None:
    with (outputs / "tables" / "table4.csv").open(encoding="utf-8") as file:
        dense, acdc = csv.DictReader(file)
    assert (dense["n"], dense["paper_dense_ppl"], dense["paper_sparse_ppl"]) == (
        "0",
        "18.95",
        NO_ROW,
    )
    assert (acdc["paper_sparse_ppl"], acdc["paper_dense_ft_ppl"]) == ("20.83", "19.68")
    assert acdc["sparse_ppl_absent"] == "not there yet"
    data = json.loads((outputs / "tables" / "table4.json").read_text(encoding="utf-8"))
    assert data["missing"] == ["ms, batch 1, 4 cores: timing inference in a sparse engine"]
    assert "not there yet" in (outputs / "tables" / "table4.tex").read_text(encoding="utf-8")


def test_what_is_written_compiles(outputs: Path) -> None:
    script = Path(__file__).parents[2] / ".ci" / "latex"
    done = subprocess.run([script, outputs], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    for path in outputs.glob("tables/*.tex"):
        assert path.read_text(encoding="utf-8").isascii()


@pytest.mark.parametrize("name", ["table1", "own", "table4", "table6", "table9"])
def test_latex_cells_per_line(outputs: Path, name: str) -> None:
    text = (outputs / "tables" / f"{name}.tex").read_text(encoding="utf-8")
    declared = re.search(r"\\begin\{tabular\}\{(.*)\}\n", text)
    assert declared
    columns = len(re.findall(r"[lrcS]", re.sub(r"\[[^]]*\]|@\{[^}]*\}", "", declared.group(1))))
    for line in re.sub(r"\\shortstack\{[^}]*\}", "", text).splitlines():
        if line.endswith(r"\\"):
            spanned = sum(int(n) - 1 for n in re.findall(r"\\multicolumn\{(\d+)\}", line))
            cells = len(re.findall(r"(?<!\\)&", line)) + 1 + spanned
            assert cells == columns


def test_latex_shows_the_numbers_of_the_csv(outputs: Path, table: Table) -> None:
    text = (outputs / "tables" / "table1.tex").read_text(encoding="utf-8")
    with (outputs / "tables" / "table1.csv").open(encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == len(table.lines)
    for line in (line for line in lines if line["runs"]):
        label = escape(line["label"])
        typeset = next(t for t in text.splitlines() if t.strip().startswith(label + " &"))
        cells = [cell.strip() for cell in re.split(r"(?<!\\)&", typeset.removesuffix(r"\\"))]
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
            assert shown["published"] == f"{float(line['published_ratio_mean']):.3f}"


def test_the_papers_setting_and_scale_are_said(outputs: Path) -> None:
    text = (outputs / "tables" / "table1.tex").read_text(encoding="utf-8")
    assert r"\caption{Table 1 at tiny scale: Methods; resnet8\_s2 on digits. " in text
    assert "paper's Table 1, ResNet50 on ImageNet; another network and data set" in text
    assert "unknown" in text
    own = (outputs / "tables" / "own.tex").read_text(encoding="utf-8")
    assert r"\caption{No paper (at tiny scale); resnet8\_s2 on digits. " in own
    assert "& paper" not in own


@pytest.mark.parametrize(
    ("heading", "lines"),
    [
        ("perplexity, sparse", ("perplexity,", "sparse")),
        ("dense model's top-1 (%)", ("dense model's", "top-1 (%)")),
        ("top-1", ("top-1",)),
    ],
)
def test_headings_are_broken_in_the_middle(heading: str, lines: tuple[str, ...]) -> None:
    assert broken(heading) == lines


def test_findings_are_paired_and_neutral(table: Table) -> None:
    (high,) = findings(table)
    assert not {"STR", "Awaited"} & {difference.other for difference in high.differences}
    rows = {line.row.label: line for line in table.lines}
    for difference in high.differences:
        ours = rows[difference.reference].scores
        theirs = rows[difference.other].scores
        pairs = [ours[seed] - theirs[seed] for seed in ours if seed in theirs]
        assert difference.summary.n == len(pairs)
        assert difference.summary.mean == pytest.approx(np.mean(pairs))
        interval = difference.summary.interval
        if interval and interval[0] <= 0 <= interval[1]:
            assert difference.verdict == "not distinguishable"


def test_findings_follow_the_reference(table: Table) -> None:
    def differences(reference: str | None) -> list[tuple[float, str, str]]:
        named = replace(table, experiment=replace(table.experiment, reference=reference))
        return [
            (finding.sparsity, difference.reference, difference.other)
            for finding in findings(named)
            for difference in finding.differences
        ]

    gmp = "GMP_50% & co"
    assert differences(None) == []
    assert differences("Awaited") == []
    assert differences("RigL") == [(0.8, "RigL", "Dense")]
    assert differences(gmp) == [(0.9, gmp, other) for other in ("AC/DC", "One-shot", "Dense")]
    assert differences("Dense") == [
        (sparsity, "Dense", other)
        for sparsity, other in ((0.8, "RigL"), (0.9, "AC/DC"), (0.9, gmp), (0.9, "One-shot"))
    ]


@pytest.mark.parametrize(
    ("differences", "accuracy", "perplexity"),
    [
        ([], "no common seeds", "no common seeds"),
        ([1.5], "one pair only", "one pair only"),
        ([1.5, 1.5, 1.5], "no spread", "no spread"),
        ([1.5, 1.6, 1.4], "A better", "B better"),
        ([-1.5, -1.6, -1.4], "B better", "A better"),
        ([1.5, -1.6], "not distinguishable", "not distinguishable"),
    ],
)
def test_a_winner_needs_an_interval(
    differences: list[float], accuracy: str, perplexity: str
) -> None:
    summary = summarise(differences)
    for metric, verdict in ((ACCURACY, accuracy), (PERPLEXITY, perplexity)):
        assert Difference("A", "B", summary, metric).verdict == verdict
