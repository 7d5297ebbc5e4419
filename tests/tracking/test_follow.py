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
    active,
    assert_cell_of,
    assert_mirrors,
    names,
    seeds_of_the_cell,
    shown,
    slug_of,
    store_uri,
    sync,
    tags,
    writers,
)
from tracking.command import Task
from tracking.store import open_store

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


def test_64_runs_that_log_at_once_are_mirrored_once(
    one: Path, trained: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(one)
    runs, uri = one.parent, store_uri(one.parent)
    with following(3, str(runs), "--follow", "0.5") as process:
        folders = writers(trained["acdc"], runs, 64, pause_s=3.0)
        await_(lambda: seeds_of_the_cell(uri) == 64, process)
        for pid in children(process):
            os.kill(pid, signal.SIGTERM)
        out, err = process.communicate()
    assert (process.returncode, err) == (0, "")
    assert out.count("mirroring has ended") == 3
    # All has arrived already.
    sync(runs)
    assert "64 runs: 0 new, 0 updated, 64 unchanged" in capsys.readouterr().out
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


def passes(task: Task) -> str:
    """Mirror once more, as one that follows does; return what was sent."""
    ((uri, runs),) = task.stores().items()
    with open_store(uri, False) as mirror:
        return str(task.carry_out(mirror, runs))


def test_a_run_that_a_halted_server_creates_late_is_filled(one: Path) -> None:
    from mlflow import MlflowClient

    uri, task = store_uri(one.parent), Task([one.parent], None, None, None)
    passes(task)
    assert "1 unchanged" in passes(task)
    (first,) = assert_mirrors(one.parent, one).values()
    client = MlflowClient(uri)
    run, late = client.get_run(first), "z"
    known = ("kind", "scale", "source", "mirror.key", "mirror.claim", "mlflow.parentRunId")
    own = {key: run.data.tags[key] for key in known}
    while late > first:  # the least id is kept
        if late != "z":
            client.delete_run(late)
            client.set_tag(first, "mirror.key", own["mirror.key"])
        late = client.create_run(
            run.info.experiment_id, tags=own, run_name=run.info.run_name
        ).info.run_id
    passes(task)
    assert assert_mirrors(one.parent, one) == {slug_of(one): late}
    assert "1 unchanged" in passes(task)


def test_a_cell_that_someone_deletes_comes_back(one: Path) -> None:
    from mlflow import MlflowClient

    uri, task = store_uri(one.parent), Task([one.parent], None, None, None)
    passes(task)
    (cell,) = active(uri, "cell").values()
    MlflowClient(uri).delete_run(cell)
    passes(task)
    (again,) = active(uri, "cell").values()
    assert again != cell
    assert shown(uri, again)["sparse_last/n"] == 1
    (run,) = assert_mirrors(one.parent, one).values()
    assert tags(uri, run)["mlflow.parentRunId"] == again


def test_each_kind_of_error_is_told(runs: Path, trained: dict[str, Path]) -> None:
    store = runs.parent / "mlflow.db"
    (runs / trained["dense"].name / "result.json").write_text("{")
    with following(1, str(runs), "--follow", "0.2") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert "mirroring to" in process.stdout.readline()
        assert "2 runs: 2 new" in process.stdout.readline()
        assert "1 runs cannot be read" in process.stderr.readline()
        store.rename(store.with_suffix(".kept"))
        store.mkdir()
        assert "nothing is lost" in process.stderr.readline()
        for pid in children(process):
            os.kill(pid, signal.SIGTERM)
        process.communicate()
