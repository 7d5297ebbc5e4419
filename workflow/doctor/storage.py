"""The folder of the results: its file system, its speed, and whether locks hold in it."""

from __future__ import annotations

import contextlib
import fcntl
import math
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from acdc.errors import RunDirectoryError, SuiteError
from acdc.run.lease import Lease
from acdc.run.results import read_result
from study.model import Study
from workflow.doctor.findings import Finding, State
from workflow.doctor.peer import SEEN_S, Peer, create, exists, lease, link, lock, wait_for
from workflow.forecast import forecast
from workflow.plan import size

LOCAL = ("ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "f2fs", "tmpfs", "ramfs", "overlay")
"""File systems that other hosts do not see, unless this one serves them."""
_ROUNDS = 40
_SLOW_MS = 100.0
_SKEW_S = 2.0
_LEASE_S = 90.0  # a lease that nobody renews is taken over after a minute


@contextlib.contextmanager
def scratch(results: Path) -> Iterator[Path]:
    """Yield a folder of its own in that of the results, which is made where it is not there.

    Raises:
        OSError: nothing can be written there.
    """
    made = [path for path in (results, *results.parents) if not path.exists()]
    results.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(prefix=".doctor-", dir=results.absolute()) as name:
            yield Path(name)
    finally:
        for path in made:
            with contextlib.suppress(OSError):  # somebody else uses it by now
                path.rmdir()


def kind(folder: Path, nodes: bool) -> Iterator[Finding]:
    """Yield the kind of file system that a folder is on.

    Args:
        folder: is there.
        nodes: whether jobs run on other hosts.
    """
    import psutil

    path = folder.resolve()
    mounts = [m for m in psutil.disk_partitions(all=True) if path.is_relative_to(m.mountpoint)]
    mount = max(mounts, key=lambda m: len(m.mountpoint), default=None)
    check = "file system"
    if mount is None:
        yield Finding(check, "not checked", f"{path} is on none of the mounts that are listed")
    elif nodes and mount.fstype in LOCAL:
        yield Finding(
            check,
            "warning",
            f"{mount.mountpoint} is {mount.fstype}, a disk of this host",
            "give a folder on the shared file system with --results, unless this host serves the "
            "disk to the nodes: --node tells",
        )
    else:
        yield Finding(check, "ok", f"{mount.mountpoint} is {mount.fstype}")


def latency(folder: Path) -> Iterator[Finding]:
    """Yield how long it takes to put a small file in place as checkpoints are, in milliseconds."""
    target = folder / "latency"
    taken = []
    for _ in range(_ROUNDS):
        started = time.perf_counter()
        temporary = folder / ".latency.tmp"
        with temporary.open("wb") as file:
            file.write(bytes(4096))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
        target.stat()
        taken.append(1000 * (time.perf_counter() - started))
    median = statistics.median(taken)
    found = (
        f"create, fsync, rename, stat: {median:.3g} ms in the median of {_ROUNDS}, "
        f"{max(taken):.3g} ms at worst"
    )
    if median > _SLOW_MS:
        yield Finding(
            "latency",
            "warning",
            found,
            "runs write a record each epoch: give a folder on a faster file system with --results, "
            "or run when it is less busy",
        )
    else:
        yield Finding("latency", "ok", found)


def file_clock(folder: Path) -> Iterator[Finding]:
    """Yield by how much the times of files differ from this host's clock."""
    path = folder / "clock"
    before = time.time()
    path.touch()
    after = time.time()
    stamp = path.stat().st_mtime
    # Kernels stamp files with the time of their last tick.
    skew = stamp - before if stamp < before else max(0.0, stamp - after)
    yield clock_finding("times of files", skew, "the file server's clock")


def clock_finding(check: str, skew: float, whose: str) -> Finding:
    """Return what to say of a clock that is ahead of this host's by some seconds."""
    found = f"{whose} and this host's differ by {abs(skew):.2f} s"
    if abs(skew) <= _SKEW_S:
        return Finding(check, "ok", found)
    return Finding(
        check,
        "warning",
        found,
        "set the clocks (NTP): Snakemake compares times of files, and may run jobs again or leave "
        "them out",
    )


def locking(folder: Path, peer: Peer, across: str = "") -> Iterator[Finding]:
    """Yield whether what one process has taken in a folder is refused to another.

    Args:
        folder: where both can write, with nothing in it.
        peer: the other process.
        across: the hosts between which it is tried, for the names of the checks; empty: one host.
    """
    folder.mkdir()
    # Runs rely on the lease, which needs none of it; the controller's host does.
    without_flock: tuple[State, str] = (
        ("warning", "start the controller, make reproduce and acdc sync on one host only")
        if across
        else (
            "problem",
            "ask the site to mount it with locks (Lustre: -o flock, NFS: a lock daemon), which "
            "make reproduce and acdc sync need",
        )
    )
    checks: tuple[tuple[str, Callable[[Path, Peer], tuple[bool, str]], State, str], ...] = (
        (
            "exclusive creation",
            _exclusive,
            "problem",
            "ask the site for a file system with O_EXCL (NFS from version 3 on has it)",
        ),
        (
            "hard links",
            _links,
            "problem",
            "ask the site for a file system with hard links, which models and logs need",
        ),
        ("flock", _flock, *without_flock),
        (
            "lease of a run",
            _lease,
            "problem",
            "ask the site to mount the folder so that attributes of files are cached for less than "
            "a minute (NFS: actimeo=30)",
        ),
    )
    for name, holds, otherwise, remedy in checks:
        try:
            well, found = holds(folder, peer)
        except (OSError, SuiteError) as error:
            well, found = False, f"refused: {error}"
        if well:
            yield Finding(f"{name}{across}", "ok", found)
        else:
            yield Finding(f"{name}{across}", otherwise, found, remedy)


def _exclusive(folder: Path, peer: Peer) -> tuple[bool, str]:
    here, there = folder / "here", folder / "there"
    here.touch(exist_ok=False)
    refused = not peer.ask(create, path=str(here))
    allowed = peer.ask(create, path=str(there))
    try:
        there.touch(exist_ok=False)
        refused = False
    except FileExistsError:
        pass
    if refused and allowed:
        return True, "a file is created by one process only"
    return False, "two processes could both create one file"


def _links(folder: Path, peer: Peer) -> tuple[bool, str]:
    source, target = folder / "source", folder / "target"
    source.touch()
    target.hardlink_to(source)
    if peer.ask(link, source=str(source), path=str(target)) or source.stat().st_nlink != 2:
        return False, "a name was given twice"
    return True, "a file can have two names, and a name is given once"


def _flock(folder: Path, peer: Peer) -> tuple[bool, str]:
    path = folder / "flock"
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shared = peer.ask(lock, path=str(path))
    if shared:
        return False, "a lock is held by two"
    if not peer.ask(lock, path=str(path)):
        return False, "a lock that was released stays taken"
    return True, "a lock is held by one process, and free once it is released"


def _lease(folder: Path, peer: Peer) -> tuple[bool, str]:
    started = time.monotonic()
    with Lease(folder).held(0):
        holder = peer.ask(lease, _LEASE_S, folder=str(folder))
        waited = time.monotonic() - started
    freed = peer.ask(lease, _LEASE_S, folder=str(folder))
    if not holder:
        return False, "a second process could take it"
    if freed:
        return False, "it stays taken once it is released"
    return True, (
        f"refused to a second process, which saw the holder's heartbeat in {waited:.1f} s; free "
        "once it is released"
    )


def visibility(folder: Path, peer: Peer, wait_s: float, node: str) -> Iterator[Finding]:
    """Yield whether files written on one host are seen on another, and after how long.

    Args:
        folder: of this host, in the folder of the results.
        peer: on the other host.
        wait_s: how long Snakemake waits for the files of a job.
        node: the other host.
    """
    check = f"same folder on {node}"
    if not peer.ask(exists, path=str(folder)):
        yield Finding(
            check,
            "problem",
            f"{folder.parent} is not the same folder there",
            "give a folder on the file system that the nodes share with --results",
        )
        return
    there, back = str(folder / "there"), str(folder / "back")
    # A host remembers for a while that a file is not there, as Snakemake finds before each job.
    peer.ask(exists, path=there)
    exists(back)
    peer.put(wait_for, path=there)
    create(there)
    out = peer.answer(SEEN_S + 30)
    peer.ask(create, path=back)
    home = wait_for(back)
    yield seen_finding(check, out, home, wait_s)


def seen_finding(check: str, out: float | None, home: float | None, wait_s: float) -> Finding:
    """Return what to say of files that are seen elsewhere after some seconds.

    Args:
        check: its name.
        out: of a file from here there; None: it was waited for in vain.
        home: of one from there here.
        wait_s: how long Snakemake waits for the files of a job.
    """
    found = f"a file from here is seen there {_after(out)}, one from there here {_after(home)}"
    if out is None or home is None:
        return Finding(
            check,
            "problem",
            found,
            "ask the site to mount the folder so that names of files are cached for less (NFS: "
            "lookupcache=positive), or give another with --results",
        )
    if max(out, home) < wait_s:
        return Finding(check, "ok", found)
    return Finding(
        check,
        "problem",
        f"{found}; Snakemake waits {wait_s:.0f} s",
        f"set latency-wait in the profile to more than {math.ceil(max(out, home))}",
    )


def _after(seconds: float | None) -> str:
    return f"not within {SEEN_S:.0f} s" if seconds is None else f"after {seconds:.2f} s"


def _written(run: Path) -> bool:
    """Return whether a run has ended and is not trained again."""
    try:
        result = read_result(run)
    except RunDirectoryError:
        return False
    return result is not None and result["status"] != "failed"


def space(study: Study, results: Path, jobs: int) -> Iterator[Finding]:
    """Yield whether what is still to be written has room.

    Args:
        study: at its scale.
        results: the folder of all results; it need not be there.
        jobs: how many runs are trained at a time.
    """
    folder = study.scale.name
    left = [
        forecast(run).storage
        for name, run in study.runs.items()
        if not _written(results / folder / "runs" / name)
    ]
    meanwhile = sorted((each.training - each.kept for each in left), reverse=True)
    needed = sum(each.kept for each in left) + sum(meanwhile[:jobs])
    there = next(
        path for path in (results.absolute(), *results.absolute().parents) if path.exists()
    )
    free = shutil.disk_usage(there).free
    check = "free space"
    found = f"{size(free)} free, {size(needed)} still to be written by {len(left)} runs at most"
    if free < needed:
        yield Finding(
            check,
            "problem",
            found,
            f"make room or give another folder with --results; acdc plan --scale {folder} shows "
            "what each table takes",
        )
    else:
        yield Finding(check, "ok", f"{found}; a quota is not looked at")
