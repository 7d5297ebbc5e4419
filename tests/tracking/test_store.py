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
from acdc.console import main
from acdc.errors import ConfigError
from study.resolve import load
from tests.tracking.support import active, assert_mirrors, slug_of, sync
from tracking.command import scale_of, study_of
from tracking.store import passwordless, reason, tracking_uri
from workflow.reproduce import _made


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


@pytest.mark.parametrize(
    "uri",
    [
        "htps://me:secret@host:5000",
        "http:me:secret@host",
        "me:secret@host",
        "http//me:secret@host",
        "http://me:a/secret@host",
        "postgres://me@h/db?sslmode=require&password=secret",
    ],
)
def test_a_misspelt_store_shows_no_password(uri: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is no tracking store") as error:
        tracking_uri(uri, tmp_path)
    assert "secret" not in str(error.value)
    assert "***" in str(error.value)


def test_a_store_is_the_same_with_another_password() -> None:
    assert passwordless("http://me:a@h:5000/x") == "http://me@h:5000/x"
    with_query = "postgresql://me@h/db?sslmode=require&password={}&application_name=x"
    bare = "postgresql://me@h/db?sslmode=require&application_name=x"
    assert {passwordless(with_query.format(word)) for word in ("a", "b", "")} == {bare}


def test_a_user_who_may_not_write_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow.exceptions import MlflowException
    from mlflow.utils.rest_utils import verify_rest_response
    from requests import Response

    answer = Response()
    answer.status_code, answer._content = 403, b"Permission denied"
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "guest")
    with pytest.raises(MlflowException) as error:
        verify_rest_response(answer, "/api/2.0/mlflow/runs/create")
    assert reason(error.value).startswith("the user guest may not write there")


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
    monkeypatch.setattr("tracking.store.STORE_WAIT_S", 0.1)
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


@pytest.mark.parametrize("uri", ["databricks", "mlruns", "http://[::1", "http://127.0.0.1:9"])
def test_a_lenient_mirror_never_ends_in_error(
    uri: str, one: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    given = ("--experiment", "my own", "--scale", "tiny", "--weights")
    sync(one.parent, *given, "--lenient")
    said = capsys.readouterr().out
    assert said.startswith("not mirrored: ")
    named = "--uri http://127.0.0.1:9 " if uri.endswith(":9") else ""
    again = f"acdc sync {one.parent} {named}--experiment 'my own' --scale tiny --weights\n"
    assert said.endswith(f": {again}")


def test_another_results_folder_of_the_scale_is_refused(
    one: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    uri, other = f"sqlite:///{one.parent.parent / 'mlflow.db'}", tmp_path / "other" / "tiny"
    sync(one.parent)
    shutil.copytree(one.parent, other / "runs")
    journal = other / "runs" / one.name / "journal.jsonl"
    journal.write_text("".join(journal.read_text().splitlines(keepends=True)[:2]))
    (other / "runs" / one.name / "result.json").unlink()
    (other / "report.html").write_text("<html>")
    capsys.readouterr()
    text = fails(other, capsys, "--uri", uri)
    assert f"holds the results of {one.parent.parent}, " in text
    assert "--experiment" in text
    assert_mirrors(one.parent, one)
    assert active(uri, "study") == {}
    sync(other, "--uri", uri, "--experiment", "other")
    sync(one.parent)
    assert list(active(uri, "run", "other")) == [slug_of(one)]
    assert_mirrors(one.parent, one)


def test_each_study_has_a_store_of_its_own(
    one: Path, empty_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "results" / "small"
    shutil.copytree(one.parent, other / "runs")
    shutil.copy(empty_store, other / "mlflow.db")
    sync(tmp_path / "results")
    assert capsys.readouterr().out.count(": 1 runs: 1 new") == 2
    for study in (one.parent.parent, other):
        uri = f"sqlite:///{study / 'mlflow.db'}"
        assert list(active(uri, "run", f"acdc-{study.name}")) == [slug_of(one)]
        assert (study / "mlartifacts").is_dir()


def test_artifacts_that_are_gone_are_one_sentence(
    one: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study, moved = one.parent.parent, tmp_path / "moved" / "tiny"
    sync(study)
    capsys.readouterr()
    shutil.copytree(study, moved)
    assert "moved or copied" in fails(moved, capsys)
    (study / "mlartifacts").rename(tmp_path / "elsewhere")
    assert "no longer there" in fails(study, capsys)
    (tmp_path / "elsewhere").rename(study / "mlartifacts")
    sync(study)
    assert_mirrors(one.parent, one)


def test_the_end_of_a_suite_says_what_was_mirrored(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").touch()
    study = load("quick")
    assert f"MLflow  {tmp_path}/mlflow.db" in "\n".join(_made(study, tmp_path))
    (tmp_path / "tracking.txt").write_text("not mirrored: it is away\nmore\n")
    lines = list(_made(study, tmp_path))
    assert lines == ["  MLflow  not mirrored: it is away"]


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
    assert importers == {
        "acdc/tracking/mirror.py",
        "acdc/tracking/store.py",
        "workflow/doctor/environment.py",
    }
    code = (
        "import sys, tracking.command; "
        "sys.exit(bool({'mlflow', 'torch', 'pandas'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_training_imports_nothing_of_the_mirror() -> None:
    code = (
        "import sys, acdc.cli, acdc.run.lifecycle, acdc.run.launch, acdc.run.forkserver; "
        "sys.exit(any(name.startswith('tracking') for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
