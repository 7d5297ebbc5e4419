"""Several ``acdc train`` processes: ranks of one run, also on several nodes, or seeds of one."""

from __future__ import annotations

import contextlib
import os
import platform
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from types import FrameType

from acdc.errors import ConfigError
from acdc.run.signals import SIGNALS

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


def launch_nodes(nodes: int, count: int, arguments: Sequence[str]) -> int:
    """Run the ranks of one run on several nodes of this SLURM job, and return the exit status.

    SLURM starts a torchrun on each node, and torchrun the ranks; it ends with a status of its own
    where a rank ends with another than 0.

    Args:
        nodes: of the job.
        count: of ranks, shared out equally.
        arguments: of ``acdc``, the same for each.

    Raises:
        ConfigError: this is no SLURM job, or the ranks cannot be shared out.
    """
    job = os.environ.get("SLURM_JOB_ID")
    if job is None or count % nodes:
        raise ConfigError(
            f"--nodes: {nodes} nodes for {count} processes; a number that divides these is "
            "accepted, within a job of SLURM on so many nodes"
        )
    step = ["srun", f"--nodes={nodes}", f"--ntasks={nodes}", "--ntasks-per-node=1"]
    step.append("--kill-on-bad-exit=1")
    torchrun = [
        *(sys.executable, "-m", "torch.distributed.run"),
        # SLURM may tell torchrun alone that the time is nearly up: it passes that on, and waits.
        *("--signals-to-handle=SIGTERM,SIGINT,SIGUSR1", "--shutdown-timeout=90"),
        *(f"--nnodes={nodes}", f"--nproc-per-node={count // nodes}", "--rdzv-backend=c10d"),
        # This process is on the first of the nodes. Two jobs may share it, hence the port.
        *(f"--rdzv-endpoint={platform.node()}:{_port(job)}", f"--rdzv-id={job}"),
        # Without the dashes it would take some of our options for short forms of its own.
        *("--max-restarts=0", "-m", "--", "acdc"),
    ]
    # The batch script's own share of the job is not what the step asks for.
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("SLURM_", "SRUN_")) or name in ("SLURM_JOB_ID", "SLURM_CONF")
    }
    threads = max((os.cpu_count() or 1) * nodes // count, 1)
    environment.setdefault("OMP_NUM_THREADS", str(threads))
    process = subprocess.Popen([*step, *torchrun, *arguments], env=environment)
    # They reach the ranks through SLURM, and this process waits for these.
    before = {number: signal.signal(number, signal.SIG_IGN) for number in SIGNALS}
    try:
        return _status(process.wait())
    finally:
        for number, old in before.items():
            signal.signal(number, old)


def _port(job: str) -> int:
    """Return a port that follows from the job, below those that the system hands out."""
    return 20000 + int(job) % 10000


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
                # A second Ctrl-C would interrupt what is being saved.
                group.signal(signal.SIGTERM)
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
    return code if code >= 0 else 128 - code


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port
