"""Damaged, foreign and mixed files are named, and enter no number; all else is reported."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from reports.aggregate import Status
from reports.figures.style import close
from reports.source import Source, build_table, draw_figure, open_study
from reports.tables import table_of
from study.model import ReportError, Scale
from tests.reports.test_states import on_result, to_failed
from tests.reports.tiny import change_json, invoke, line_of_method, runs_of, words

LONGEST = 400
BINARY = bytes(range(256)) * 40


def content(name: str, text: str | bytes) -> Callable[[Path], object]:
    """Return a function that replaces a file of a run's folder."""
    data = text.encode() if isinstance(text, str) else text
    return lambda folder: (folder / name).write_bytes(data)


def cut(name: str, keep: float) -> Callable[[Path], object]:
    """Return a function that keeps the first part of a file."""

    def change(folder: Path) -> None:
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[: int(keep * len(data))])

    return change


def metric(key: str, value: Any) -> Callable[[Path], object]:
    """Return a function that changes a metric of the sparse model."""
    return on_result(lambda data: data["products"]["sparse"]["last"].update({key: value}))


def line_of_journal(number: int, text: str) -> Callable[[Path], object]:
    """Return a function that replaces a line of a journal."""

    def change(folder: Path) -> None:
        path = folder / "journal.jsonl"
        lines = path.read_text(encoding="utf-8").splitlines()
        lines[number] = text
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")

    return change


def folder_instead(name: str) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        (folder / name).unlink()
        (folder / name).mkdir()

    return change


@dataclass(frozen=True)
class Case:
    """A change of a run's folder."""

    change: Callable[[Path], object]
    file: str
    """The file that is named."""
    status: Status = "missing"
    """The state of the run in tables."""
    has_curve: bool = False


def journal(change: Callable[[Path], object]) -> Case:
    return Case(change, "journal.jsonl", "finished")


def result(change: Callable[[Path], object]) -> Case:
    return Case(change, "result.json")


CASES = {
    **{
        f"{key}={value}": result(metric(key, value))
        for key, value in (
            *(("test_accuracy", bad) for bad in (1.7, -0.1, "0.5", "many", None, True, [0.5])),
            *(("val_accuracy", 2), ("inference_flops", -1.0), ("epoch", 1.5)),
        )
    },
    **{
        f"status={status}": result(on_result(lambda data, s=status: data.update(status=s)))  # type: ignore[misc]
        for status in (None, 7, "done", [])
    },
    "not a number": result(content("result.json", '{"schema": 2, "status": NaN}')),
    "a list": result(content("result.json", "[]")),
    "null": result(content("result.json", "null")),
    "nothing": result(content("result.json", "")),
    "binary": result(content("result.json", BINARY)),
    "deep": result(content("result.json", "[" * 100_000)),
    "cut": result(cut("result.json", 0.5)),
    "a folder": result(folder_instead("result.json")),
    "no products": result(on_result(lambda data: data.pop("products"))),
    "another configuration": result(on_result(lambda data: data["config"].update(sparsity=0.5))),
    "another run": result(on_result(lambda data: data.update(run="resnet-0123456789ab"))),
    "another fingerprint": result(on_result(lambda data: data.update(fingerprint="0" * 12))),
    "binary journal": journal(content("journal.jsonl", BINARY)),
    "text in the journal": journal(line_of_journal(1, "not a record")),
    "a number in the journal": journal(line_of_journal(1, "7")),
    "no epoch in the journal": journal(line_of_journal(1, "{}")),
    "an epoch twice": journal(line_of_journal(1, '{"epoch": 0, "phase": "dense"}')),
    "half a journal": journal(cut("journal.jsonl", 0.5)),
    "empty journal": journal(content("journal.jsonl", "")),
    "no journal": journal(lambda folder: (folder / "journal.jsonl").unlink()),
    **{
        f"provenance {text[:9]!r}": Case(
            content("provenance.json", text), "provenance.json", "finished", has_curve=True
        )
        for text in ('{"git": ', "[]", '{"git": 7}', "\xff", '{"resumed": 5}')
    },
}


@pytest.mark.parametrize("name", CASES)
def test_a_damaged_file_is_named_and_enters_no_number(
    name: str, copy: Path, source: Source
) -> None:
    case = CASES[name]
    (run,) = runs_of(source, "acdc", 2)
    case.change(copy / "runs" / run)
    bad = open_study(copy)
    (problem,) = bad.tables.problems
    assert problem.startswith(f"runs/{run}/{case.file}")
    assert len(problem) < LONGEST
    assert problem.isprintable()
    line = line_of_method(bad, "acdc")
    kept = (1, 2, 3) if case.status == "finished" else (1, 3)
    scores = line_of_method(source, "acdc").scores
    assert line.scores == {seed: scores[seed] for seed in kept}
    assert line.top1.missing == 3 - len(kept)
    assert any(case.file in note for note in line.notes) == (case.status == "missing")
    whole = build_table(source, source.study.experiment("table1"))
    others = build_table(bad, bad.study.experiment("table1")).lines
    for before, after in zip(whole.lines, others, strict=True):
        assert before.cells == after.cells or before.row.method == "acdc"
    figure = draw_figure(bad, bad.study.experiment("figure2a"))
    drawn = next(each for each in figure.axes[0].lines if each.get_label() == "AC/DC, 90 %")
    epochs = source.tables.epochs
    seeds = (1, 2, 3) if case.has_curve else (1, 3)
    mine = epochs[epochs["run"].isin(runs_of(source, "acdc", *seeds))]
    expected = 100 * mine.groupby("epoch")["val_accuracy"].mean()
    assert list(drawn.get_ydata()) == pytest.approx(list(expected))
    assert ("no curve of seed 2" in words(figure)) == (case.file == "journal.jsonl")
    close(figure)


def test_without_any_journal_there_is_no_curve_but_a_point(copy: Path) -> None:
    for path in copy.glob("runs/*/journal.jsonl"):
        path.write_bytes(BINARY)
    invoke("figure", "figure2a", "--results", copy)
    figure = draw_figure(open_study(copy), open_study(copy).study.experiment("figure3"))
    assert figure.axes[0].containers
    close(figure)


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("tables/runs.parquet", b"PAR1"),
        ("tables/runs.csv", b"run,test_accuracy\na,many\n"),
        ("tables/epochs.parquet", BINARY),
    ],
)
def test_no_output_is_read_back(file: str, text: bytes, copy: Path, source: Source) -> None:
    (copy / "tables").mkdir()
    (copy / file).write_bytes(text)
    assert open_study(copy).tables == source.tables
    invoke("aggregate", "--results", copy)
    assert (copy / file).read_bytes() != text


@pytest.mark.parametrize("change", [to_failed, lambda data: data.update(status=None)])
def test_a_study_without_any_finished_run_is_reported(
    change: Callable[[dict[str, Any]], object], copy: Path, source: Source
) -> None:
    for folder in (copy / "runs").iterdir():
        on_result(change)(folder)
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
