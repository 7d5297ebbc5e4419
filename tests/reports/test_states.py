"""A run that is refused, failed, missing or diverged enters no mean, and every output says so."""

import csv
import hashlib
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from reports.aggregate import Status, read_runs
from reports.encoding import escape_latex as escape
from reports.figures import blank
from reports.figures.series import NothingToDrawError
from reports.figures.style import close
from reports.findings import findings
from reports.outputs import write_table
from reports.source import Source, build_table, draw_figure, open_study
from reports.text import NO_ROW
from tests.reports.tiny import change_json, invoke, line_of_method, runs_of, words

NASTY = "KeyError('50% of $a_b & $c \\ {d} ~ #1')\nnear “é”."
SHOWN = "KeyError('50% of $a_b & $c \\ {d} ~ #1') near “é”"


def on_result(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    return lambda folder: change_json(folder / "result.json", change)


def spoil(which: str, change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    return on_result(lambda data: change(data["products"]["sparse"][which]["certificate"]))


def to_failed(data: dict[str, Any]) -> None:
    for key in ("flops", "mask_changes", "prunable_weights", "timings", "files"):
        data.pop(key, None)
    data |= {"status": "failed", "products": {}, "error": NASTY, "exit_status": 3}


def to_diverged(data: dict[str, Any]) -> None:
    del data["files"]
    data |= {"status": "diverged", "products": {}, "diverged_at": 2, "diverged": "loss"}


def without_result(folder: Path) -> None:
    (folder / "result.json").unlink()


def final_failure(folder: Path, final: bool = True) -> None:
    without_result(folder)
    failure = {"error": NASTY, "exit_status": 3, "final": final}
    change_json(folder / "failed.json", lambda data: data.update(failure))


def cut(folder: Path) -> None:
    path = folder / "result.json"
    path.write_text(path.read_text(encoding="utf-8")[:300], encoding="utf-8")


@dataclass(frozen=True)
class Case:
    """A change of a run's folder, and the state that it leads to."""

    change: Callable[[Path], None]
    status: Status
    reason: str = ""
    """A part of what the notes say of it."""


REFUSED = spoil("last", lambda certificate: certificate.update(holds=False))
CASES = {
    "more weights than the mask": Case(
        spoil("best", lambda c: c["layers"][1].update(nonzeros=c["layers"][1]["kept"] + 1)),
        "refused",
        "its mask keeps",
    ),
    "not the sparsity": Case(
        spoil("last", lambda c: c.update(requested=0.5)), "refused", "50.0000% were requested"
    ),
    "does not hold": Case(REFUSED, "refused", "does not hold"),
    "no certificate": Case(
        on_result(lambda data: data["products"]["sparse"]["last"].pop("certificate")),
        "refused",
        "no certificate",
    ),
    "failed": Case(on_result(to_failed), "failed", SHOWN),
    "failed, without a result": Case(final_failure, "failed", SHOWN),
    "will be retried": Case(lambda folder: final_failure(folder, final=False), "missing"),
    "no result": Case(without_result, "missing"),
    "no folder": Case(shutil.rmtree, "missing"),
    "cut short": Case(cut, "missing", "result.json"),
    "diverged": Case(on_result(to_diverged), "diverged"),
}

Make = Callable[..., Source]


@pytest.fixture
def changed(copy: Path) -> Make:
    def make(change: Callable[[Path], None], method: str, *seeds: int) -> Source:
        for name in runs_of(open_study(copy), method, *seeds):
            change(copy / "runs" / name)
        return open_study(copy)

    return make


@pytest.mark.parametrize("name", CASES)
def test_it_is_counted_and_enters_no_mean(name: str, changed: Make, source: Source) -> None:
    case = CASES[name]
    whole = line_of_method(source, "acdc")
    bad = changed(case.change, "acdc", 2)
    line = line_of_method(bad, "acdc")
    means = [line.top1, line.top1_best, line.zeros, line.training_ratio, line.counts]
    means += [cell.summary for cell in line.cells.values()]
    for summary in means:
        assert (summary.n, getattr(summary, case.status), summary.runs) == (2, 1, 3)
    first, third = whole.scores[1], whole.scores[3]
    assert line.scores == {1: first, 3: third}
    assert line.top1.mean == pytest.approx((first + third) / 2)
    assert line.top1.std == pytest.approx(abs(first - third) / 2**0.5)
    (note,) = line.notes
    assert note.startswith(f"AC/DC at 90 %: 2 of 3, 1 {case.status}")
    assert case.reason in note
    assert note.endswith("(seed 2)." if case.reason else f"1 {case.status}.")
    assert str(bad.folder) not in note
    # Not counted for other rows, nor twice for the dense model of the same run.
    table = build_table(bad, bad.study.experiment("table1"))
    others = [other for other in table.lines if other.row.method not in ("acdc", "gmp")]
    assert all(other.counts.is_whole and not other.notes for other in others)
    own = line_of_method(bad, "acdc", "own")
    assert own.notes == line.notes
    dense = own.cells["dense_top1"].summary
    assert (dense.n, dense.runs) == (3 if case.status == "refused" else 2, 3)
    # A table of the dense models alone is not concerned by the sparse one.
    companions = line_of_method(bad, "acdc", "table6").counts
    assert companions.is_whole == (case.status == "refused")
    # Its journal is not averaged either.
    runs = {record.run for record in line.records}
    assert runs == set(runs_of(source, "acdc", 1, 3))
    assert bool(table.progress) == (case.status == "missing")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("does not hold", "0 of 3, 3 refused"), ("failed", "0 of 3, 3 failed"),
        ("diverged", "0 of 3, 3 diverged"), ("no result", NO_ROW), ("cut short", NO_ROW)
    ],
)  # fmt: skip
def test_without_any_run_there_is_no_number(name: str, text: str, changed: Make) -> None:
    bad = changed(CASES[name].change, "acdc")
    line = line_of_method(bad, "acdc")
    assert {cell.text for cell in line.cells.values()} == {text}
    assert {cell.summary.mean for cell in line.cells.values()} == {None}
    assert line.is_awaited == (name == "no result")
    table = build_table(bad, bad.study.experiment("table1"))
    assert ("No result so far: AC/DC at 90 %." in table.notes) == line.is_awaited
    tex = write_table(bad, bad.study.experiment("table1"))[0].read_text(encoding="utf-8")
    shown = next(each for each in tex.splitlines() if each.strip().startswith("AC/DC &"))
    assert rf"\multicolumn{{2}}{{c}}{{{escape(text)}}}" in shown
    assert r"& 0$^\ast$ &" in shown
    for found in findings(table):
        assert "AC/DC" not in {each.reference for each in found.differences if each.summary.n}


