"""Where the store is, and one sentence for each way in which it can be away."""

from __future__ import annotations

import contextlib
import re
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

import acdc
from acdc.cli import main
from acdc.errors import ConfigError
from acdc.tracking.command import scale_of, study_of
from acdc.tracking.store import tracking_uri
from tests.tracking.support import active, assert_mirrors, sync


def test_where_the_store_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tmp_path / "results" / "smoke" / "runs" / "a-0"
    run.mkdir(parents=True)
    study = run.parent.parent
    assert [study_of(folder) for folder in (run, run.parent, study)] == [study] * 3
    assert scale_of(study) == "smoke"
    assert scale_of(tmp_path / "results") == ""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert tracking_uri(None, study) == f"sqlite:///{tmp_path}/results/smoke/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    assert tracking_uri(None, study) == "http://127.0.0.1:5000"
    assert tracking_uri("sqlite:///x.db", study) == "sqlite:///x.db"
    for plain in ("mlruns", "file:///mlruns", "./mlruns"):
        with pytest.raises(ConfigError, match="mlruns"):
            tracking_uri(plain, study)


def fails(runs: Path, capsys: pytest.CaptureFixture[str], *options: str) -> str:
    """Run the command as a user does; it must end with exit status 6 and one sentence."""
    with pytest.raises(SystemExit) as end:
        main(lambda standalone_mode: sync(runs, *options))
    assert end.value.code == 6
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    return captured.err


@pytest.mark.parametrize("scheme", ["http", "postgresql+none"])
def test_a_server_that_is_away_is_one_sentence(
    one: Path, scheme: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    journal = (one / "journal.jsonl").read_bytes()
    uri = f"{scheme}://me:s%40cret@127.0.0.1:9/x"
    text = fails(one.parent, capsys, "--uri", uri)
    assert "nothing is lost" in text
    assert "cret" not in text
    assert (one / "journal.jsonl").read_bytes() == journal
    sync(one.parent, "--uri", uri, "--lenient")
    said = capsys.readouterr().out
    assert said.startswith("not mirrored: tracking store")
    assert f"acdc sync {one.parent}" in said
    assert "cret" not in said


def test_a_locked_store_is_one_sentence(
    one: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("acdc.tracking.store.STORE_WAIT_S", 0.1)
    store = sqlite3.connect(one.parent.parent / "mlflow.db")
    with contextlib.closing(store):
        store.execute("BEGIN EXCLUSIVE")
        assert "locked by another program" in fails(one.parent, capsys)
    sync(one.parent)
    assert_mirrors(one.parent, one)


def test_a_deleted_experiment_is_one_sentence(
    one: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from mlflow import MlflowClient

    uri = f"sqlite:///{one.parent.parent / 'mlflow.db'}"
    sync(one.parent)
    (run_id,) = active(uri, "run").values()
    client = MlflowClient(uri)
    client.delete_experiment(client.get_run(run_id).info.experiment_id)
    capsys.readouterr()
    assert "restore" in fails(one.parent, capsys)


def test_an_emptied_store_is_rebuilt_from_the_results(runs: Path, empty_store: Path) -> None:
    sync(runs)
    shutil.copy(empty_store, runs.parent / "mlflow.db")
    shutil.rmtree(runs.parent / "mlartifacts")
    sync(runs)
    assert_mirrors(runs, *runs.iterdir())


# Two processes that mirror at the same moment. What they do with the network is written down:
# names looked up, connections made.
WATCHED = """
import os, sys
log = open(sys.argv[1], "a", buffering=1)
def watch(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"):
        log.write(f"{event} {arguments}\\n")
sys.addaudithook(watch)
from acdc.tracking.command import sync_command
from acdc.tracking.store import load_mlflow
load_mlflow()
child = os.fork()
sync_command.main(sys.argv[2:], standalone_mode=False)
sys.stdout.flush()
if child:
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_two_at_once_into_a_new_store_lose_and_duplicate_nothing(
    runs: Path, without_settings: dict[str, str]
) -> None:
    (runs.parent / "mlflow.db").unlink()
    log = runs.parent / "network.log"
    done = subprocess.run(
        [sys.executable, "-c", WATCHED, str(log), str(runs)],
        env=without_settings,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    counts = sorted(line.partition(" runs: ")[2] for line in done.stdout.splitlines())
    assert [text.partition(";")[0] for text in counts] == [
        "0 new, 0 updated, 3 unchanged",
        "3 new, 0 updated, 0 unchanged",
    ]
    assert log.read_text() == ""
    assert_mirrors(runs, *runs.iterdir())
    assert not list(runs.parent.glob(".mlflow.db.*"))


def test_nothing_but_the_mirror_imports_mlflow() -> None:
    source = Path(acdc.__file__).parent
    importers = {
        path.relative_to(source.parent).as_posix()
        for package in ("acdc", "baselines", "workflow", "reports")
        for path in source.parent.joinpath(package).rglob("*.py")
        if re.search(r"^\s*(import|from) mlflow\b", path.read_text(), flags=re.MULTILINE)
    }
    assert importers == {"acdc/tracking/mirror.py", "acdc/tracking/store.py"}
    code = (
        "import sys, acdc.tracking.command, acdc.tracking.server; "
        "sys.exit(bool({'mlflow', 'torch', 'pandas'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_training_imports_nothing_of_the_mirror() -> None:
    code = (
        "import sys, acdc.cli, acdc.runs, acdc.launch, acdc.nursery; "
        "sys.exit(any(name.startswith('acdc.tracking') for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
