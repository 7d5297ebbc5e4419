"""The state of each run of a study, from its folder alone. Imports no torch."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from acdc.run.failures import FAILED
from acdc.run.lease import host_at_work
from acdc.run.reader import CONFIG, JOURNAL, Attempt, JournalRecords, read_run
from acdc.run.result import RESULT, DivergedResult, FailedResult, FinishedResult

Status = Literal["running", "stopped", "queued", "done", "diverged", "failed"]

_RECENT = 10
"""Epochs that the pace is taken from."""


@dataclass(frozen=True)
class RunState:
    """The progress of a run."""

    status: Status
    """Stopped: it has begun, has not ended, and no process trains it."""
    epochs: int
    """The epochs that it trains."""
    epoch: int = 0
    """The epochs that are done; of a diverged run, the one in which it diverged."""
    resumed: int = 0
    """How often it was resumed."""
    pace_s: float | None = None
    """Seconds per epoch; None unless it is running and has ended an epoch."""
    left_s: float | None = None
    """Seconds of training left at this pace."""
    job: str | None = None
    """SLURM's id of the last attempt's job."""
    host: str | None = None
    """The host of the last attempt."""
    error: str | None = None
    """The error that ended the last attempt, or the files that cannot be read."""
    exit_status: int | None = None
    """The exit status of the last attempt."""
    settled: bool = False
    """Whether a result records how it ended."""

    @property
    def share(self) -> float:
        """The fraction of its training that is done."""
        return 1.0 if self.status in ("done", "diverged") else self.epoch / self.epochs

    @property
    def left(self) -> float:
        """The fraction of its training that is still to be done; 0 if it failed for good."""
        return 0.0 if self.settled else 1.0 - self.share


def read_state(folder: Path, epochs: int) -> RunState:
    """Return the state of a run.

    Args:
        folder: of the run, which need not exist.
        epochs: the epochs that it trains.
    """
    if not _begun(folder):
        return RunState("queued", epochs)
    # Before the result, which a run writes before it releases its lease.
    host = host_at_work(folder)
    record = read_run(folder)
    latest = record.provenance[-1] if record.provenance else Attempt()
    state = RunState(
        "stopped",
        epochs,
        resumed=max(0, len(record.provenance) - 1),
        job=latest.job,
        host=latest.host,
        error="; ".join(record.problems) or None,
    )
    result = record.result
    if isinstance(result, FinishedResult):
        return replace(state, status="done", epoch=epochs, settled=True)
    if isinstance(result, DivergedResult):
        return replace(state, status="diverged", epoch=result.diverged_at, settled=True)
    state = _progress(state, record.journal, folder / JOURNAL)
    # A failed run may be trained again while its result is still there.
    if host is not None:
        return replace(state, status="running", host=host)
    state = replace(state, pace_s=None, left_s=None)
    ended: FailedResult | None = result
    if ended is not None:
        state = replace(state, error=ended.error, exit_status=ended.exit_status)
        return replace(state, status="failed", settled=True)
    if (folder / RESULT).exists():
        return replace(state, status="failed")
    failure = record.failure
    # An error that need not recur is of interest until the run was resumed.
    resumed = written(folder / JOURNAL) >= written(folder / FAILED)
    if failure is None or (resumed and not failure.final):
        return state
    status: Status = "failed" if failure.final else "stopped"
    return replace(state, status=status, error=failure.error, exit_status=failure.exit_status)


def _progress(state: RunState, journal: JournalRecords, path: Path) -> RunState:
    """Return a state with the progress that a journal records."""
    problems = [problem for problem in (state.error, journal.problem) if problem]
    try:
        epoch, pace_s = _epoch(journal.lines), pace_of(journal.lines)
        left_s = _left(journal.lines, state.epochs - epoch, pace_s)
    except (KeyError, TypeError, ValueError, StopIteration) as error:
        problems.append(f"{path}: damaged ({type(error).__name__}: {error})")
        return replace(state, error="; ".join(problems))
    text = "; ".join(problems) or None
    return replace(state, epoch=epoch, pace_s=pace_s, left_s=left_s, error=text)


def _begun(folder: Path) -> bool:
    """Return whether a run has left anything beside its configuration."""
    try:
        return any(path.name != CONFIG for path in folder.iterdir())
    except OSError:
        return False


def written(path: Path) -> int:
    """Return when a file was last written, in nanoseconds; 0 if it does not exist."""
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


def _epoch(records: Sequence[Mapping[str, Any]]) -> int:
    """Return the number of epochs that are done, from a journal."""
    for record in reversed(records):
        if "event" not in record:
            return int(record["epoch"]) + 1
        if record["event"] == "resume":
            return int(record["epoch"])
    return 0


def pace_of(records: Sequence[Mapping[str, Any]]) -> float | None:
    """Return the seconds per epoch, from a journal.

    The median of the last ten times between the ends of two epochs without a resumption in between;
    if there are none, the training time of the last epoch, if one has ended.
    """
    seconds: list[float] = []
    before: float | None = None
    trained: float | None = None
    for record in records:
        if "event" not in record:
            if before is not None:
                seconds.append(record["time"] - before)
            before, trained = record["time"], record["train_s"]
        elif record["event"] == "resume":
            before = None
    return statistics.median(seconds[-_RECENT:]) if seconds else trained


def _left(records: Sequence[Mapping[str, Any]], epochs: int, pace_s: float | None) -> float | None:
    """Return the seconds that some epochs take, less those that the first has already taken."""
    if pace_s is None or epochs == 0:
        return None
    last = next(r for r in reversed(records) if r.get("event", "resume") == "resume")
    taken = min(max(time.time() - float(last["time"]), 0.0), pace_s)
    return epochs * pace_s - taken