@pytest.mark.parametrize("name", ["does not hold", "failed", "no result", "diverged"])
def test_fine_tuning_is_counted_separately(name: str, changed: Make) -> None:
    case = CASES[name]
    change = case.change
    if case.status == "refused":
        change = on_result(lambda data: data["products"]["dense"]["last"].pop("certificate"))
    line = line_of_method(changed(change, "acdc_dense", 2), "acdc", "table9")
    tuned, own = line.cells["dense_ft_top1"].summary, line.cells["top1"].summary
    assert (tuned.n, getattr(tuned, case.status), own.n) == (2, 1, 3)
    (note,) = line.notes
    assert note.startswith(f"AC/DC, fine-tuned dense model, at 90 %: 2 of 3, 1 {case.status}")


def test_the_dense_model_is_refused_by_itself(changed: Make) -> None:
    change = on_result(lambda data: data["products"]["dense"]["last"].pop("certificate"))
    bad = changed(change, "acdc", 2)
    line = line_of_method(bad, "acdc", "own")
    assert (line.top1.n, line.cells["dense_top1"].summary.refused) == (3, 1)
    companions = line_of_method(bad, "acdc", "table6").counts
    assert (companions.n, companions.refused) == (2, 1)
    (note,) = line.notes
    assert note.startswith("AC/DC, dense model, at 90 %: 2 of 3, 1 refused: ")


def test_finished_without_the_product(source: Source) -> None:
    experiment = source.study.experiment("table1")
    gmp = next(row for row in experiment.rows if row.method == "gmp")
    wrong = replace(experiment, rows=(replace(gmp, product="dense"),))
    (line,) = build_table(replace(source, study=source.study), wrong).lines
    assert (line.top1.n, line.top1.missing, line.top1.diverged) == (0, 2, 1)
    assert f"{gmp.runs[0]} has no dense model" in line.notes[0]


