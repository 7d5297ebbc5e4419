"""Syncs that follow training, by several processes, whatever happens to the store."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from tests.tracking.support import assert_synced, finished, store_uri, sync, writers

# Several processes that follow the same runs into one store.
FOLLOWERS = """
import os, sys
from tracking.command import sync_command
from tracking.store import load_mlflow
load_mlflow()
for _ in range(int(sys.argv[1])):
    if not os.fork():
        break
else:
    sys.exit(max(os.waitstatus_to_exitcode(os.wait()[1]) for _ in range(int(sys.argv[1]))))
sync_command.main(sys.argv[2:], standalone_mode=False)
"""


@contextmanager
def following(count: int, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", FOLLOWERS, str(count), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def await_(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    while not condition():
        assert process.poll() is None, process.communicate()
        time.sleep(0.2)


def end(process: subprocess.Popen[str], number: signal.Signals) -> tuple[str, str]:
    """Signal the followers; all must end with status 0."""
    for child in psutil.Process(process.pid).children():
        child.send_signal(number)
    out, err = process.communicate()
    assert process.returncode == 0
    return out, err


@pytest.mark.slow
def test_many_runs_at_once(
    one: Path, trained: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(one)
    runs, uri = one.parent, store_uri(one.parent)
    (runs.parent / "study.json").touch()
    with following(3, str(runs), "--follow", "0.5") as process:
        folders = writers(trained["acdc"], runs, 24, pause_s=2.0)
        await_(lambda: finished(uri) == 24, process)
        assert end(process, signal.SIGTERM)[1] == ""
    sync(runs)
    assert "24 runs: 0 new, 0 updated, 24 unchanged" in capsys.readouterr().out
    assert_synced(*folders)


@pytest.mark.slow
def test_store_is_down_for_a_while(one: Path, tmp_path: Path) -> None:
    away = one.parent.parent / "mlflow.db"
    kept = shutil.move(away, tmp_path / "kept.db")
    away.mkdir()
    with following(1, str(one.parent), "--follow", "0.2") as process:
        assert str(away) in process.stderr.readline()
        time.sleep(1)
        away.rmdir()
        shutil.move(kept, away)
        await_(lambda: finished(store_uri(one.parent)) == 1, process)
        _, err = end(process, signal.SIGINT)
    assert err == ""
    sync(one)
    assert_synced(one)


@pytest.mark.slow
def test_store_is_emptied_meanwhile(one: Path, empty_store: Path) -> None:
    uri, store = store_uri(one.parent), one.parent.parent / "mlflow.db"
    with following(1, str(one.parent), "--follow", "0.2") as process:
        await_(lambda: finished(uri) == 1, process)
        shutil.copy(empty_store, store.with_suffix(".new"))
        store.with_suffix(".new").replace(store)
        await_(lambda: finished(uri) == 1, process)
        end(process, signal.SIGTERM)
    sync(one)
    assert_synced(one)
