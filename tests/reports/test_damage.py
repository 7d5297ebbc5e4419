"""Damaged, foreign and mixed files are named, and enter no number; all else is reported."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from reports.figures.style import close
from reports.source import Source, build_table, draw_figure, open_study
from reports.tables import table_of
from study.model import ReportError, Scale
from tests.reports.test_states import on_result, to_failed
from tests.reports.tiny import change_json, invoke, line_of_method, runs_of, words


def content(name: str, text: str | bytes) -> Callable[[Path], object]:
    data = text.encode() if isinstance(text, str) else text
    return lambda folder: (folder / name).write_bytes(data)


# Of each file, what is not read at all and what is read and wrong (all kinds: test_reader).
CASES: list[tuple[str, Callable[[Path], object]]] = [
    ("result.json", content("result.json", bytes(range(256)) * 40)),
    ("result.json", content("result.json", "[" * 100_000)),
    ("result.json", on_result(lambda data: data["config"].update(sparsity=0.5))),
    ("result.json", on_result(lambda data: data["products"]["sparse"]["last"].update(
        test_accuracy=1.7))),
    ("journal.jsonl", content("journal.jsonl", bytes(range(256)) * 40)),
    ("journal.jsonl", content("journal.jsonl", '{"epoch": 0, "phase": "dense"}\n' * 2)),
    ("journal.jsonl", lambda folder: (folder / "journal.jsonl").unlink()),
    ("provenance.json", content("provenance.json", '{"git": ')),
    ("provenance.json", content("provenance.json", '{"git": 7}')),
]  # fmt: skip


@pytest.mark.parametrize(("file", "change"), CASES)
def test_a_damaged_file_is_named_and_enters_no_number(
    file: str, change: Callable[[Path], object], copy: Path, source: Source
) -> None:
    (run,) = runs_of(source, "acdc", 2)
    change(copy / "runs" / run)
    bad = open_study(copy)
    (problem,) = bad.tables.problems
    assert problem.startswith(f"runs/{run}/{file}")
    assert len(problem) < 400
    assert problem.isprintable()
    line = line_of_method(bad, "acdc")
    kept = (1, 3) if file == "result.json" else (1, 2, 3)
    scores = line_of_method(source, "acdc").scores
    assert line.scores == {seed: scores[seed] for seed in kept}
    assert line.top1.missing == 3 - len(kept)
    assert any(file in note for note in line.notes) == (file == "result.json")
    whole = build_table(source, source.study.experiment("table1"))
    others = build_table(bad, bad.study.experiment("table1")).lines
    for before, after in zip(whole.lines, others, strict=True):
        assert before.cells == after.cells or before.row.method == "acdc"
    figure = draw_figure(bad, bad.study.experiment("figure2a"))
    drawn = next(each for each in figure.axes[0].lines if each.get_label() == "AC/DC, 90 %")
    epochs = source.tables.epochs
    seeds = (1, 2, 3) if file == "provenance.json" else (1, 3)
    mine = epochs[epochs["run"].isin(runs_of(source, "acdc", *seeds))]
    expected = 100 * mine.groupby("epoch")["val_accuracy"].mean()
    assert list(drawn.get_ydata()) == pytest.approx(list(expected))
    assert ("no curve of seed 2" in words(figure)) == (file == "journal.jsonl")
    close(figure)


def test_without_any_journal_there_is_no_curve_but_a_point(copy: Path) -> None:
    for path in copy.glob("runs/*/journal.jsonl"):
        path.write_bytes(b"\xff")
    invoke("figure", "figure2a", "--results", copy)
    figure = draw_figure(open_study(copy), open_study(copy).study.experiment("figure3"))
    assert figure.axes[0].containers
    close(figure)


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("tables/runs.parquet", b"PAR1"),
        ("tables/runs.csv", b"run,test_accuracy\na,many\n"),
        ("tables/epochs.parquet", b"\xff"),
    ],
)
def test_no_output_is_read_back(file: str, text: bytes, copy: Path, source: Source) -> None:
    (copy / "tables").mkdir()
    (copy / file).write_bytes(text)
    assert open_study(copy).tables == source.tables
    invoke("aggregate", "--results", copy)
    assert (copy / file).read_bytes() != text


def test_a_study_without_any_finished_run_is_reported(copy: Path, source: Source) -> None:
    for number, folder in enumerate((copy / "runs").iterdir()):
        on_result(to_failed if number % 2 else lambda data: data.update(status=None))(folder)
    invoke("all", "--results", copy)
    page = (copy / "report.html").read_text(encoding="utf-8")
    for name in source.study.runs:
        assert f'id="run-{name.rpartition("-")[2]}"' in page
    data = json.loads((copy / "tables" / "table1.json").read_text(encoding="utf-8"))
    assert {row["top1_pct_mean"] for row in data["rows"]} == {None}
    made = {path.name for path in (copy / "figures").iterdir()}
    assert {"figure2a.pdf", "figure3.pdf"} <= made


def compiled(data: dict[str, Any]) -> None:
    data["compile"] = "default"


def on_gpu(data: dict[str, Any]) -> None:
    data["hardware"]["device"] = "NVIDIA A100"


def resumed_compiled(data: dict[str, Any]) -> None:
    data["resumed"] = [{**data, "compile": "default"}]


@pytest.mark.parametrize(
    ("change", "said"),
    [(compiled, "compile default"), (on_gpu, "A100"), (resumed_compiled, "cpu, fp32, then cpu")],
)
def test_runs_computed_in_several_ways_are_said_to_be(
    change: Callable[[dict[str, Any]], object], said: str, copy: Path, source: Source
) -> None:
    experiment = source.study.experiment("table1")
    assert not any("Mixed" in note for note in build_table(source, experiment).notes)
    (run,) = runs_of(source, "acdc", 2)
    change_json(copy / "runs" / run / "provenance.json", change)
    bad = open_study(copy)
    note = build_table(bad, experiment).notes[-1]
    assert note.startswith("Mixed")
    assert said in note
    assert "(1)" in note
    figure = draw_figure(bad, source.study.experiment("figure3"))
    assert note in words(figure)
    close(figure)
    # A table without that run is not concerned.
    unconcerned = replace(experiment, rows=experiment.rows[:1])
    assert not any("Mixed" in each for each in build_table(bad, unconcerned).notes)


@pytest.mark.parametrize("name", ["paper", "smoke", "mine"])
def test_a_name_does_not_make_a_scale_the_papers(name: str, source: Source) -> None:
    experiment = source.study.experiment("table1")
    mine = table_of(experiment, Scale(name, "Mine", ""), source.tables)
    assert "(not the paper's scale)" in mine.caption
    assert "not comparable" in mine.caption
    assert "resnet8_s2 on digits" in mine.title
    papers = table_of(experiment, Scale(name, "Mine", "", is_paper=True), source.tables)
    assert "not the paper's scale" not in papers.caption
    assert not re.search("not comparable", papers.caption)


def test_a_study_of_other_columns_is_named(copy: Path) -> None:
    path = copy / "study.json"
    path.write_text(path.read_text("utf-8").replace('"published_ratio"', '"dead_weights"'), "utf-8")
    with pytest.raises(ReportError, match=r"study\.json: \w+: columns: dead_weights"):
        open_study(copy)