@pytest.fixture(scope="module")
def spoiled(study: Path, tmp_path_factory: pytest.TempPathFactory) -> Source:
    """All states at once: AC/DC 2 refused, GMP 1 failed and 3 diverged, Dense 3 missing."""
    folder = tmp_path_factory.mktemp("spoiled") / "study"
    for part in ("runs", "theory"):
        shutil.copytree(study / part, folder / part)
    shutil.copyfile(study / "study.json", folder / "study.json")
    whole = open_study(folder)
    for change, method, seed in (
        (REFUSED, "acdc", 2),
        (on_result(to_failed), "gmp", 1),
        (without_result, "dense", 3),
        (cut, "rigl", 1),
    ):
        (name,) = runs_of(whole, method, seed)
        change(folder / "runs" / name)
    (other,) = runs_of(whole, "acdc", 3)
    (folder / "runs" / other / "provenance.json").write_text('{"git": ', encoding="utf-8")
    (folder / "output.txt").write_text(invoke("all", "--results", folder).output, encoding="utf-8")
    return open_study(folder)


NOTES = (
    "AC/DC at 90 %: 2 of 3, 1 refused: the certificate does not hold (seed 2).",
    f"GMP_50% & co at 90 %: 1 of 3, 1 diverged, 1 failed: {SHOWN} (seed 1).",
    "Dense at 0 %: 2 of 3, 1 missing.",
)


def test_tables_say_so(spoiled: Source) -> None:
    folder = spoiled.folder / "tables"
    tex = (folder / "table1.tex").read_text(encoding="utf-8")
    assert tex.isascii()
    lines = list(csv.DictReader((folder / "table1.csv").read_text("utf-8").splitlines()))
    counts = {line["method"]: [line[key] for key in ("n", *STATES)] for line in lines}
    assert counts["acdc"] == ["2", "0", "1", "0", "0"]
    assert counts["gmp"] == ["1", "1", "0", "1", "0"]
    assert counts["dense"] == ["2", "0", "0", "0", "1"]
    data = json.loads((folder / "table1.json").read_text(encoding="utf-8"))
    assert data["so_far"] == "9 of 11 runs so far"
    assert data["caption"].endswith(" 9 of 11 runs so far.")
    for note in NOTES:
        assert escape(note) in tex
        assert note in [line["notes"] for line in lines]


STATES = ("diverged", "refused", "failed", "missing")


def test_figures_and_findings_say_so(spoiled: Source) -> None:
    figure = draw_figure(spoiled, spoiled.study.experiment("figure3"))
    shown = words(figure)
    assert all(" ".join(note.split()) in shown for note in NOTES)
    assert "9 of 11 runs so far. " in shown
    figure.canvas.draw()
    close(figure)
    table = build_table(spoiled, spoiled.study.experiment("table1"))
    (found,) = findings(table)
    pairs = {each.other: each.summary.n for each in found.differences}
    # AC/DC has 1 and 3, dense training 1 and 2, GMP 2 alone.
    assert (pairs["Dense"], pairs["GMP_50% & co"]) == (1, 0)


def test_the_page_says_so(spoiled: Source) -> None:
    page = (spoiled.folder / "report.html").read_text(encoding="utf-8")
    total = len(spoiled.study.runs)
    head = page[page.index("<header>") : page.index("</header>")]
    assert f"{total - 2} of {total} runs so far. " in head
    assert (
        f"{total - 2} of {total} runs so far, of which 1 diverged and 1 refused and 1 failed"
        in page
    )
    for heading, method, seed in (("Refused", "acdc", 2), ("Failed", "gmp", 1)):
        start = page.index(f"<h3>{heading}</h3>")
        (name,) = runs_of(spoiled, method, seed)
        assert f">{name}</a>" in page[start : page.index("</ul>", start)]
    start = page.index('id="page-missing"')
    waiting = page[start : page.index("</section>", start)]
    for name, count in (("table1", "9 of 11"), ("figure2a", "5 of 6"), ("figure3", "9 of 11")):
        assert re.search(rf'<li><a href="#{name}">[^\n]*{count} runs so far</li>', waiting)
    for method, seed, remark in (("dense", 3, "no result so far"), ("rigl", 1, "result.json")):
        (name,) = runs_of(spoiled, method, seed)
        start = page.index(f'id="run-{name.rpartition("-")[2]}"')
        row = page[start : page.index("</tbody>", start)]
        assert '<td class="warn">missing</td>' in row
        assert remark in row


def test_warnings_and_progress(spoiled: Source) -> None:
    output = (spoiled.folder / "output.txt").read_text(encoding="utf-8").splitlines()
    total = len(spoiled.study.runs)
    assert output[-1] == f"{total - 2} of {total} runs so far"
    warnings = [line for line in output if line.startswith("warning: ")]
    damaged = (("rigl", 1, "result.json"), ("acdc", 3, "provenance.json"))
    assert len(warnings) == len(damaged)
    for method, seed, file in damaged:
        (name,) = runs_of(spoiled, method, seed)
        assert any(f"runs/{name}/{file}" in warning for warning in warnings)


