"""Tables, figures and report are artifacts of the study's run; what has changed is sent again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.tracking.support import active, query, store_uri, sync

SHOWN = {
    "report.html": "<html>",
    "tables/table01.csv": "a,b",
    "tables/table01.tex": "a & b",
    "tables/table01.json": "{}",
    "figures/figure03.pdf": "%PDF",
    "figures/figure03.png": "PNG",
    "figures/figure03.svg": "<svg>",
}


@pytest.fixture
def study(one: Path) -> Path:
    study = one.parent.parent
    for name, text in {**SHOWN, "tables/runs.parquet": "PAR1", "study.json": "{}"}.items():
        (study / name).parent.mkdir(exist_ok=True)
        (study / name).write_text(text)
    return study


def artifacts(study: Path) -> Path:
    uri = store_uri(study / "runs")
    (run_id,) = active(uri, "study").values()
    text = "SELECT artifact_uri FROM runs WHERE run_uuid = :r"
    ((found,),) = query(uri, text, r=run_id)
    return Path(found.removeprefix("file://"))


def files(folder: Path) -> dict[str, str]:
    found = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_text() for path in found}


def test_tables_figures_and_report_are_artifacts_of_the_study(
    study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sync(study)
    assert f"{len(SHOWN)} tables and figures" in capsys.readouterr().out
    there = files(artifacts(study))
    assert set(json.loads(there.pop("manifest.json"))) == set(SHOWN)
    assert there == SHOWN
    assert list(active(store_uri(study / "runs"), "study")) == ["study"]


def test_only_what_has_changed_is_sent_again(
    study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sync(study)
    before = artifacts(study)
    (study / "tables/table01.csv").write_text("a,c")
    (study / "tables/table02.csv").write_text("new")
    capsys.readouterr()
    sync(study)
    assert "; 2 tables and figures" in capsys.readouterr().out
    assert artifacts(study) == before
    assert files(before)["tables/table01.csv"] == "a,c"
    sync(study)
    assert "; 0 tables and figures" in capsys.readouterr().out


def test_a_manifest_that_is_gone_means_that_nothing_has_arrived(study: Path) -> None:
    sync(study)
    (artifacts(study) / "manifest.json").unlink()
    (artifacts(study) / "report.html").unlink()
    (study / "tables/table01.csv").write_text("a,c")
    sync(study)
    there = files(artifacts(study))
    assert set(json.loads(there.pop("manifest.json"))) == set(SHOWN)
    assert there == {**SHOWN, "tables/table01.csv": "a,c"}


def test_a_table_that_the_study_no_longer_has_disappears(study: Path) -> None:
    sync(study)
    (study / "tables/table01.tex").unlink()
    sync(study)
    there = files(artifacts(study))
    there.pop("manifest.json")
    assert there == {name: text for name, text in SHOWN.items() if not name.endswith(".tex")}


def test_a_study_without_tables_has_no_such_run(one: Path) -> None:
    sync(one.parent.parent)
    assert active(store_uri(one.parent), "study") == {}
