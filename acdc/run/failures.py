"""Errors that end a run: translated into one sentence with a remedy, and recorded in its folder."""

from __future__ import annotations

import contextlib
import errno
import re
from collections.abc import Iterator
from pathlib import Path

from acdc.errors import DeviceMemoryError, RunDirectoryError, SuiteError
from acdc.files import write_json
from acdc.run.result import Record

FAILED = "failed.json"


class ParentFailedError(SuiteError):
    """The run that this one starts from failed with an error that would recur."""

    recurs = True


@contextlib.contextmanager
def translate_errors(run_name: str, folder: Path) -> Iterator[None]:
    """Raise errors of memory and of the file system as one sentence with a remedy.

    Raises:
        DeviceMemoryError: the run does not fit the device's memory.
        RunDirectoryError: a file cannot be written.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        import torch  # here, since readers of failures do without

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
            errno.EACCES: "make it writable or choose another folder with --runs",
        }
        remedy = remedies.get(error.errno or 0, "fix the cause")
        raise RunDirectoryError(
            f"run {run_name} cannot be written: {place}: {error.strerror or error}; {remedy} and "
            "rerun the command to resume from the last checkpoint"
        ) from error


class Failure(Record):
    """The error that ended an attempt at a run."""

    error: str
    exit_status: int
    final: bool
    """Whether another attempt would end with the same error."""


def record_failure(folder: Path, error: Exception) -> Failure:
    """Record the error that ended an attempt at the run in a folder.

    Errors of the configuration, of the data and of the code recur; those of the disk or the device
    may not.
    """
    if isinstance(error, SuiteError):
        text, status, recurs = str(error), error.exit_status, error.recurs
    else:
        text, status, recurs = repr(error), 1, not isinstance(error, OSError | RuntimeError)
    failure = Failure(error=text, exit_status=status, final=recurs)
    with contextlib.suppress(OSError):  # of a full disk, which may be the error itself
        write_json(folder / FAILED, failure.model_dump())
    return failure
