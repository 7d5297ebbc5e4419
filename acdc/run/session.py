"""What happens around the steps of a run: its journal, its checkpoints, and requests to stop."""

from __future__ import annotations

import enum
import signal
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from acdc.errors import Interrupted, Resumable
from acdc.run.checkpoints import CheckpointPolicy, Checkpoints
from acdc.run.journal import Journal
from acdc.run.lease import Lease
from acdc.run.model_store import ModelStore
from acdc.run.progress import Reporter
from acdc.run.reader import read_lines
from acdc.run.records import Spent, epoch_record, keep_model, trained, validate
from acdc.run.signals import StopRequests
from acdc.step import Step
from acdc.training.loop import Callbacks, Totals
from acdc.training.state import TrainState


class StepRequest(enum.IntEnum):
    """What a rank asks for after a step; all ranks do the largest that any of them asked for."""

    NOTHING = 0
    CHECK = 1
    """Check that the loss is finite."""
    SAVE = 2
    STOP = 3
    """Save, and stop."""


_CHECK_EVERY_S = 30.0


@dataclass(frozen=True)
class RunFiles:
    """The writers of a run's folder."""

    folder: Path
    lease: Lease
    journal: Journal
    checkpoints: Checkpoints
    store: ModelStore

    def problem(self, saved: Mapping[str, Any]) -> str | None:
        """Return what is wrong with the files that a checkpoint counts on, if anything is."""
        return self.store.problem(saved["files"]) or self.journal.problem(saved["journal_length"])


