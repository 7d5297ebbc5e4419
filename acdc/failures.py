"""How a run fails: in one sentence that says what to do, and once where it would recur."""

from __future__ import annotations

import contextlib
import errno
import json
import re
from collections.abc import Iterator
from pathlib import Path

import torch

from acdc.errors import DeviceMemoryError, RunDirectoryError, SuiteError
from acdc.files import write_json
from acdc.ranks import Ranks

FAILED = "failed.json"


class NoModelError(SuiteError):
    """A method has trained to the end without naming a product."""

    recurs = True


@contextlib.contextmanager
def told(run_name: str, folder: Path) -> Iterator[None]:
    """Turn what the surroundings can do to a run into one sentence that says what to do."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        # torch has a class only for what its own allocator of GPU memory is refused.
        if not isinstance(error, MemoryError | torch.OutOfMemoryError) and not re.search(
            "out of memory|allocate memory|ALLOC_FAILED", str(error)
        ):
            raise
        asked = re.search(r"ried to allocate ([0-9.]+ \w+)", str(error))
        detail = f" (it asked for {asked[1]} more)" if asked else ""
        raise DeviceMemoryError(
            f"run {run_name} does not fit the device's memory{detail}; share its batches among "
            "several GPUs (--processes), give it a GPU of its own, or use precision bf16"
        ) from error
    except OSError as error:
        place = Path(error.filename) if error.filename else folder
        remedies = {
            errno.ENOSPC: "free some space",
            errno.EDQUOT: "free some space or have the quota raised",
            errno.EROFS: "mount it for writing or choose another folder with --runs",
            errno.EACCES: "have it made writable or choose another folder with --runs",
        }
        remedy = remedies.get(error.errno or 0, "mend that")
        raise RunDirectoryError(
            f"run {run_name} cannot be written: {place}: {error.strerror or error}; {remedy} and "
            "start again, which goes on from the last checkpoint"
        ) from error


@contextlib.contextmanager
def remembered(folder: Path, ranks: Ranks) -> Iterator[None]:
    """Write down an error that is bound to recur, for the next attempt."""
    try:
        yield
    except (OSError, RuntimeError):
        raise  # of the disk or the device: next time it may be better
    except Exception as error:
        recurs = error.recurs if isinstance(error, SuiteError) else True
        if recurs and ranks.first and folder.is_dir():
            status = getattr(error, "exit_status", 1)
            text = str(error) if isinstance(error, SuiteError) else repr(error)
            write_json(folder / FAILED, {"error": text, "exit_status": status})
        raise


class Recurring(SuiteError):
    """An attempt at what has failed before for a reason that is still there."""

    def __init__(self, text: str, exit_status: int) -> None:
        super().__init__(text)
        self.exit_status = exit_status


def refuse_to_repeat(folder: Path, attempt: int) -> None:
    """End a further attempt at what is bound to fail as the first one did."""
    path = folder / FAILED
    if attempt > 1 and path.exists():
        failure = json.loads(path.read_text(encoding="utf-8"))
        raise Recurring(f"as in the attempt before: {failure['error']}", failure["exit_status"])
    path.unlink(missing_ok=True)
