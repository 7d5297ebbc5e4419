"""Runs that failed or are not there yet: counted, said everywhere, and in no number."""

from __future__ import annotations

import csv
import hashlib
import json
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from click.testing import CliRunner, Result
from matplotlib.figure import Figure

from acdc.config.run import parse_run
from acdc.errors import RunDirectoryError
from acdc.run.failures import FAILED, remember
from acdc.run.lifecycle import Options, run
from acdc.run.results import SPARE
from reports.aggregate import RUN_COLUMNS, aggregate, read_so_far, write_tables
from reports.cells import Cells, by_seed
from reports.cli import cli
from reports.errors import NothingToDrawError
from reports.figures import blank
from reports.figures.style import close
from reports.findings import findings
from reports.html import report
from reports.latex import escape
from reports.outputs import Source, build_table, draw_figure, write_figure, write_table
from reports.so_far import write_so_far
from reports.tables import caption, ours_text
from reports.text import NO_ROW
from study.model import ReportError, Study, read_study
from tests.support import Silent

NASTY = "KeyError('50% of $a_b & $c \\ {d} ~ #1')\nnear “é”."
SHOWN = "KeyError('50% of $a_b & $c \\ {d} ~ #1') near “é”"
TABLES = ("table1", "own", "table4", "table6", "table9")


def runs_of(plan: Study, method: str, *seeds: int) -> list[str]:
    return [
        name
        for name, run in plan.runs.items()
        if run["method"] == method and run["seed"] in (seeds or (1, 2, 3))
    ]


def fail(folder: Path, error: str = NASTY) -> None:
    """Replace a result by what a run leaves which an error has ended for good."""
    path = folder / "result.json"
    result = json.loads(path.read_text(encoding="utf-8"))
    kept = ("schema", "run", "fingerprint", "config", "label", "variant", "primary")
    failed = {key: result[key] for key in kept}
    failed |= {"status": "failed", "products": {}, "error": error, "exit_status": 3}
    path.write_text(json.dumps(failed), encoding="utf-8")


def remove(folder: Path) -> None:
    (folder / "result.json").unlink()
    (folder / SPARE).unlink()


def cut(folder: Path) -> None:
    path = folder / "result.json"
    path.write_text(path.read_text(encoding="utf-8")[:300], encoding="utf-8")


def take_anothers(folder: Path) -> None:
    other = next(path for path in sorted(folder.parent.iterdir()) if path != folder)
    shutil.copyfile(other / "result.json", folder / "result.json")


def forget_half(folder: Path) -> None:
    path = folder / "result.json"
    result = json.loads(path.read_text(encoding="utf-8"))
    del result["flops"]
    path.write_text(json.dumps(result), encoding="utf-8")


def break_provenance(folder: Path) -> None:
    (folder / "provenance.json").write_text('{"git": ', encoding="utf-8")


DAMAGES = {
    cut: "result.json is damaged",
    take_anothers: "result.json describes run ",
    forget_half: "cannot be used (KeyError('flops'))",
}


@pytest.fixture
def copy(study: Path, tmp_path: Path) -> Path:
    """The study's plan, runs and theory, without any output."""
    for part in ("runs", "theory"):
        shutil.copytree(study / part, tmp_path / "study" / part)
    shutil.copyfile(study / "study.json", tmp_path / "study" / "study.json")
    return tmp_path / "study"


Change = Callable[[Path], None]
Make = Callable[..., Source]


@pytest.fixture
def changed(copy: Path) -> Make:
    """Return a function that changes the runs of a method at some seeds and reads all of them."""

    def make(change: Change, method: str, *seeds: int) -> Source:
        plan = read_study(copy)
        for name in runs_of(plan, method, *seeds):
            change(copy / "runs" / name)
        return Source(copy, plan, read_so_far(copy, plan))

    return make


def row_of(source: Source, method: str, table: str = "table1") -> Cells:
    rows = build_table(source, source.plan.experiment(table)).rows
    return next(cells for cells in rows if cells.row.method == method)


