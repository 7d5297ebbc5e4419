"""The output of each attempt at a run, in a file of its own."""

from __future__ import annotations

import contextlib
import itertools
import os
import platform
import sys
import time
from pathlib import Path


def keep_output(logs: Path, run_name: str) -> Path:
    """Send what this process and its children say into the log of a new attempt.

    ``<logs>/<run>/attempt-01.log``, ``-02`` and so on stay; ``<logs>/<run>.log``, which Snakemake
    removes before an attempt, is the newest of them under another name.

    Args:
        logs: folder of the logs.
        run_name: of the run.
    """
    folder = logs / run_name
    folder.mkdir(parents=True, exist_ok=True)
    for number in itertools.count(1):
        path = folder / f"attempt-{number:02}.log"
        with contextlib.suppress(FileExistsError):
            kept = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o666)
            break
    sys.stdout.flush()
    sys.stderr.flush()
    os.dup2(kept, 1)
    os.dup2(kept, 2)
    os.close(kept)
    job = os.environ.get("SLURM_JOB_ID")
    where = f"process {os.getpid()} on {platform.node()}" + (f", job {job}" if job else "")
    print(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {run_name}: {where}", file=sys.stderr, flush=True)
    _name_too(path, logs / f"{run_name}.log")
    return path


def _name_too(path: Path, other: Path) -> None:
    """Give a file a second name, whatever had it before; a symbolic one where no other can be."""
    temporary = other.with_name(f".{other.name}.{os.getpid()}")
    try:
        temporary.hardlink_to(path)
    except OSError:
        temporary.symlink_to(path.relative_to(other.parent))
    temporary.replace(other)
