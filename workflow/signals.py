"""Signals of SLURM, passed on to the runs that a job's Snakemake has started.

With SLURM's ``proctrack/cgroup`` only the first process of a job step hears of a signal, and that
is Snakemake, which would be ended by SIGUSR1 and on SIGTERM waits for what it has started.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading

import psutil

_PASSED_ON = (signal.SIGUSR1, signal.SIGTERM)


def pass_on() -> None:
    """Have SIGUSR1 and SIGTERM sent to every ``acdc train`` below this process, too.

    Called once, in the main thread. Whoever handles SIGTERM here still does.
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    # Without a handler of its own the signal would end this process.
    signal.signal(signal.SIGUSR1, lambda *_: None)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    threading.Thread(target=_send_what_comes, args=(reader,), daemon=True).start()


def _send_what_comes(reader: int) -> None:
    while True:
        for number in os.read(reader, 64):
            if number in _PASSED_ON:
                for process in _runs():
                    with contextlib.suppress(psutil.Error):
                        process.send_signal(number)


def _runs() -> list[psutil.Process]:
    """Return the processes of runs below this one, not those that they have started themselves."""
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
