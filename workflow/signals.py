"""Signals to Snakemake, passed on to the runs that it has started.

SLURM with ``proctrack/cgroup`` signals only the first process of a job step, which is Snakemake:
SIGUSR1 would end it, and on SIGTERM it waits for its jobs. ``make reproduce`` ends its Snakemake,
and with it the runs, by SIGTERM, too.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time

import psutil

_PASSED_ON = (signal.SIGUSR1, signal.SIGTERM)
_POLL_S = 1.0


def pass_on() -> None:
    """Send SIGUSR1 and SIGTERM to every ``acdc train`` below this process, too.

    Called once, in the main thread. This process keeps its own handler of SIGTERM.
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    # Without a handler of its own the signal would end this process.
    signal.signal(signal.SIGUSR1, lambda *_: None)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    threading.Thread(target=_pass_on_from, args=(reader,), daemon=True).start()


def end_with(process: int) -> None:
    """Send SIGTERM to this process once another has ended.

    Args:
        process: id of the process.
    """
    threading.Thread(target=_wait_for, args=(process,), daemon=True).start()


def _wait_for(process: int) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        # Compares the time of its start, too: ids are used again.
        found = psutil.Process(process)
        while found.is_running() and found.status() != psutil.STATUS_ZOMBIE:
            time.sleep(_POLL_S)
    os.kill(os.getpid(), signal.SIGTERM)


def _pass_on_from(reader: int) -> None:
    while True:
        for number in os.read(reader, 64):
            if number in _PASSED_ON:
                for process in _runs():
                    with contextlib.suppress(psutil.Error):
                        process.send_signal(number)


def _runs() -> list[psutil.Process]:
    """Return the ``acdc train`` processes below this one, without the processes below these."""
    found: list[psutil.Process] = []
    below = psutil.Process().children()
    while below:
        process = below.pop()
        with contextlib.suppress(psutil.Error):
            command = process.cmdline()
            if "train" in command and "acdc" in command:
                found.append(process)
            else:
                below += process.children()
    return found
