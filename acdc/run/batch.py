"""Several runs: one after the other in this process, or some at a time in processes of their own.

A run that fails leaves the others alone. A signal stops all of them, each after a checkpoint.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import signal
import sys
import traceback
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from multiprocessing import connection
from multiprocessing.context import SpawnProcess
from pathlib import Path

from acdc.config.run import RunConfig
from acdc.distributed import Rank0Error, Ranks
from acdc.errors import Diverged, Interrupted, Resumable, RunDirectoryError, SuiteError
from acdc.files import write_json
from acdc.run.lifecycle import Options, run
from acdc.run.progress import Lines, Reporter, print_summary
from acdc.run.result import RESULT, DivergedResult, read_result
from acdc.run.signals import StopRequests


@dataclass(frozen=True)
class Job:
    """A run and how it is carried out."""

    config: RunConfig
    options: Options

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return self.options.runs / self.config.run_name


def train_in_turn(jobs: Sequence[Job], reporter: Reporter, ranks: Ranks | None = None) -> int:
    """Train runs one after the other; return the exit status of the first that failed, or 0.

    Ranks that share a run are out of step after a failure, and end with it.
    """
    ranks = ranks or Ranks()
    statuses = []
    with StopRequests() as stops:
        for job in jobs:
            statuses.append(_train(job, reporter, ranks, stops))
            if stops.received is not None or (ranks.count > 1 and statuses[-1]):
                break
    return statuses[-1] if stops.received else next(filter(None, statuses), 0)


def _train(job: Job, reporter: Reporter, ranks: Ranks, stops: StopRequests) -> int:
    """Train one run, print what came of it, and return its exit status."""
    try:
        result = run(job.config, job.options, reporter, ranks, stops)
    except (Resumable, Interrupted) as stop:
        reporter.say(str(stop))
        return stop.exit_status
    except SuiteError as error:
        reporter.say(f"error: {error}")
        # The first rank decides: it has recorded the failure, or exits with its status.
        followed = isinstance(error, Rank0Error) and job.options.allow_failure
        return 0 if followed else error.exit_status
    except Exception:
        reporter.say(f"{job.config.run_name}:\n{traceback.format_exc().rstrip()}")
        return 1
    if ranks.first:
        try:
            print_summary(result, job.options.runs)
        except OSError as error:  # the run has its result, and others may follow
            reporter.say(f"error: standard output: {error.strerror}")
            return RunDirectoryError.exit_status
    diverged = isinstance(result, DivergedResult) and not job.options.allow_failure
    return Diverged.exit_status if diverged else 0


def train_at_once(jobs: Sequence[Job], at_once: int) -> int:
    """Train runs in processes of their own, some at a time; return a status as train_in_turn."""
    waiting = list(jobs)
    started: list[SpawnProcess] = []
    with StopRequests() as stops:
        while True:
            alive = [process for process in started if process.is_alive()]
            while waiting and len(alive) < at_once and stops.received is None:
                process = _start(waiting.pop(0))
                started.append(process)
                alive.append(process)
            if not alive:
                break
            if stops.received is not None:
                # Again each second: one that was just starting may have missed it.
                for process in alive:
                    process.terminate()
            connection.wait([process.sentinel for process in alive], timeout=1)
    if stops.received is not None:
        interrupted = stops.received is signal.SIGINT
        return Interrupted.exit_status if interrupted else Resumable.exit_status
    codes = [process.exitcode or 0 for process in started]
    return next((code if code > 0 else 128 - code for code in codes if code), 0)


def _start(job: Job) -> SpawnProcess:
    process = multiprocessing.get_context("spawn").Process(target=_train_alone, args=(job,))
    # A Ctrl-C is answered by this process, which stops the others once.
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        process.start()
    finally:
        signal.signal(signal.SIGINT, before)
    return process


def _train_alone(job: Job) -> None:
    sys.exit(train_in_turn([job], Lines(prefix=f"{job.config.slug} | ")))


def write_receipt(path: Path, folders: Iterable[Path]) -> None:
    """Write how the runs in some folders ended and the digests of their results, if all have."""
    receipt = {}
    for folder in folders:
        result = read_result(folder)
        if result is None:
            return
        digest = hashlib.sha256((folder / RESULT).read_bytes()).hexdigest()
        receipt[result.run] = {"status": result.status, "result_sha256": digest}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {"runs": receipt})
