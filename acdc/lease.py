"""One writer: the lease on a run's directory."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

from filelock import SoftFileLease, Timeout

from acdc.errors import Resumable

LEASE = ".lease"
_DURATION_S, _HEARTBEAT_S = 60.0, 5.0


class Lease:
    """The right to write to a run's directory, held by one process and renewed by its heartbeat.

    It is a file that names its holder. If that is a process of this machine and gone, the lease is
    taken over at once; otherwise once no heartbeat has come for a minute. A holder that was halted
    for so long finds out before it writes again.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = SoftFileLease(
            folder / LEASE, lease_duration=_DURATION_S, heartbeat_interval=_HEARTBEAT_S
        )

    @contextlib.contextmanager
    def held(self, wait_s: float) -> Iterator[None]:
        """Hold the lease.

        Args:
            wait_s: how long to wait for a holder that is alive.

        Raises:
            Resumable: somebody else holds it, who is named.
        """
        started = time.monotonic()
        first_beat = self._beat()

        def give_up() -> bool:
            """Return whether the holder lives, which a new heartbeat shows, and was waited for."""
            waited = time.monotonic() - started >= wait_s
            return waited and self._beat() not in (None, first_beat)

        try:
            self._lock.acquire(timeout=-1, poll_interval=0.1, cancel_check=give_up)
        except Timeout:
            raise Resumable(
                f"{self.folder.name} is being trained by {self._holder()}; wait for it with "
                "--wait SECONDS, or start again when it has ended"
            ) from None
        try:
            yield
        finally:
            self._lock.release()

    def check(self) -> None:
        """Make sure, before something is written, that the lease is still ours.

        Raises:
            Resumable: somebody else has taken it over.
        """
        owner = self._lock.owner
        if owner is None:
            raise Resumable(
                f"{self.folder.name} is in this process's hands no more: its lease was taken over "
                "and given back, or removed; start it again, which finds its result or goes on"
            )
        if self._lock.compromise is not None or owner.token != self._lock.token:
            raise Resumable(
                f"{self.folder.name} is now trained by {self._holder()}, which took it over when "
                "this process gave no sign of life for a minute; it goes on there"
            )

    def _beat(self) -> tuple[int, int] | None:
        try:
            found = (self.folder / LEASE).stat()
        except FileNotFoundError:
            return None
        return found.st_ino, found.st_mtime_ns

    def _holder(self) -> str:
        owner = self._lock.owner
        if owner is None:
            return "another process"
        # What follows the host's name tells containers of one host apart.
        return f"process {owner.pid} on {owner.hostname.partition('?')[0]}"
