"""Tables, figures and report are artifacts of one run; only what has changed is sent again."""

from pathlib import Path

import pytest

from tests.tracking.support import artifacts, assert_synced, only, store_uri, stored, sync

SHOWN = {
    "report.html": b"<html>", "tables/table01.csv": b"a,b", "tables/table01.tex": b"a & b",
    "tables/table01.json": b"{}", "figures/figure03.pdf": b"%PDF", "figures/figure03.svg": b"<svg>"
}  # fmt: skip


def write(study: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        (study / name).parent.mkdir(exist_ok=True)
        (study / name).write_bytes(content)


def found(study: Path) -> dict[str, bytes]:
    uri = store_uri(study / "runs")
    return artifacts(uri, only(uri, "study"))


def test_tables_follow_the_folder(one: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow import MlflowClient

    study, uri = one.parent.parent, store_uri(one.parent)
    sync(study)
    assert_synced(one)
    assert stored(uri, "study") == []
    write(study, SHOWN | {"tables/runs.parquet": b"PAR1", "study.json": b"{}"})
    sync(study)
    assert found(study) == SHOWN
    first, log, sent = only(uri, "study"), MlflowClient.log_artifact, []

    def noting(self: MlflowClient, run_id: str, path: str, folder: str | None = None) -> None:
        sent.append(Path(path).name)
        log(self, run_id, path, folder)

    monkeypatch.setattr(MlflowClient, "log_artifact", noting)
    changes = {"tables/table01.csv": b"a,c", "tables/table02.csv": b"new"}
    write(study, changes)
    for _ in range(2):
        sync(study)
        assert found(study) == SHOWN | changes
    assert sorted(sent) == ["table01.csv", "table02.csv"]
    assert only(uri, "study") == first
    (study / "tables/table01.tex").unlink()
    sync(study)
    kept = {key: text for key, text in (SHOWN | changes).items() if not key.endswith(".tex")}
    assert found(study) == kept
