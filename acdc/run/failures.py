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
from acdc.run.journal import Journal, read_journal

FAILED = "failed.json"
HISTORY = "failures.jsonl"
"""A line for each time that a run has failed for good; it stays."""
BEGUN = "begun.json"
"""After which checkpoint an attempt has begun that has not ended in an orderly way."""
_TRIES, _KILLS = 3, 5


class KilledError(SuiteError):
    """Attempts at a run are killed again and again before they have got anywhere."""

    exit_status = 7
    recurs = True


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
    before = remembered(folder)
    if isinstance(error, Recurring) and before is not None:
        with contextlib.suppress(OSError):
            _take_down(folder, before)
        return before
    text = str(error) if isinstance(error, SuiteError) else repr(error)
    after = _newest_checkpoint(folder)
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
        if failure.final:
            _take_down(folder, failure)
    return failure


def _take_down(folder: Path, failure: Failure) -> None:
    """Add to the history of a run that it has failed for good."""
    record = {"error": failure.error, "exit_status": failure.exit_status}
    Journal(folder / HISTORY).append(record)


def failures(folder: Path) -> int:
    """Return how often a run has failed for good."""
    return sum(1 for _ in read_journal(folder / HISTORY))


def begin(folder: Path, attempt: int) -> None:
    """Write down that an attempt begins; one that ends as it should calls ``end``.

    Raises:
        KilledError: too many have begun at the same checkpoint and ended without a word.
    """
    path, after, times = folder / BEGUN, _newest_checkpoint(folder), 1
    with contextlib.suppress(FileNotFoundError, ValueError, KeyError):
        before = json.loads(path.read_text(encoding="utf-8"))
        if attempt > 1 and before["after"] == after:
            times += before["times"]
    if times > _KILLS:
        raise KilledError(
            f"{_KILLS} attempts in a row were killed without a word and before a checkpoint "
            f"after {after or 'the start'}, as SLURM does with what takes more memory than it has "
            "asked for; give the job more, or look at SLURM's log of it"
        )
    write_json(path, {"after": after, "times": times})


def end(folder: Path) -> None:
    """Take note that an attempt has not been killed."""
    with contextlib.suppress(OSError):  # of a folder that is no longer writable
        (folder / BEGUN).unlink(missing_ok=True)


def _newest_checkpoint(folder: Path) -> str:
    """Return the name of the newest checkpoint, or nothing."""
    return max((path.name for path in (folder / "checkpoint").glob("step-*.pt")), default="")


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
