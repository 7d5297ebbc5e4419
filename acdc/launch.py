"""Several ``acdc train`` processes on one machine: ranks of one run, or seeds side by side."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from types import FrameType

from acdc.stops import SIGNALS

_GRACE_S = 30.0


class Group:
    """Processes that belong together; what signals the parent signals them all."""

    def __init__(self) -> None:
        self.processes: list[subprocess.Popen[str]] = []
        self.stopped: signal.Signals | None = None
        """The first signal that asked for an end, after which nothing more is started."""
        self.readers: list[threading.Thread] = []

    def start(
        self, arguments: Sequence[str], environment: Mapping[str, str], prefix: str | None = None
    ) -> None:
        """Start one more process.

        Args:
            arguments: of ``acdc``.
            environment: beside the parent's.
            prefix: of each line that it says, on standard error; None: its output is the parent's.
        """
        output = {} if prefix is None else {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        process = subprocess.Popen(
            [sys.executable, "-m", "acdc", *arguments],
            env={**os.environ, **environment},
            # A Ctrl-C reaches them through the parent, once.
            start_new_session=True,
            text=True,
            **output,  # type: ignore[call-overload]
        )
        self.processes.append(process)
        if prefix is not None:
            reader = threading.Thread(target=_repeat, args=(process, prefix), daemon=True)
            reader.start()
            self.readers.append(reader)

    def signal(self, number: int) -> None:
        """Send a signal to those that are still at work."""
        for process in self.processes:
            if process.poll() is None:
                process.send_signal(number)

    def working(self) -> int:
        """Return how many are still at work."""
        return sum(process.poll() is None for process in self.processes)

    def failed(self) -> int:
        """Return the status of the first in line that has failed, or 0."""
        statuses = (process.poll() for process in self.processes)
        return next((_status(status) for status in statuses if status), 0)

    @contextlib.contextmanager
    def passing_on(self) -> Iterator[None]:
        """Pass on the signals that ask a run to stop."""

        def handler(number: int, frame: FrameType | None) -> None:
            self.stopped = self.stopped or signal.Signals(number)
            self.signal(number)

        before = {number: signal.signal(number, handler) for number in SIGNALS}
        try:
            yield
        finally:
            for number, old in before.items():
                signal.signal(number, old)
            for reader in self.readers:
                reader.join()


def launch_ranks(count: int, arguments: Sequence[str]) -> int:
    """Run the ranks of one run, and return the exit status.

    When one of them fails, the others, which would wait for it for ever, are ended.

    Args:
        count: of ranks.
        arguments: of ``acdc``, the same for each.
    """
    group = Group()
    with group.passing_on():
        port = _free_port()
        threads = max((os.cpu_count() or 1) // count, 1)
        for rank in range(count):
            group.start(
                arguments,
                {
                    "RANK": str(rank),
                    "LOCAL_RANK": str(rank),
                    "WORLD_SIZE": str(count),
                    "MASTER_ADDR": "127.0.0.1",
                    "MASTER_PORT": str(port),
                    "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(threads)),
                },
            )
        while group.working() and not group.failed():
            time.sleep(0.05)
        deadline = time.monotonic() + _GRACE_S
        while group.working() and time.monotonic() < deadline:
            time.sleep(0.05)
        status = group.failed()
        group.signal(signal.SIGKILL)
    return status


def launch_seeds(seeds: Sequence[int], at_once: int, arguments: Sequence[str]) -> int:
    """Train several seeds of a run, some at a time on the same device.

    Each is a process and a run of its own, as if it had been started alone; one that fails leaves
    the others alone. Returns 75 or 130 where a signal has stopped them, else the status of the
    first in line that has failed, or 0.

    Args:
        seeds: of the runs.
        at_once: how many at a time.
        arguments: of ``acdc train``, without the seed.
    """
    group = Group()
    width = max(len(str(seed)) for seed in seeds)
    with group.passing_on():
        for seed in seeds:
            while group.working() >= at_once:
                time.sleep(0.02)
            if group.stopped is not None:
                break
            group.start([*arguments, "--seed", str(seed)], {}, prefix=f"seed {seed:{width}} | ")
        while group.working():
            if group.stopped is not None:
                # Also to one that was being started when the signal came.
                group.signal(group.stopped)
                time.sleep(1)
            time.sleep(0.02)
    if group.stopped is not None:
        return 130 if group.stopped is signal.SIGINT else 75
    return group.failed()


def _repeat(process: subprocess.Popen[str], prefix: str) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        sys.stderr.write(prefix + line)
        sys.stderr.flush()


def _status(code: int) -> int:
    """Return an exit status as a shell has it: 128 and the number for a signal."""
    return code if code > 0 else 128 - code


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port
