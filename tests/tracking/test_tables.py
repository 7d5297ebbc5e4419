"""Tables, figures and report are artifacts of one run; only what has changed is sent again."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.tracking.support import artifacts, only, store_uri, stored, sync

SHOWN = {
    "report.html": b"<html>",
    "tables/table01.csv": b"a,b",
    "tables/table01.tex": b"a & b",
    "tables/table01.json": b"{}",
    "figures/figure03.pdf": b"%PDF",
    "figures/figure03.svg": b"<svg>",
}


@pytest.fixture
def study(one: Path) -> Path:
    study = one.parent.parent
    for name, content in {**SHOWN, "tables/runs.parquet": b"PAR1", "study.json": b"{}"}.items():
        (study / name).parent.mkdir(exist_ok=True)
        (study / name).write_bytes(content)
    return study


def found(study: Path) -> dict[str, bytes]:
    uri = store_uri(study / "runs")
    return artifacts(uri, only(uri, "study"))


def test_sent(study: Path) -> None:
    sync(study)
    assert found(study) == SHOWN


def test_changed(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow import MlflowClient

    sync(study)
    uri, log, sent = store_uri(study / "runs"), MlflowClient.log_artifact, []
    first = only(uri, "study")

    def noting(self: MlflowClient, run_id: str, path: str, folder: str | None = None) -> None:
        sent.append(Path(path).name)
        log(self, run_id, path, folder)

    monkeypatch.setattr(MlflowClient, "log_artifact", noting)
    changes = {"tables/table01.csv": b"a,c", "tables/table02.csv": b"new"}
    for name, content in changes.items():
        (study / name).write_bytes(content)
    for _ in range(2):
        sync(study)
        assert found(study) == SHOWN | changes
    assert sorted(sent) == ["table01.csv", "table02.csv"]
    assert only(uri, "study") == first


def test_removed(study: Path) -> None:
    sync(study)
    (study / "tables/table01.tex").unlink()
    sync(study)
    assert found(study) == {key: text for key, text in SHOWN.items() if not key.endswith(".tex")}


def test_none(one: Path) -> None:
    sync(one.parent.parent)
    assert stored(store_uri(one.parent), "study") == []