def invoke(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli, [str(each) for each in arguments], catch_exceptions=False)


def csv_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def words(figure: Figure) -> str:
    texts = [item.get_text() for item in figure.findobj() if hasattr(item, "get_text")]
    return " ".join(" ".join(texts).split())


def strings(value: Any) -> Iterator[str]:
    """Yield the keys of all mappings in some data."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield key
            yield from strings(item)
    elif isinstance(value, list):
        for item in value:
            yield from strings(item)


# Failed runs: the ordinary commands make everything.


def test_a_failed_run_has_a_row_and_no_numbers(changed: Make) -> None:
    source = changed(fail, "acdc", 2)
    tables = aggregate(source.study, source.plan)
    pd.testing.assert_frame_equal(tables.runs, source.tables.runs)
    (name,) = runs_of(source.plan, "acdc", 2)
    (row,) = tables.runs[tables.runs["run"] == name].to_dict("records")
    assert (row["status"], row["seed"], row["method"], row["label"]) == (
        "failed",
        2,
        "acdc",
        "AC/DC",
    )
    assert row["error"] == SHOWN + "."
    for key in ("product", "test_accuracy", "training_flops", "prunable_weights", "train_s"):
        assert pd.isna(row[key])
    write_tables(source.study, tables)
    (line,) = [x for x in csv_of(source.study / "tables" / "runs.csv") if x["run"] == name]
    assert list(line) == list(RUN_COLUMNS)
    assert (line["status"], line["error"]) == ("failed", SHOWN + ".")
    assert line["training_flops"] == line["prunable_weights"] == line["attempts"] == ""


def test_its_values_enter_no_mean(changed: Make, source: Source) -> None:
    whole = by_seed(source.tables.runs, row_of(source, "acdc").row)
    bad = changed(fail, "acdc", 2)
    cells = row_of(bad, "acdc")
    assert (cells.top1.n, cells.top1.failed, cells.top1.runs) == (2, 1, 3)
    assert cells.top1.mean == pytest.approx((whole[1] + whole[3]) / 2)
    assert cells.top1.std == pytest.approx(abs(whole[1] - whole[3]) / 2**0.5)
    assert cells.notes == (f"AC/DC at 90 %: 2 of 3, 1 failed: {SHOWN} (seed 2).",)
    assert [(run.seed, run.error) for run in cells.failed] == [(2, SHOWN + ".")]
    for summary in (cells.top1_best, cells.sparsity, cells.training_ratio):
        assert (summary.n, summary.failed) == (2, 1)
    dense = row_of(bad, "acdc", "own").ours("dense_top1")
    assert dense is not None
    assert (dense.n, dense.failed) == (2, 1)


def test_the_ordinary_commands_say_so_everywhere(changed: Make) -> None:
    folder = changed(fail, "acdc", 2).study
    for command in (("aggregate",), ("table", "table1"), ("figure", "figure3"), ("report",)):
        assert invoke(*command, "--results", folder).exit_code == 0
    note = f"AC/DC at 90 %: 2 of 3, 1 failed: {SHOWN} (seed 2)."
    tex = (folder / "tables" / "table1.tex").read_text(encoding="utf-8")
    assert tex.isascii()
    assert (
        "of \\$a\\_b \\& \\$c \\textbackslash{} \\{d\\} \\textasciitilde{} \\#1') near U+201C"
        in tex
    )
    assert not re.search(r"(?<!\\)[%&#]", tex[tex.index(r"$^\ast$ AC/DC") :].split("\n")[0])
    (line,) = [x for x in csv_of(folder / "tables" / "table1.csv") if x["method"] == "acdc"]
    assert [line[key] for key in ("n", "diverged", "refused", "failed", "notes")] == [
        *("2", "0", "0", "1"),
        note,
    ]
    assert "missing" not in line
    data = json.loads((folder / "tables" / "table1.json").read_text(encoding="utf-8"))
    assert "So are those that failed" in data["caption"]
    (row,) = [row for row in data["rows"] if row["method"] == "acdc"]
    assert row["top1_pct"]["failed"] == 1
    assert [(run["seed"], run["error"]) for run in row["failed"]] == [(2, SHOWN + ".")]
    assert row["failed"][0]["run"] in row["runs"]
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert ", of which 1 diverged and 1 failed" in page
    assert page.count("KeyError(&#39;50% of $a_b &amp; $c") >= 4
    start = page.index("<h3>Failed</h3>")
    assert f"{row['failed'][0]['run']}</a>: <span" in page[start : page.index("</ul>", start)]
    assert "runs so far" not in page


def test_findings_pair_the_other_seeds(changed: Make) -> None:
    bad = changed(fail, "acdc", 2)
    table = build_table(bad, bad.plan.experiment("table1"))
    (found,) = [f for f in findings(table, bad.tables.runs) if f.sparsity == 0.9]
    assert row_of(bad, "acdc").notes[0] in found.sentences
    assert {d.summary.n for d in found.differences if d.other == "Dense"} == {2}


def test_figures_leave_it_out_and_say_so(changed: Make) -> None:
    bad = changed(fail, "acdc", 1, 2)
    experiment = bad.plan.experiment("figure2a")
    figure = draw_figure(bad, experiment)
    assert f"AC/DC at 90 %: 1 of 3, 2 failed: {SHOWN} (seeds 1, 2)." in words(figure)
    line = next(x for x in figure.axes[0].lines if x.get_label() == "AC/DC, 90 %")
    (third,) = runs_of(bad.plan, "acdc", 3)
    epochs = bad.tables.epochs
    expected = 100 * epochs[epochs["run"] == third]["val_accuracy"]
    assert list(line.get_ydata()) == pytest.approx(list(expected))
    figure.canvas.draw()
    close(figure)


def test_where_all_seeds_failed_there_is_no_number(changed: Make) -> None:
    bad = changed(fail, "acdc")
    cells = row_of(bad, "acdc")
    assert (cells.top1.mean, cells.top1.n, cells.top1.failed) == (None, 0, 3)
    assert ours_text(cells, "top1") == ours_text(cells, "training_ratio") == "0 of 3, 3 failed"
    assert cells.published_formula == ""
    assert cells.notes == (f"AC/DC at 90 %: 0 of 3, 3 failed: {SHOWN} (seeds 1, 2, 3).",)
    tex = write_table(bad, bad.plan.experiment("table1"))[0].read_text(encoding="utf-8")
    assert r"\multicolumn{2}{c}{0 of 3, 3 failed}" in tex


def test_a_figure_whose_runs_all_failed_does_not_stop_the_rest(changed: Make) -> None:
    folder = changed(fail, "acdc").study
    bad = Source(folder, plan := read_study(folder), aggregate(folder, plan))
    experiment = plan.experiment("figure2a")
    with pytest.raises(NothingToDrawError, match="schedule has no run of a sparse method"):
        draw_figure(bad, experiment)
    assert all(path.stat().st_size for path in write_figure(bad, experiment))
    figure = blank(experiment, plan.scale, bad.tables, "Not there: for $ a $ reason.")
    assert "Epochs at tiny scale" in words(figure)
    assert "Not there: for $ a $ reason." in words(figure)
    assert "0 of 3, 3 failed" in words(figure)
    figure.canvas.draw()
    close(figure)


def test_a_panel_with_nothing_to_draw_costs_no_other(changed: Make) -> None:
    bad = changed(fail, "acdc")
    experiment = bad.plan.experiment("figure3")
    (points,) = experiment.panels
    acdc = tuple(row for row in points.rows if row.method == "acdc")
    both = replace(experiment, panels=(points, replace(points, plot="mask_change", rows=acdc)))
    figure = draw_figure(bad, both)
    assert "no run to draw" in words(figure)
    assert figure.axes[0].containers
    assert figure.axes[-1].get_title(loc="left").startswith("(b)")
    close(figure)


def test_errors_are_typeset_as_they_are() -> None:
    assert escape("“é” 5%") == r"U+201CU+00E9U+201D 5\%"


# Missing runs: only so-far makes anything of them.


@pytest.mark.parametrize("command", [("aggregate",), ("table", "table1"), ("figure", "figure2a")])
def test_the_ordinary_commands_refuse_what_is_missing(
    command: tuple[str, ...], changed: Make
) -> None:
    folder = changed(remove, "acdc", 2).study
    with pytest.raises(ReportError, match=r"1 of \d+ runs .*train them first"):
        invoke(*command, "--results", folder)


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_the_ordinary_commands_refuse_what_is_damaged(damage: Change, changed: Make) -> None:
    source = changed(damage, "acdc", 2)
    said = re.escape(DAMAGES[damage])
    with pytest.raises((ReportError, RunDirectoryError), match=said) as caught:
        aggregate(source.study, source.plan)
    assert "remove" not in str(caught.value)
    # What it says is done: the run is there, and nobody has trained.
    (name,) = runs_of(source.plan, "acdc", 2)
    result = source.study / "runs" / name / "result.json"
    result.unlink()
    run(parse_run(dict(source.plan.runs[name])), Options(source.study / "runs"), Silent())
    assert json.loads(result.read_text()) == json.loads((result.parent / SPARE).read_text())
    aggregate(source.study, source.plan)


def test_a_damaged_provenance_costs_the_origin_alone(changed: Make, source: Source) -> None:
    folder = changed(break_provenance, "acdc", 2).study
    (name,) = runs_of(source.plan, "acdc", 2)
    warning = f"warning: {folder}: runs/{name}/provenance.json is damaged; "
    for command in (("aggregate",), ("table", "table1"), ("figure", "figure2a")):
        done = invoke(*command, "--results", folder)
        (said,) = done.stderr.splitlines()
        assert said.startswith(warning)
        assert (done.exit_code, said.count("remove")) == (0, 0)
    tables = aggregate(folder, read_study(folder))
    known = source.tables.runs["run"] != name
    pd.testing.assert_frame_equal(tables.runs[known], source.tables.runs[known])
    mine = tables.runs[~known]
    origin = ["git_revision", "git_clean", "source_digest", "processor", "cores", "device", "torch"]
    assert mine[origin].isna().all(axis=None)
    pd.testing.assert_frame_equal(
        mine.drop(columns=origin), source.tables.runs[~known].drop(columns=origin)
    )
    assert invoke("report", "--results", folder).exit_code == 0
    page = (folder / "report.html").read_text(encoding="utf-8")
    # This one, and the one that fine-tunes its dense model.
    assert "2 by code that cannot be told" in page


def test_missing_seeds_are_counted_against_hand_counts(changed: Make, source: Source) -> None:
    whole = by_seed(source.tables.runs, row_of(source, "acdc").row)
    part = changed(remove, "acdc", 1, 3)
    cells = row_of(part, "acdc")
    assert (cells.top1.n, cells.top1.missing, cells.top1.runs) == (1, 2, 3)
    assert (cells.top1.mean, cells.top1.std) == (pytest.approx(whole[2]), None)
    assert cells.notes == ("AC/DC at 90 %: 1 of 3, 2 missing.",)
    table = build_table(part, part.plan.experiment("table1"))
    # Three each of Dense, AC/DC and GMP, one each of One-shot and RigL.
    assert table.so_far == "9 of 11 runs so far"
    assert caption(table).endswith(" 9 of 11 runs so far.")
    paths = write_table(part, part.plan.experiment("table1"))
    (line,) = [x for x in csv_of(paths[1]) if x["method"] == "acdc"]
    assert (line["n"], line["missing"], "failed" in line) == ("1", "2", False)
    data = json.loads(paths[2].read_text(encoding="utf-8"))
    assert data["so_far"] == "9 of 11 runs so far"
    (row,) = [row for row in data["rows"] if row["method"] == "acdc"]
    assert [run["seed"] for run in row["missing"]] == [1, 3]
    assert row["top1_pct"]["missing"] == 2


def test_a_row_without_any_run_yet_is_marked(changed: Make) -> None:
    part = changed(remove, "acdc")
    experiment = part.plan.experiment("table1")
    table = build_table(part, experiment)
    cells = row_of(part, "acdc")
    assert {ours_text(cells, column) for column in table.columns} == {NO_ROW}
    assert "No result so far: AC/DC at 90 %." in table.notes
    assert cells.notes == ("AC/DC at 90 %: 0 of 3, 3 missing.",)
    tex = write_table(part, experiment)[0].read_text(encoding="utf-8")
    line = next(text for text in tex.splitlines() if text.strip().startswith("AC/DC &"))
    assert line.count("{--}") == 6
    assert r"& 0$^\ast$ &" in line
    for found in findings(table, part.tables.runs):
        assert "AC/DC" not in {d.reference for d in found.differences}
    page = report(part)
    assert "0 of 3, 3 missing</span>" in page
    figure = draw_figure(part, part.plan.experiment("figure3"))
    assert "9 of 12" not in words(figure)
    assert "8 of 11 runs so far. " in words(figure)
    assert "No result so far: AC/DC at 90 %." in words(figure)
    close(figure)


def test_fine_tuned_models_are_counted_by_themselves(changed: Make) -> None:
    cells = row_of(changed(remove, "acdc_dense", 3), "acdc", "table9")
    tuned, own = cells.ours("dense_ft_top1"), cells.ours("top1")
    assert tuned is not None
    assert own is not None
    assert (tuned.n, tuned.missing, own.n, own.missing) == (2, 1, 3, 0)
    assert cells.notes == ("AC/DC, fine-tuned dense model, at 90 %: 2 of 3, 1 missing.",)


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_a_damaged_result_is_named_and_counts_as_missing(
    damage: Change, changed: Make, tmp_path: Path
) -> None:
    part = changed(damage, "acdc", 2)
    (name,) = runs_of(part.plan, "acdc", 2)
    cells = row_of(part, "acdc")
    assert (cells.top1.n, cells.top1.missing) == (2, 1)
    (note,) = cells.notes
    assert note.startswith(f"AC/DC at 90 %: 2 of 3, 1 missing: runs/{name}/")
    assert DAMAGES[damage] in note
    assert note.endswith("(seed 2).")
    assert str(tmp_path) not in note


def test_damaged_results_are_warned_of(changed: Make) -> None:
    total = len((part := changed(break_provenance, "acdc", 1)).plan.runs)
    damaged = {cut: ("acdc", 2), take_anothers: ("acdc", 3), forget_half: ("gmp", 1)}
    for damage, which in damaged.items():
        changed(damage, *which)
    done = invoke("so-far", "--results", part.study)
    assert done.exit_code == 0
    *warnings, count = done.stderr.splitlines()
    assert count == f"{total - 3} of {total} runs so far"
    assert "provenance.json is damaged" in warnings.pop()
    for damage, which in damaged.items():
        (name,) = runs_of(part.plan, *which)
        (said,) = [warning for warning in warnings if f": runs/{name}/" in warning]
        assert said.startswith(f"warning: {part.study}: ")
        assert DAMAGES[damage] in said
        page = (part.study / "so_far" / "report.html").read_text(encoding="utf-8")
        start = page.index(f'id="run-{name.rpartition("-")[2]}"')
        row = page[start : page.index("</tbody>", start)]
        assert '<td class="warn">missing</td>' in row
        assert f"runs/{name}/result.json" in row


def test_damage_and_absence_of_all_seeds_are_told_apart(changed: Make) -> None:
    cells = row_of(changed(cut, "acdc"), "acdc")
    assert not cells.is_awaited
    assert cells.notes[0].count("is damaged") == 3


def everything(folder: Path) -> dict[str, str]:
    paths = [*folder.glob("tables/*"), *folder.glob("figures/*"), *folder.glob("*.html")]
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in paths}


def test_of_an_intact_study_it_makes_what_the_ordinary_commands_make(
    outputs: Path, copy: Path
) -> None:
    made = write_so_far(copy)
    plan = read_study(copy)
    assert made.problems == ()
    assert made.count == f"all {len(plan.runs)} runs"
    assert everything(copy / "so_far") == everything(outputs)
    assert everything(copy) == {}
    write_so_far(copy, within_suite=True)
    assert everything(copy) == everything(outputs)
    for name in TABLES:
        text = (copy / "tables" / f"{name}.json").read_text(encoding="utf-8")
        assert not {"failed", "so_far"} & set(strings(json.loads(text)))
        header = (copy / "tables" / f"{name}.csv").read_text(encoding="utf-8").partition("\n")[0]
        assert not {"failed", "missing"} & set(header.split(","))


def test_everything_says_how_much_of_it_is_there(changed: Make) -> None:
    part = changed(remove, "acdc", 2)
    fail(part.study / "runs" / runs_of(part.plan, "gmp", 1)[0])
    total = len(part.plan.runs)
    done = invoke("so-far", "--within-suite", "--results", part.study)
    assert done.exit_code == 0
    assert done.stderr == f"{total - 1} of {total} runs so far\n"
    assert set(done.stdout.split()) == {
        str(path)
        for path in (*part.study.glob("tables/*"), *part.study.glob("figures/*"))
        if path.suffix
    } | {str(part.study / "report.html")}
    page = (part.study / "report.html").read_text(encoding="utf-8")
    head = page[page.index("<header>") : page.index("</header>")]
    assert f"{total - 1} of {total} runs so far. What is missing is marked" in head
    assert f"{total - 1} of {total} runs so far, of which 1 diverged and 1 failed" in page
    for name, count in (("table1", "10 of 11"), ("own", "10 of 11"), ("table9", "11 of 12")):
        tex = (part.study / "tables" / f"{name}.tex").read_text(encoding="utf-8")
        assert f"{count} runs so far." in tex
        start = page.index(f'<section id="{name}"')
        assert f"{count} runs so far." in page[start : page.index("<table>", start)]
    assert "runs so far" not in (part.study / "tables" / "table4.tex").read_text(encoding="utf-8")
    start = page.index('id="page-missing"')
    waiting = page[start : page.index("</section>", start)]
    for name, count in (("table1", "10 of 11"), ("figure2a", "5 of 6"), ("figure3", "10 of 11")):
        assert re.search(rf'<li><a href="#{name}">[^\n]*{count} runs so far</li>', waiting)
    ids = set(re.findall(r'\bid="([^"]+)"', page))
    assert set(re.findall(r'href="#([^"]+)"', page)) <= ids
    (gone,) = runs_of(part.plan, "acdc", 2)
    assert f'id="run-{gone.rpartition("-")[2]}"' in page
    assert "no result so far</td>" in page
    # What it gathered is no aggregate, and older than the plan, so that Snakemake, for which the
    # plan goes into each of these files, makes them anew.
    with pytest.raises(ReportError, match=f"{total - 1} of {total} runs so far; run 'aggregate'"):
        invoke("report", "--results", part.study)
    plan = (part.study / "study.json").stat().st_mtime
    assert all(Path(path).stat().st_mtime < plan for path in done.stdout.split())


def test_by_hand_the_suites_own_files_stay_as_they_are(outputs: Path, tmp_path: Path) -> None:
    """Whoever looks while Snakemake makes tables and figures takes none of them from it."""
    shutil.copytree(outputs, folder := tmp_path / "study")
    remove(folder / "runs" / runs_of(read_study(folder), "acdc", 2)[0])

    def stamps() -> dict[Path, tuple[int, int]]:
        found = (path for path in folder.rglob("*") if path.is_file())
        stats = {path: path.stat() for path in found if "so_far" not in path.parts}
        return {path: (stat.st_ino, stat.st_mtime_ns) for path, stat in stats.items()}

    before = stamps()
    done = invoke("so-far", "--results", folder)
    assert stamps() == before
    assert {Path(line).relative_to(folder).parts[0] for line in done.stdout.split()} == {"so_far"}
    assert everything(folder / "so_far").keys() == everything(folder).keys()


def test_a_failed_run_whose_result_is_gone_has_failed(changed: Make) -> None:
    part = changed(fail, "acdc", 2)
    (name,) = runs_of(part.plan, "acdc", 2)
    folder = part.study / "runs" / name
    failure = remember(folder, ValueError(NASTY))
    assert failure.final
    (folder / "result.json").unlink()
    again = read_so_far(part.study, part.plan)
    (row,) = again.runs[again.runs["run"] == name].to_dict("records")
    assert (row["status"], row["error"]) == ("failed", failure.error)
    same = [key for key in RUN_COLUMNS if key not in ("label", "variant", "error")]
    pd.testing.assert_frame_equal(again.runs[same], part.tables.runs[same])
    pd.testing.assert_frame_equal(again.epochs, part.tables.epochs)
    cells = row_of(replace(part, tables=again), "acdc")
    assert (cells.top1.n, cells.top1.failed, cells.top1.missing) == (2, 1, 0)
    # What may yet come to an end is only missing.
    (folder / FAILED).write_text(json.dumps({**vars(failure), "final": False}))
    (folder / SPARE).unlink()
    again = read_so_far(part.study, part.plan)
    assert set(again.runs.loc[again.runs["run"] == name, "status"]) == {"missing"}


def test_a_result_that_is_deleted_to_be_made_again_is_there(changed: Make, source: Source) -> None:
    part = changed(lambda folder: (folder / "result.json").unlink(), "acdc", 1, 2)
    pd.testing.assert_frame_equal(part.tables.runs, source.tables.runs)
    # Not with the copy of another run.
    one, two = (part.study / "runs" / name for name in runs_of(part.plan, "acdc", 1, 2))
    shutil.copyfile(two / SPARE, one / SPARE)
    tables = read_so_far(part.study, part.plan)
    assert list(tables.runs.loc[tables.runs["status"] == "missing", "run"]) == [one.name]


def test_nothing_at_all_is_there(copy: Path) -> None:
    """Neither a run nor the theory: all files are there all the same, and twice the same."""
    shutil.rmtree(copy / "runs")
    shutil.rmtree(copy / "theory")
    plan = read_study(copy)
    done = invoke("so-far", "--results", copy)
    assert done.exit_code == 0
    assert done.stderr == f"0 of {len(plan.runs)} runs so far\n"
    made = copy / "so_far"
    before = everything(made)
    assert len(before) == 6 + 6 * 3 + 2 + 3 * 3 + 1
    runs = csv_of(made / "tables" / "runs.csv")
    assert [(row["run"], row["status"]) for row in runs] == [
        (name, "missing") for name in plan.runs
    ]
    assert csv_of(made / "tables" / "epochs.csv") == csv_of(made / "tables" / "events.csv") == []
    tex = (made / "tables" / "own.tex").read_text(encoding="utf-8")
    assert "0 of 11 runs so far." in tex
    assert "No result so far: Dense at 0 \\%, RigL at 80 \\%, AC/DC at 90 \\%," in tex
    page = (made / "report.html").read_text(encoding="utf-8")
    assert "figure2a: schedule has no run to draw" in page
    assert "statements.json is missing; run &#39;acdc theory run t2_rate" in page
    invoke("so-far", "--results", copy)
    assert everything(made) == before


def test_without_a_plan_it_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(ReportError, match=r"plan\.json is missing; make it with 'python -m workfl"):
        invoke("so-far", "--results", tmp_path)
