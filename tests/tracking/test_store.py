"""Where the store is, and what happens if it is down, locked, moved, or used by two at once."""

import contextlib
import re
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest

import tracking
from acdc.console import main
from acdc.errors import ConfigError
from tests.tracking.support import artifacts, assert_synced, only, slug_of, store_uri, stored, sync
from tracking.store import reason, tracking_uri, without_password


def test_uri(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert tracking_uri(None, tmp_path) == f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    assert tracking_uri(None, tmp_path) == "http://127.0.0.1:5000"
    assert tracking_uri("sqlite:///x.db", tmp_path) == "sqlite:///x.db"


@pytest.mark.parametrize(
    "uri",
    [
        *("mlruns", "file:///mlruns", "./mlruns", "databricks", "http://[::1"),
        *("htps://me:secret@host:5000", "http:me:secret@host", "me:secret@host"),
        "sqlite:///a?b/mlflow.db",
        *("http//me:secret@host", "http://me:a/secret@host", "postgres://me@h/db?password=secret"),
    ],
)
def test_wrong_uri(uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What gave the address is blamed."""
    for option, key in ((uri, "--uri"), (None, "MLFLOW_TRACKING_URI")):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri if option is None else "http://host")
        with pytest.raises(ConfigError, match=f"^{key}") as error:
            tracking_uri(option, tmp_path)
        assert "secret" not in str(error.value)


@pytest.mark.parametrize(
    "uri", ["http://me:{}@h:5000/x", "postgresql://me@h/db?sslmode=require&password={}"]
)
def test_no_password_is_shown(uri: str) -> None:
    shown = uri.format("***")
    for password in ("s%40cret", "plain"):
        text = f"failed: {uri.format(password)}"
        assert without_password(text, uri.format(password)) == f"failed: {shown}"
    assert "s@cret" not in without_password("s@cret is wrong", uri.format("s%40cret"))


def test_denied(monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow.exceptions import MlflowException
    from mlflow.utils.rest_utils import verify_rest_response
    from requests import Response

    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "guest")
    for code, word in ((401, "MLFLOW_TRACKING_PASSWORD"), (403, "guest")):
        answer = Response()
        answer.status_code, answer._content = code, b"denied"
        with pytest.raises(MlflowException) as error:
            verify_rest_response(answer, "/api/2.0/mlflow/runs/create")
        assert word in reason(error.value)


def fails(runs: Path, capsys: pytest.CaptureFixture[str], *options: str) -> str:
    """Run the command as a user does; it must end with exit status 9 and one line."""
    with pytest.raises(SystemExit) as end:
        main(lambda standalone_mode: sync(runs, *options))
    assert end.value.code == 9
    captured = capsys.readouterr()
    assert (captured.out, captured.err.count("\n")) == ("", 1)
    return captured.err


@pytest.mark.parametrize("scheme", ["http", "postgresql+none"])
def test_down(
    one: Path, scheme: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    uri = f"{scheme}://me:s%40cret@127.0.0.1:9/x"
    assert "cret" not in fails(one.parent, capsys, "--uri", uri)
    sync(one.parent, "--uri", uri, "--lenient")
    printed = capsys.readouterr().out
    assert f"acdc sync {one.parent}" in printed
    assert "cret" not in printed


def test_lenient(one: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "databricks")
    sync(one.parent, "--lenient")


def lock(store: Path) -> contextlib.AbstractContextManager[object]:
    connection = sqlite3.connect(store)
    connection.execute("BEGIN EXCLUSIVE")
    return contextlib.closing(connection)


def become_newer(store: Path) -> None:
    with contextlib.closing(sqlite3.connect(store)) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = 'ffffffffffff'")


def lose_a_table(store: Path) -> None:
    with contextlib.closing(sqlite3.connect(store)) as connection, connection:
        connection.execute("DROP TABLE metrics")


def become_text(store: Path) -> None:
    store.write_text("no database")


def lose_the_end(store: Path) -> None:
    store.write_bytes(store.read_bytes()[:5000])


def become_a_folder(store: Path) -> None:
    store.unlink()
    store.mkdir()


def delete_the_experiment(store: Path) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{store}")
    client.delete_experiment(client.create_experiment("acdc-tiny"))


@pytest.mark.parametrize(
    "spoil",
    [
        lock, become_newer, lose_a_table, become_a_folder, delete_the_experiment, become_text,
        lose_the_end
    ],
)  # fmt: skip
def test_store_that_does_not_work(
    spoil: Callable[[Path], Any], one: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = one.parent.parent / "mlflow.db"
    with spoil(store) or contextlib.nullcontext():
        text = fails(one.parent, capsys)
        assert str(store) in text or "--experiment" in text


def test_deleted_store(one: Path) -> None:
    """It is made again, and whole."""
    sync(one.parent)
    (one.parent.parent / "mlflow.db").unlink()
    sync(one.parent)
    assert_synced(one)


@pytest.mark.parametrize("name", ["it's É 50% a%20b", 'a#b;c q"q', "a\\b&c=d\n$HOME {x}"])
def test_any_name_of_a_results_folder(name: str, one: Path) -> None:
    place = one.parent.parent.rename(one.parent.parent.with_name(name))
    run = place / "runs" / one.name
    for _ in range(2):
        sync(place)
        assert_synced(run, experiment=f"acdc-{name}")
    assert artifacts(store_uri(run.parent), only(store_uri(run.parent), "run", f"acdc-{name}"))


@pytest.mark.parametrize("name", ["a?b", "a\udcff"])
def test_name_of_a_results_folder_that_no_address_can_have(name: str, one: Path) -> None:
    place = one.parent.parent.rename(one.parent.parent.with_name(name))
    with pytest.raises(ConfigError, match=r"^FOLDER="):
        sync(place)
    assert not list(place.glob("mlruns"))


@pytest.mark.parametrize("content", ["", "tables/table01.csv", "x/config.yaml"])
@pytest.mark.parametrize("options", [("--follow", "1"), ("--lenient",)])
def test_folder_without_runs(content: str, options: tuple[str, ...], tmp_path: Path) -> None:
    folder = tmp_path / "wrong"
    (folder / content).mkdir(parents=True, exist_ok=True)
    with pytest.raises(ConfigError, match=str(folder)):
        sync(folder, *options)
    assert not list(folder.rglob("mlflow.db*"))


@pytest.mark.parametrize("seconds", ["nan", "0", "x"])
def test_wrong_pause(seconds: str, one: Path) -> None:
    with pytest.raises(click.BadParameter) as error:
        sync(one, "--follow", seconds)
    assert error.value.param.name == "seconds"


def test_other_folder(one: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A folder does not overwrite the results of another one of its scale, nor does a copy."""
    uri, other = store_uri(one.parent), tmp_path / "other" / "tiny"
    sync(one.parent)
    shutil.copytree(one.parent.parent, other)
    capsys.readouterr()
    assert str(one.parent.parent) in fails(other, capsys, "--uri", uri)
    assert "mlflow.db" in fails(other, capsys)
    sync(other, "--uri", uri, "--experiment", "other")
    sync(one.parent)
    assert [name for name, _ in stored(uri, "run", "other")] == [slug_of(one)]
    assert_synced(one)


def test_a_store_for_each_study(one: Path, empty_store: Path, tmp_path: Path) -> None:
    other = tmp_path / "results" / "small"
    shutil.copytree(one.parent, other / "runs")
    shutil.copy(empty_store, other / "mlflow.db")
    sync(tmp_path / "results")
    for study in (one.parent.parent, other):
        assert_synced(study / "runs" / one.name, experiment=f"acdc-{study.name}")
        assert (study / "mlartifacts").is_dir()


# Two processes that sync at the same moment, and note what they do with the network.
TWO = """
import os, sys
log = open(sys.argv[1], "a", buffering=1)
def watch(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"):
        log.write(f"{event} {arguments}\\n")
sys.addaudithook(watch)
from tracking.command import sync_command
from tracking.store import load_mlflow
load_mlflow()
child = os.fork()
sync_command.main(sys.argv[2:], standalone_mode=False)
sys.stdout.flush()
if child:
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.slow
def test_two_at_once_into_a_new_store(runs: Path, tmp_path: Path) -> None:
    (runs.parent / "mlflow.db").unlink()
    log = tmp_path / "network.log"
    subprocess.run([sys.executable, "-c", TWO, str(log), str(runs)], check=True)
    assert log.read_text() == ""
    assert_synced(*runs.iterdir())
    assert not list(runs.parent.glob(".mlflow.db.*"))


def test_imports() -> None:
    """MLflow is imported where it is needed, and never by training."""
    root = Path(tracking.__file__).parent.parent
    importers = {
        path.relative_to(root).as_posix()
        for package in ("acdc", "baselines", "study", "reports", "tracking")
        for path in (root / package).rglob("*.py")
        if re.search(r"^\s*(import|from) mlflow\b", path.read_text(), flags=re.MULTILINE)
    }
    assert importers == {"tracking/store.py", "tracking/sync.py"}
    code = "import sys, tracking.command; sys.exit(bool({'mlflow', 'torch'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
