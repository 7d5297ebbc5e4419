"""One writer: the lease on a run's directory."""

from __future__ import annotations

import contextlib
import functools
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from filelock import SoftFileLease, Timeout

from acdc.errors import Resumable

LEASE = ".lease"
_DURATION_S, _HEARTBEAT_S = 60.0, 5.0


class Lease:
    """The right to write to a run's directory, held by one process and renewed by its heartbeat.

    It is a file that names its holder. The lease of a dead process of this machine is taken over at
    once, any other after a minute without heartbeat. A holder that was suspended for so long finds
    out before it writes again.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = _lock(folder)

    @contextlib.contextmanager
    def held(self, wait_s: float, stop: Callable[[], object] = lambda: False) -> Iterator[None]:
        """Hold the lease; wait up to ``wait_s`` seconds, or until ``stop``, for a living holder.

        Raises:
            Resumable: another process holds it.
        """
        started = time.monotonic()
        first_beat = self._beat()

        def give_up() -> bool:
            """Return whether the holder lives, which a new heartbeat shows, and was waited for."""
            waited = bool(stop()) or time.monotonic() - started >= wait_s
            return waited and self._beat() not in (None, first_beat)

        try:
            self._lock.acquire(timeout=-1, poll_interval=0.1, cancel_check=give_up)
        except Timeout:
            raise Resumable(
                f"{self.folder.name} is being trained by {self.holder()}; wait for it with "
                "--wait SECONDS, or rerun the command when it has ended"
            ) from None
        try:
            yield
        finally:
            self._lock.release()

    def check(self) -> None:
        """Check, before something is written, that this process still holds the lease.

        Raises:
            Resumable: another process has taken it over.
        """
        owner = self._lock.owner
        if owner is None:
            raise Resumable(
                f"{self.folder.name}: this process lost its lease, which was taken over or "
                "removed; rerun the command to resume the run or to find its result"
            )
        if self._lock.compromise is not None or owner.token != self._lock.token:
            raise Resumable(
                f"{self.folder.name} is now trained by {self.holder()}, which took over the lease "
                "after a minute without heartbeat of this process"
            )

    def _beat(self) -> tuple[int, int] | None:
        try:
            found = (self.folder / LEASE).stat()
        except FileNotFoundError:
            return None
        return found.st_ino, found.st_mtime_ns

    def holder(self) -> str:
        """Return the name of the process that holds it."""
        owner = self._lock.owner
        if owner is None:
            return "another process"
        # What follows the host's name tells containers of one host apart.
        return f"process {owner.pid} on {owner.hostname.partition('?')[0]}"


def host_at_work(folder: Path) -> str | None:
    """Return the name of the host that is training the run in a folder, None if there is none.

    A process that was killed is noticed at once on this host, and after a minute on another.
    """
    owner = _lock(folder).owner
    try:
        beat = (folder / LEASE).stat().st_mtime
    except FileNotFoundError:
        return None
    # The clock that stamps the file may be ahead of this one.
    if owner is None or abs(time.time() - beat) > _DURATION_S:
        return None
    if owner.hostname == _this_host() and not _exists(owner.pid):
        return None
    return owner.hostname.partition("?")[0]


def _lock(folder: Path) -> SoftFileLease:
    return SoftFileLease(
        folder / LEASE, lease_duration=_DURATION_S, heartbeat_interval=_HEARTBEAT_S
    )


@functools.cache
def _this_host() -> str:
    """Return the name by which leases know this host, or this container of it."""
    with tempfile.TemporaryDirectory() as folder:
        lock = _lock(Path(folder))
        with lock:
            assert lock.owner is not None
            return lock.owner.hostname


def _exists(pid: int) -> bool:
    with contextlib.suppress(PermissionError):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return False
    return True
