"""Requests to stop: signals that a run answers at its next step, with a checkpoint."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self

# SLURM announces the end of a job's time with the signal that one asks for, and ends a job with
# SIGTERM; Ctrl-C is SIGINT.
SIGNALS = (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT)


class StopRequests:
    """While it is entered, notes the first of the signals; a second Ctrl-C interrupts at once."""

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        # Only the main thread may handle signals; in another the caller takes care of them.
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                # A shell has Ctrl-C ignored in what it starts in the background. SIGUSR1 is ignored
                # by what stands around a run in a job, and meant for the run.
                ignored = signal.getsignal(number) is signal.SIG_IGN
                if not ignored or number is not signal.SIGINT:
                    self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = self.received or signal.Signals(number)
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, self._before[signal.SIGINT])
