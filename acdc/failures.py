"""How a run fails: in one sentence that says what to do, and once where it would recur."""

from __future__ import annotations

import contextlib
import errno
import json
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from acdc.errors import DeviceMemoryError, RunDirectoryError, SuiteError
from acdc.files import write_json

FAILED = "failed.json"
_TRIES = 3


class NoModelError(SuiteError):
    """A method has trained to the end without naming a product."""

    recurs = True


@contextlib.contextmanager
def told(run_name: str, folder: Path) -> Iterator[None]:
    """Turn what the surroundings can do to a run into one sentence that says what to do."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        import torch  # here, since what only reads failures does without

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


@dataclass(frozen=True)
class Failure:
    """The error that has ended an attempt at a run."""

    error: str
    exit_status: int
    final: bool
    """Whether another attempt would end so again."""
    times: int = 1
    """How often it has come in these words, no checkpoint having been saved in between."""
    after: str = ""
    """The checkpoint that the run had come to."""


def remember(folder: Path, error: Exception) -> Failure:
    """Write down the error that ends an attempt, and return what it means for the next one.

    Errors of the configuration, of the data and of the code recur; those of the disk or the device
    may not, unless they come again and again in the same words while the run gets nowhere.

    Args:
        folder: of the run.
        error: what was raised.
    """
    text = str(error) if isinstance(error, SuiteError) else repr(error)
    checkpoints = sorted(path.name for path in (folder / "checkpoint").glob("step-*.pt"))
    after = checkpoints[-1] if checkpoints else ""
    before = remembered(folder)
    times = 1
    if before is not None and before.after == after and _words(before.error) == _words(text):
        times += before.times
    if isinstance(error, SuiteError):
        recurs = error.recurs
    else:
        recurs = not isinstance(error, OSError | RuntimeError)
    status = getattr(error, "exit_status", 1)
    failure = Failure(text, status, recurs or times >= _TRIES, times, after)
    with contextlib.suppress(OSError):  # of a full disk, which is what is being told
        write_json(folder / FAILED, asdict(failure))
    return failure


def _words(text: str) -> str:
    """Return a text without its numbers: of processes, bytes or addresses, which always differ."""
    return re.sub(r"0x[0-9a-f]+|\d+", "", text)


def remembered(folder: Path) -> Failure | None:
    """Return the error that has ended the last attempt at a run, if one has."""
    try:
        return Failure(**json.loads((folder / FAILED).read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError, TypeError):
        return None


class Recurring(SuiteError):
    """An attempt at what has failed before for a reason that is still there."""

    recurs = True

    def __init__(self, text: str, exit_status: int) -> None:
        super().__init__(text)
        self.exit_status = exit_status


def refuse_to_repeat(folder: Path, attempt: int) -> None:
    """End a further attempt at what is bound to fail as the one before did.

    Raises:
        Recurring: it is.
    """
    failure = remembered(folder)
    if attempt == 1:
        (folder / FAILED).unlink(missing_ok=True)
    elif failure is not None and failure.final:
        raise Recurring(f"as in the attempt before: {failure.error}", failure.exit_status)
