"""A run has one trainer at a time: others get its name, and replace one that is lost."""

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from filelock import SoftFileLease

import acdc.run.lease
from acdc.config.run import RunConfig
from acdc.errors import Resumable, SuiteError
from acdc.run.lease import LEASE
from acdc.run.lifecycle import Options, run
from tests.run.test_stops import PATIENCE_S, ended, spawn
from tests.support import Silent, Uninterrupted, assert_same_run, epochs, tiny_config

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["tests.run.test_lease"])

# Duration and heartbeat of a lease, in seconds.
SHORT, ENDLESS = (1.5, 0.1), (1e6, 1e3)
DEFAULT = (acdc.run.lease._DURATION_S, acdc.run.lease._HEARTBEAT_S)


class Held(Silent):
    """Waits at a numbered step until it is released; reports that it waits."""

    def __init__(self, iteration: int, there: Connection, on: Event) -> None:
        super().__init__()
        self.left = iteration + 1
        self.there = there
        self.on = on

    def step(self) -> None:
        self.left -= 1
        if self.left == 0:
            self.there.send_bytes(b"there")
            self.on.wait()


def train_with(
    config: RunConfig, options: Options, times: tuple[float, float], reporter: Silent
) -> None:
    """Train in a process of its own, with a lease of this duration and heartbeat."""
    torch.set_num_threads(1)
    acdc.run.lease._DURATION_S, acdc.run.lease._HEARTBEAT_S = times
    run(config, options, reporter)


def train_held(*arguments: Any, iteration: int, there: Connection, on: Event) -> None:
    try:
        train_with(*arguments, Held(iteration, there, on))
    except SuiteError as error:
        there.send(str(error))
        sys.exit(error.exit_status)


@dataclass
class Holder:
    """A process that trains a run, and is held at one of its steps."""

    process: ForkServerProcess
    said: Connection
    on: Event

    @property
    def pid(self) -> int:
        return self.process.pid

    def end(self) -> int | None:
        self.on.set()
        self.process.join(PATIENCE_S)
        return self.process.exitcode


def hold(
    config: RunConfig,
    runs: Path,
    times: tuple[float, float] = SHORT,
    iteration: int = 7,
    checkpoint_interval_s: float = 0.0,
) -> Holder:
    said, there = CONTEXT.Pipe(duplex=False)
    on = CONTEXT.Event()
    options = Options(runs, checkpoint_interval_s=checkpoint_interval_s)
    held = {"iteration": iteration, "there": there, "on": on}
    process = CONTEXT.Process(
        target=train_held, args=(config, options, times), kwargs=held, daemon=True
    )
    process.start()
    there.close()
    said.recv_bytes()
    HOLDERS.append(Holder(process, said, on))
    return HOLDERS[-1]


HOLDERS: list[Holder] = []


@pytest.fixture(autouse=True)
def _no_holder_is_left() -> Iterator[None]:
    yield
    while HOLDERS:
        # One that waits at its step would not answer a request to stop.
        HOLDERS.pop().process.kill()


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acdc.run.lease, "_DURATION_S", SHORT[0])
    monkeypatch.setattr(acdc.run.lease, "_HEARTBEAT_S", SHORT[1])


@pytest.fixture
def beating(tmp_path: Path) -> Iterator[threading.Event]:
    """Give the lease of a run a heartbeat from elsewhere, until the event is set."""
    over = threading.Event()

    def beat() -> None:
        while not over.wait(SHORT[1]):
            for path in tmp_path.glob(f"*/{LEASE}"):
                os.utime(path)

    thread = threading.Thread(target=beat)
    thread.start()
    yield over
    over.set()
    thread.join()


def contents(folder: Path) -> dict[str, bytes]:
    found = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


HOST = os.uname().nodename


def test_a_second_trainer_exits_and_names_the_first(
    tmp_path: Path, uninterrupted: Uninterrupted
) -> None:
    config = tiny_config("acdc")
    folder = tmp_path / config.run_name
    first = hold(config, tmp_path, DEFAULT)
    before = contents(folder)
    status, line = ended(spawn(config, tmp_path))
    assert f"process {first.pid} on {HOST}" in line
    assert status == 75
    assert contents(folder) == before
    assert first.end() == 0
    result = run(config, Options(tmp_path), Silent())
    assert result.timings.attempts == 1
    assert_same_run(folder, result, *uninterrupted(config))


