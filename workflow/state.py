"""How far the runs of a study are, from their folders alone; nothing here imports torch."""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from acdc.errors import RunDirectoryError
from acdc.run.failures import FAILED, remembered
from acdc.run.lease import host_at_work
from acdc.run.results import RESULT, read_result, read_spare

Status = Literal["running", "stopped", "queued", "done", "diverged", "failed"]

_BLOCK = 1 << 16
_RECENT = 10


@dataclass(frozen=True)
class RunState:
    """What a run is at."""

    status: Status
    """Stopped: it was begun, has not ended, and nobody is at work at it."""
    epochs: int
    """That it is to train."""
    epoch: int = 0
    """Epochs that are behind it; of a diverged run, the one in which it diverged."""
    resumed: int = 0
    """How often an attempt went on where one before it had been interrupted."""
    pace_s: float | None = None
    """Seconds that an epoch takes just now; none where no epoch has ended, or nobody is at work."""
    left_s: float | None = None
    """Seconds of training that are left at this pace."""
    job: str | None = None
    """SLURM's number of the latest attempt."""
    host: str | None = None
    """Where the latest attempt is or was."""
    error: str | None = None
    """What has ended the latest attempt, one sentence."""
    exit_status: int | None = None
    """What it ended with."""
    settled: bool = False
    """Whether a result says how it has ended."""

    @property
    def share(self) -> float:
        """The part of its training that is done."""
        return 1.0 if self.status in ("done", "diverged") else self.epoch / self.epochs

    @property
    def left(self) -> float:
        """The part of its training that is still to come; none where it has failed for good."""
        return 0.0 if self.settled else 1.0 - self.share


class States:
    """The states of the runs of a study; those that are done are read once."""

    def __init__(self, runs: Path, epochs: Mapping[str, int]) -> None:
        """Remember what is to be read.

        Args:
            runs: folder of the run directories.
            epochs: of each run, by its name.
        """
        self.runs = runs
        self.epochs = epochs
        self._known: dict[str, tuple[int, RunState]] = {}

    def read(self) -> dict[str, RunState]:
        """Return what each run is at now, by its name."""
        return {name: self._read(name) for name in self.epochs}

    def _read(self, name: str) -> RunState:
        folder = self.runs / name
        written = _written(folder / RESULT)
        if name in self._known and self._known[name][0] == written:
            return self._known[name][1]
        state = read_state(folder, self.epochs[name])
        if written and state.status in ("done", "diverged"):
            self._known[name] = (written, state)
        return state


def read_state(folder: Path, epochs: int) -> RunState:
    """Return what a run is at.

    Args:
        folder: of the run, which need not be there.
        epochs: that the run is to train.
    """
    if not _begun(folder):
        return RunState("queued", epochs)
    about = _read_json(folder / "provenance.json")
    attempts = about.get("resumed", [])
    latest = attempts[-1] if attempts else about
    begun = RunState(
        "stopped",
        epochs,
        resumed=len(attempts),
        job=latest.get("job"),
        host=latest.get("host"),
    )
    # First: a result is written before its writer leaves, and so not overlooked where nobody is.
    host = host_at_work(folder)
    journal = folder / "journal.jsonl"
    try:
        result = read_result(folder)
    except RunDirectoryError as error:
        begun = replace(begun, epoch=_epoch(latest_records(journal)))
        return replace(begun, status="failed", error=str(error), exit_status=error.exit_status)
    if result is not None and result["status"] != "failed":
        return _ended(begun, result)
    records = latest_records(journal)
    begun = replace(begun, epoch=_epoch(records))
    # What has failed may be under way again, with the result still there that says so.
    if host is not None:
        pace = pace_of(records)
        left = _left(records, epochs - begun.epoch, pace)
        return replace(begun, status="running", pace_s=pace, left_s=left, host=host)
    if result is not None:
        reason = {key: result[key] for key in ("error", "exit_status")}
        return replace(begun, status="failed", **reason, settled=True)
    failure = remembered(folder)
    # Snakemake deletes the result of a job that it starts again, which puts it back from there.
    spare = None if failure is not None and failure.final else read_spare(folder)
    if spare is not None:
        return _ended(begun, spare)
    # An error that need not recur is news until the run has gone on.
    if failure is None or not (failure.final or _written(journal) < _written(folder / FAILED)):
        return begun
    status: Status = "failed" if failure.final else "stopped"
    return replace(begun, status=status, error=failure.error, exit_status=failure.exit_status)


def _ended(begun: RunState, result: Mapping[str, Any]) -> RunState:
    """Return the state of a run that has finished or diverged."""
    if result["status"] == "diverged":
        return replace(begun, status="diverged", epoch=result["diverged_at"], settled=True)
    return replace(begun, status="done", epoch=begun.epochs, settled=True)


def _begun(folder: Path) -> bool:
    """Return whether there is anything in a folder."""
    try:
        with os.scandir(folder) as entries:
            return any(True for _ in entries)
    except FileNotFoundError:
        return False


def _written(path: Path) -> int:
    """Return when a file was last written to, in nanoseconds, 0 where there is none."""
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return 0


def _read_json(path: Path) -> dict[str, Any]:
    """Return what a JSON file holds, nothing where there is none."""
    try:
        data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return data


def latest_records(path: Path, epochs: int = _RECENT + 1) -> list[dict[str, Any]]:
    """Return the last records of a journal, read from its end.

    Args:
        path: of the journal, which need not be there.
        epochs: how many records of epochs are to be among them, if it has so many.
    """
    size = _BLOCK
    while True:
        try:
            with path.open("rb") as file:
                start = max(0, file.seek(0, os.SEEK_END) - size)
                file.seek(start)
                # The last is cut short or empty; the first, unless it begins the file, cut too.
                lines = file.read().split(b"\n")[start > 0 : -1]
        except OSError:
            return []
        records = list(_parsed(lines))
        if start == 0 or sum("event" not in record for record in records) >= epochs:
            return records
        size *= 4


def _parsed(lines: Iterable[bytes]) -> Iterator[dict[str, Any]]:
    for line in lines:
        with contextlib.suppress(ValueError):  # as a power failure may leave one
            yield json.loads(line)


def _epoch(records: Sequence[Mapping[str, Any]]) -> int:
    """Return the epochs that are behind a run, from the last records of its journal."""
    for record in reversed(records):
        if "event" not in record:
            return int(record["epoch"]) + 1
        if record["event"] == "resume":
            return int(record["epoch"])
    return 0


def pace_of(records: Sequence[Mapping[str, Any]]) -> float | None:
    """Return the seconds that an epoch takes, from the last records of a journal.

    It is the median of the last times between the ends of two epochs, unless the run was resumed
    between them; where there are none, the training time of the last epoch, if one has ended.
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
    """Return the seconds that some epochs take, less those that the first of them has had."""
    if pace_s is None or epochs == 0:
        return None
    last = next(r for r in reversed(records) if r.get("event", "resume") == "resume")
    had = min(max(time.time() - float(last["time"]), 0.0), pace_s)
    return epochs * pace_s - had


def clock(seconds: float) -> str:
    """Return a duration in words, as precise as an estimate deserves."""
    if round(seconds) < 60:
        return f"{round(seconds)} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    hours = round(minutes / 60)
    return f"{hours // 24} d {hours % 24:02d} h"