def test_damaged_provenance(spoiled: Source, source: Source) -> None:
    (name,) = runs_of(spoiled, "acdc", 3)
    origin = (
        *("git_revision", "git_clean", "source_digest", "processor", "cores", "device", "engine"),
        "torch",
    )
    expected = [replace(row, **dict.fromkeys(origin)) for row in source.tables.by_run[name]]
    assert spoiled.tables.by_run[name] == expected


def test_empty_panel(changed: Make) -> None:
    bad = changed(on_result(to_failed), "acdc")
    experiment = bad.study.experiment("figure3")
    (points,) = experiment.panels
    acdc = tuple(row for row in points.rows if row.method == "acdc")
    both = replace(experiment, panels=(points, replace(points, plot="mask_change", rows=acdc)))
    figure = draw_figure(bad, both)
    assert "no run to draw" in words(figure)
    assert figure.axes[0].containers
    assert figure.axes[-1].get_title(loc="left").startswith("(b)")
    close(figure)


def test_empty_figure(changed: Make) -> None:
    bad = changed(on_result(to_failed), "acdc")
    experiment = bad.study.experiment("figure2a")
    with pytest.raises(NothingToDrawError, match="schedule has no run of a sparse method"):
        draw_figure(bad, experiment)
    invoke("figure", "figure2a", "--results", bad.folder)
    assert (bad.folder / "figures" / "figure2a.pdf").stat().st_size
    figure = blank(experiment, bad.study.scale, bad.tables, "Not there: for $ a $ reason.")
    for part in ("Epochs at tiny scale", "Not there: for $ a $ reason.", "0 of 3, 3 failed"):
        assert part in words(figure)
    figure.canvas.draw()
    close(figure)


def digests(folder: Path) -> dict[str, str]:
    paths = [*folder.glob("tables/*"), *folder.glob("figures/*"), *folder.glob("*.html")]
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in paths}


def test_all_makes_what_the_commands_make(outputs: Path, copy: Path) -> None:
    """Also twice, and elsewhere without touching the study's own files."""
    made = digests(outputs)
    assert len(made) == 6 + 6 * 3 + 2 + 2 + 3 * 3 + 1
    stamps = {path: path.stat().st_mtime_ns for path in copy.rglob("*") if path.is_file()}
    done = invoke("all", "--results", copy, "--out", copy / "partial")
    assert done.stderr == f"all {len(open_study(copy).study.runs)} runs\n"
    assert digests(copy / "partial") == made
    listed = {Path(line).relative_to(copy).parts[0] for line in done.stdout.splitlines()}
    assert listed == {"partial"}
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in stamps.items())


def test_an_empty_study_has_every_file(copy: Path) -> None:
    """Neither a run nor the theory."""
    shutil.rmtree(copy / "runs")
    shutil.rmtree(copy / "theory")
    done = invoke("all", "--results", copy)
    study = open_study(copy).study
    assert done.stderr == f"0 of {len(study.runs)} runs so far\n"
    assert len(digests(copy)) == 6 + 6 * 3 + 2 + 2 + 3 * 3 + 1
    with (copy / "tables" / "runs.csv").open(encoding="utf-8") as file:
        statuses = [(line["run"], line["status"]) for line in csv.DictReader(file)]
    assert statuses == [(name, "missing") for name in study.runs]
    for name in ("epochs", "events"):
        assert len((copy / "tables" / f"{name}.csv").read_text("utf-8").splitlines()) == 1
    tex = (copy / "tables" / "own.tex").read_text(encoding="utf-8")
    assert "0 of 11 runs so far." in tex
    assert "No result so far: Dense at 0 \\%, RigL at 80 \\%, AC/DC at 90 \\%," in tex
    page = (copy / "report.html").read_text(encoding="utf-8")
    assert "figure2a: schedule has no run to draw" in page
    assert "statements.json is missing" in page


def test_a_table_reads_its_own_runs_only(source: Source) -> None:
    needed = source.study.experiment("figure2a").runs
    assert len(needed) < len(source.study.runs)
    mine = open_study(source.folder, experiments=("figure2a",)).tables
    assert set(mine.by_run) == set(needed)
    assert read_runs(source.folder, {}).rows == ()
