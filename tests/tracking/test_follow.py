"""Mirroring that goes on while runs are trained, by several processes, whatever the store does."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.tracking.support import (
    assert_cell_of,
    assert_mirrors,
    names,
    slug_of,
    store_uri,
    sync,
    writers,
)

# Several processes that follow the same runs into one store.
FOLLOWERS = """
import os, sys
from acdc.tracking.command import sync_command
from acdc.tracking.store import load_mlflow
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


def children(process: subprocess.Popen[str]) -> list[int]:
    import psutil

    return [child.pid for child in psutil.Process(process.pid).children()]


def test_64_runs_that_log_at_once_are_mirrored_once(one: Path, trained: dict[str, Path]) -> None:
    shutil.rmtree(one)
    runs, uri = one.parent, store_uri(one.parent)
    with following(3, str(runs), "--follow", "0.5") as process:
        folders = writers(trained["acdc"], runs, 64, pause_s=3.0)
        await_(lambda: len(names(uri, "run")) == 64, process)
        for pid in children(process):
            os.kill(pid, signal.SIGTERM)
        out, err = process.communicate()
    assert (process.returncode, err) == (0, "")
    assert out.count("mirroring has ended") == 3
    sync(runs)
    assert_mirrors(runs, *folders)
    assert_cell_of(uri, folders)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_store_that_is_away_is_told_once_and_caught_up_with(
    one: Path, number: signal.Signals, tmp_path: Path
) -> None:
    away = one.parent.parent / "mlflow.db"
    kept = shutil.move(away, tmp_path / "kept.db")
    away.mkdir()
    with following(1, str(one.parent), "--follow", "0.2") as process:
        assert process.stderr is not None
        assert "nothing is lost" in process.stderr.readline()
        time.sleep(1)
        away.rmdir()
        shutil.move(kept, away)
        await_(lambda: slug_of(one) in names(store_uri(one.parent), "run"), process)
        time.sleep(1)
        for pid in children(process):
            os.kill(pid, number)
        out, err = process.communicate()
    assert (process.returncode, err) == (0, "")
    assert out.count("1 new") == 1
    assert out.endswith("mirroring has ended\n")
    assert_mirrors(one.parent, one)


def test_a_store_that_is_emptied_meanwhile_is_filled_again(one: Path, empty_store: Path) -> None:
    uri, store = store_uri(one.parent), one.parent.parent / "mlflow.db"
    with following(1, str(one.parent), "--follow", "0.2") as process:
        for _ in range(2):
            await_(lambda: slug_of(one) in names(uri, "run"), process)
            shutil.copy(empty_store, store.with_suffix(".new"))
            store.with_suffix(".new").replace(store)
        await_(lambda: slug_of(one) in names(uri, "run"), process)
        for pid in children(process):
            os.kill(pid, signal.SIGTERM)
        assert process.wait() == 0
    sync(one.parent)
    assert_mirrors(one.parent, one)