@dataclass
class Session(Callbacks):
    """The callbacks of one attempt at a run, on one rank. Rank 0 writes."""

    state: TrainState
    files: RunFiles
    policy: CheckpointPolicy
    reporter: Reporter
    stops: StopRequests
    started: float
    """When the attempt began, by the monotonic clock."""
    spent: Spent = field(default_factory=Spent)
    checked: float = field(default_factory=time.monotonic)
    """When the loss was last seen to be finite."""
    stopping: bool = False
    """Stop at the end of this epoch."""

    def start(self, first: int) -> None:
        """Begin a journal, at the first epoch of a run."""
        if self.state.ranks.first:
            self.files.journal.cut(0)
        self.write_events(first)

    def resume(self, saved: Mapping[str, Any]) -> tuple[Step, Totals | None]:
        """Load a checkpoint; return the position, and the sums of an epoch that had begun."""
        state = self.state
        state.load_state_dict(saved["trainer"])
        state.task.load_state_dict(saved.get("task", {}))
        self.spent = Spent(**saved["progress"])
        self.files.store.restore(saved["products"], saved["files"])
        at = Step(saved["epoch"], saved["batch"], state.batches)
        totals = None
        if at.batch:
            # Those of all ranks, which are summed again.
            totals = Totals(**saved["totals"]) if state.ranks.first else Totals.zero(state.device)
        if state.ranks.first:
            self.files.journal.cut(saved["journal_length"])
        self.write({"event": "resume", "epoch": at.epoch, "batch": at.batch})
        within = f", {at.batch} of {at.batches_per_epoch} batches" if at.batch else ""
        self.reporter.say(f"resumed after epoch {at.epoch} of {state.config.epochs}{within}")
        return at, totals

    def epoch_start(self, epoch: int) -> None:
        self.write_events(epoch)

    def step_end(self, step: Step, totals: Totals) -> None:
        """Check the loss, save or stop, where any rank asks for it."""
        self.reporter.step()
        request = self.state.ranks.largest(self._request())
        last = step.batch + 1 == step.batches_per_epoch
        if request == StepRequest.STOP and last:
            self.stopping = True
        elif request >= StepRequest.SAVE and not last:
            at = replace(step, batch=step.batch + 1)
            self.save(at, totals)
            if request == StepRequest.STOP:
                self._stop(at)
        elif request == StepRequest.CHECK:
            self.checked = time.monotonic()
            totals.summed(self.state.ranks).check(step.epoch)

    def _request(self) -> StepRequest:
        if self.stops.received is not None:
            return StepRequest.STOP
        if self.policy.overdue():
            return StepRequest.SAVE
        if time.monotonic() - self.checked >= _CHECK_EVERY_S:
            return StepRequest.CHECK
        return StepRequest.NOTHING

    def epoch_end(self, epoch: int, totals: Totals) -> None:
        """Evaluate, record the epoch, and save or stop where it is time for it."""
        state, ranks = self.state, self.state.ranks
        self.write_events(epoch)
        totals = totals.summed(ranks)
        totals.check(epoch)
        validation = validate(state, epoch)
        ranks.on_rank0(lambda: self._write_kernels(epoch))
        record = epoch_record(state, epoch, totals, validation, self.spent)
        keep_model(state, self.files.store, epoch, validation)
        self.write(record)
        self.reporter.epoch(record)
        # A run whose result was removed finishes again from the last checkpoint, without training.
        last = epoch + 1 == state.config.epochs
        at = Step(epoch + 1, 0, state.batches)
        if ranks.on_rank0(self.policy.due) or last or self.stopping:
            self.save(at)
        if self.stopping and not last:
            self._stop(at)

    def write(self, record: Mapping[str, Any]) -> None:
        """Append a line to the journal."""

        def append() -> None:
            self.files.lease.check()
            self.files.journal.append(record)

        self.state.ranks.on_rank0(append)

    def write_events(self, epoch: int) -> None:
        """Append to the journal what the method did."""
        for event in self.state.method.events.drain():
            self.write({"epoch": epoch, **event})
            if event.get("mask_change"):
                self.spent.mask_changes.append({"epoch": epoch, **event["mask_change"]})

    def _write_kernels(self, epoch: int) -> None:
        """Append to the journal how the masked layers are multiplied, where that has changed."""
        layers = self.state.sparse_layers
        used = None if layers is None else layers.report()
        if used is not None:
            self.files.journal.append({"epoch": epoch, "event": "kernels", "layers": used})

    def save(self, at: Step, totals: Totals | None = None) -> None:
        """Write a checkpoint to resume at a position; ``totals`` are this rank's sums up to there.

        Raises:
            Diverged: a loss of this epoch is not finite; nothing is written.
        """
        started = time.monotonic()
        ranks = self.state.ranks
        sums = None
        if totals is not None:
            summed = totals.summed(ranks)
            summed.check(at.epoch)
            sums = vars(summed)
            self.write_events(at.epoch)
        task = self.state.task.state_dict() if at.batch else {}
        ranks.on_rank0(lambda: self._save(at, sums, task))
        ranks.cancel(below=StepRequest.STOP)
        self.policy.wrote(started)
        self.spent.checkpoint_s += self.policy.cost_s
        self.checked = time.monotonic()

    def _save(self, at: Step, totals: dict[str, Any] | None, task: dict[str, Any]) -> None:
        files = self.files
        files.lease.check()
        files.journal.flush()
        files.store.write()
        state = {
            "epoch": at.epoch,
            "batch": at.batch,
            "totals": totals,
            "trainer": self.state.state_dict(),
            "task": task,
            "progress": {**asdict(self.spent), "wall_s": self.wall_s()},
            "products": files.store.records,
            "files": files.store.digests,
            "journal_length": files.journal.length,
        }
        files.checkpoints.save(at.iteration, state)
        files.store.sweep()

    def _stop(self, at: Step) -> None:
        received = self.stops.received or signal.SIGTERM
        kind = Interrupted if received is signal.SIGINT else Resumable
        raise kind(
            f"{received.name}: {self.state.config.run_name} saved a checkpoint at epoch "
            f"{at.epoch}, batch {at.batch} of {at.batches_per_epoch}; rerun the same command to "
            "resume it"
        )

    def trained(self, test_s: float = 0.0) -> dict[str, Any]:
        """Return the fields of a result; ``test_s`` are the seconds of the final evaluation."""
        lines = self.state.ranks.on_rank0(lambda: read_lines(self.files.journal.path).length)
        return trained(self.state, self.spent, lines, self.wall_s(), test_s)

    def wall_s(self) -> float:
        """Return the seconds that the run has taken, earlier attempts up to their checkpoints."""
        return self.spent.wall_s + time.monotonic() - self.started