@pytest.mark.usefixtures("short")
def test_a_second_trainer_waits_for_the_result(
    tmp_path: Path, uninterrupted: Uninterrupted
) -> None:
    config = tiny_config("acdc")
    first = hold(config, tmp_path)
    # Longer than a lease without heartbeat would take to be taken over.
    with pytest.raises(Resumable, match=f"process {first.pid} on {HOST}"):
        run(config, Options(tmp_path, wait_s=2 * SHORT[0]), Silent())
    timer = threading.Timer(SHORT[0], first.on.set)
    timer.start()
    reporter = Silent()
    result = run(config, Options(tmp_path, wait_s=PATIENCE_S), reporter)
    timer.join()
    assert first.end() == 0
    assert reporter.epochs == []
    assert result.timings.attempts == 1
    assert_same_run(tmp_path / config.run_name, result, *uninterrupted(config))


@pytest.mark.slow
def test_a_second_trainer_of_several_processes(tmp_path: Path) -> None:
    config = tiny_config("acdc")
    first = hold(config, tmp_path, DEFAULT)
    process = spawn(config, tmp_path, "--processes", "2")
    _, errors = process.communicate(timeout=PATIENCE_S)
    assert f"process {first.pid} on {HOST}" in errors
    assert process.returncode == 1, errors
    assert first.end() == 0


def test_the_lease_of_a_killed_process_is_free(
    tmp_path: Path, uninterrupted: Uninterrupted
) -> None:
    config = tiny_config("acdc")
    folder = tmp_path / config.run_name
    first = hold(config, tmp_path, ENDLESS)
    first.process.kill()
    first.process.join()
    assert (folder / LEASE).exists()
    second = hold(config, tmp_path, ENDLESS, iteration=0)
    assert second.end() == 0
    assert_same_run(folder, run(config, Options(tmp_path), Silent()), *uninterrupted(config))


def lease_of_another_host(folder: Path) -> int:
    """Leave the lease of a process that is gone, as if it were of another host; return its id."""
    process = CONTEXT.Process(target=take_lease_and_die, args=(folder,))
    process.start()
    process.join()
    path = folder / LEASE
    marker = path.read_text()
    assert marker.count(f"\nhost={HOST}") == 1
    path.write_text(marker.replace(f"\nhost={HOST}", "\nhost=elsewhere"))
    return process.pid


def take_lease_and_die(folder: Path) -> None:
    folder.mkdir()
    lease = SoftFileLease(folder / LEASE, lease_duration=SHORT[0], heartbeat_interval=SHORT[1])
    lease.acquire()
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.usefixtures("short")
def test_a_lease_of_another_host_is_kept_while_it_has_a_heartbeat_and_then_taken_over(
    tmp_path: Path, beating: threading.Event, uninterrupted: Uninterrupted
) -> None:
    config = tiny_config("acdc")
    folder = tmp_path / config.run_name
    pid = lease_of_another_host(folder)
    before = contents(folder)
    with pytest.raises(Resumable, match=f"process {pid} on elsewhere"):
        run(config, Options(tmp_path, wait_s=3 * SHORT[0]), Silent())
    assert contents(folder) == before
    beating.set()
    result = run(config, Options(tmp_path), Silent())
    assert_same_run(folder, result, *uninterrupted(config))


@pytest.mark.parametrize(
    ("successor", "checkpoint_interval_s"), [("has ended", 600.0), ("is training", 0.0)]
)
@pytest.mark.usefixtures("short")
def test_a_suspended_holder_wakes_and_leaves_the_run_to_its_successor(
    successor: str, checkpoint_interval_s: float, tmp_path: Path, uninterrupted: Uninterrupted
) -> None:
    config = tiny_config("acdc")
    folder = tmp_path / config.run_name
    first = hold(config, tmp_path, checkpoint_interval_s=checkpoint_interval_s)
    psutil.Process(first.pid).suspend()
    second = hold(config, tmp_path, iteration=2)
    if successor == "has ended":
        assert second.end() == 0
    before = contents(folder)
    psutil.Process(first.pid).resume()
    status = first.end()
    said = first.said.recv() if status else ""
    assert contents(folder) == before
    assert status == 75
    if successor == "is training":
        assert f"process {second.pid} on {HOST}" in said
        assert second.end() == 0
    else:
        assert "lease" in said
    assert_same_run(folder, run(config, Options(tmp_path), Silent()), *uninterrupted(config))
    assert epochs(folder) == [0, 1, 2, 3]


@pytest.mark.usefixtures("short")
def test_of_trainers_started_at_once_one_trains(
    tmp_path: Path, uninterrupted: Uninterrupted
) -> None:
    config = tiny_config("acdc")
    options = Options(tmp_path, checkpoint_interval_s=0, wait_s=PATIENCE_S)
    processes = [
        CONTEXT.Process(target=train_with, args=(config, options, SHORT, Silent()), daemon=True)
        for _ in range(4)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(PATIENCE_S)
    assert [process.exitcode for process in processes] == [0, 0, 0, 0]
    result = run(config, Options(tmp_path), Silent())
    assert result.timings.attempts == 1
    assert_same_run(tmp_path / config.run_name, result, *uninterrupted(config))
