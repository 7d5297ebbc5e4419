"""One run in its directory: begun or gone on with, watched over, and brought to its result."""

from __future__ import annotations

import contextlib
import enum
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from acdc.config.run import RunConfig
from acdc.distributed import Ranks
from acdc.errors import Diverged, Interrupted, Resumable
from acdc.files import remove_temporary, write_text
from acdc.run.checkpoints import Checkpoints, Pace
from acdc.run.failures import FAILED, NoModelError, begin, end, refuse_to_repeat, told
from acdc.run.journal import Journal
from acdc.run.lease import Lease
from acdc.run.model_store import Shelf, digests
from acdc.run.outcomes import conclude, failed, keep_spare, restored, settled
from acdc.run.progress import Reporter
from acdc.run.provenance import record as record_provenance
from acdc.run.records import Records
from acdc.run.results import SPARE
from acdc.run.signals import StopRequests
from acdc.step import Step
from acdc.training.loop import Engine, Totals, Trainer


@dataclass(frozen=True)
class Options:
    """How a run is carried out; nothing here changes its result but for rounding."""

    runs: Path
    """The folder that holds the run directories."""
    engine: Engine = field(default_factory=Engine)
    checkpoint_interval_s: float = 600.0
    """What a killed run loses at most, in seconds of training."""
    checkpoint_share: float = 0.01
    """The share of the time that checkpoints at the ends of epochs may take."""
    wait_s: float = 0.0
    """How long to wait where another process trains the same run."""
    attempt: int = 1
    """Which attempt of a workflow at the run this is. From the second on, an error of the first
    that is bound to recur ends it at once."""
    allow_failure: bool = False
    """Record an error that would recur as the result "failed" instead of raising it."""


class Wish(enum.IntEnum):
    """What a rank wants after a step; the ranks follow the greatest wish of all."""

    NOTHING = 0
    CHECK = 1
    """Look whether the loss is still finite."""
    SAVE = 2
    STOP = 3
    """Save, and stop."""


_CHECK_EVERY_S = 30.0


class Run:
    """One run on one rank, from the first batch or from where it was interrupted."""

    def __init__(
        self,
        config: RunConfig,
        options: Options,
        reporter: Reporter,
        ranks: Ranks,
        lease: Lease,
        stops: StopRequests,
    ) -> None:
        self.config = config
        self.options = options
        self.reporter = reporter
        self.ranks = ranks
        self.lease = lease
        self.stops = stops
        self.started = time.monotonic()
        self.folder = options.runs / config.run_name
        self.journal = Journal(self.folder / "journal.jsonl")
        self.checkpoints = Checkpoints(self.folder / "checkpoint", config.fingerprint)
        self.shelf = Shelf(self.folder / "checkpoint", config.method_class.resumable)
        self.pace = Pace(options.checkpoint_interval_s, options.checkpoint_share)
        self.checked = time.monotonic()
        self.stopping = False

    def prepare(self) -> None:
        """Load data, build the network, take up a checkpoint or the run that this starts from."""
        newest = self.ranks.ask_first(
            lambda: self.checkpoints.newest(
                self.reporter.say, lambda state: self.shelf.complaint(state["files"])
            )
        )
        start = self.config.starts_from if newest is None else None
        # Before anything of this run takes up memory.
        parent = self._parent() if start is not None else None
        self.trainer = Trainer(self.config, self.options.engine, self.ranks)
        self.records = Records(self.config, self.trainer, self.shelf)
        self.at = Step(0, 0, self.trainer.batches)
        self.totals: Totals | None = None
        device = self.trainer.device
        saved = None if newest is None else self.checkpoints.read(newest, device)
        self.resumed = saved is not None
        if start is not None and parent is not None:
            folder = self.options.runs / parent["run"]
            first = self.records.take_up(start, folder, parent)
            self.at = Step(first, 0, self.trainer.batches)
        self.trainer.begin()
        if saved is not None:
            self._resume(saved)
        else:
            if self.ranks.first:
                self.journal.cut(0)
            self.write_events(self.at.epoch)

    def _parent(self) -> dict[str, Any]:
        """Return the result of the run that this one starts from, which is trained if need be."""
        # What has failed for good before does so at once, and this run with it.
        options = replace(self.options, attempt=max(self.options.attempt, 2), allow_failure=False)
        parent = self.config.parent
        assert parent is not None
        return run(parent, options, self.reporter, self.ranks, self.stops)

    def _resume(self, state: dict[str, Any]) -> None:
        self.trainer.load_state_dict(state["trainer"])
        self.records.progress = state["progress"]
        self.shelf.take_up(state["products"], state["files"])
        self.at = Step(state["epoch"], state["batch"], self.trainer.batches)
        if self.at.batch:
            # The sums are those of all ranks, and will be added up again.
            self.totals = Totals.zero(self.trainer.device)
            if self.ranks.first:
                self.totals = Totals(**state["totals"])
        if self.ranks.first:
            self.journal.cut(state["journal_length"])
        self.write({"event": "resume", "epoch": self.at.epoch, "batch": self.at.batch})
        within = f", {self.at.batch} of {self.trainer.batches} batches" if self.at.batch else ""
        self.reporter.say(f"resumed after epoch {self.at.epoch} of {self.config.epochs}{within}")

    def write(self, record: Mapping[str, Any]) -> None:
        """Write a line to the journal, on the first rank."""

        def append() -> None:
            self.lease.check()
            self.journal.append(record)

        self.ranks.ask_first(append)

    def write_events(self, epoch: int) -> None:
        """Write to the journal what the method did."""
        for event in self.trainer.method.events.drain():
            self.write({"epoch": epoch, **event})
            if event.get("mask_change"):
                change = {"epoch": epoch, **event["mask_change"]}
                self.records.progress["mask_changes"].append(change)

    def train(self) -> None:
        """Train what is left.

        Raises:
            Resumable: a signal asked for it; a checkpoint has been written.
            Diverged: a loss is not finite.
        """
        self.records.progress["attempts"] += 1
        self.reporter.start(self.config, self.at)
        for epoch in range(self.at.epoch, self.config.epochs):
            first = self.at.batch
            if self.totals is None:
                self.totals = Totals.zero(self.trainer.device)
                self.trainer.begin_epoch(epoch)
                self.write_events(epoch)
            self.trainer.train(epoch, first, self.totals, self.after_step)
            self.write_events(epoch)
            record = self.records.end_epoch(epoch, self.records.summed(self.totals))
            self.at, self.totals = Step(epoch + 1, 0, self.trainer.batches), None
            self.write(record)
            self.reporter.epoch(record)
            # The last one lets a run whose result was removed finish again without training.
            last = epoch + 1 == self.config.epochs
            if self.ranks.ask_first(self.pace.due) or last or self.stopping:
                self.save()
            if self.stopping and not last:
                self.stop()

    def after_step(self, step: Step) -> None:
        """Save or stop after a step, where any rank wants it."""
        self.reporter.step()
        wish = self.ranks.wish(self.wish())
        if wish == Wish.STOP and step.batch + 1 == step.batches_per_epoch:
            self.stopping = True  # at the end of the epoch, which is here
        elif wish >= Wish.SAVE and step.batch + 1 < step.batches_per_epoch:
            self.at = Step(step.epoch, step.batch + 1, step.batches_per_epoch)
            self.save()
            if wish == Wish.STOP:
                self.stop()
        elif wish == Wish.CHECK:
            self.checked = time.monotonic()
            assert self.totals is not None
            self.records.summed(self.totals).check(step.epoch)

    def wish(self) -> Wish:
        """Return what this rank wants after a step."""
        if self.stops.received is not None:
            return Wish.STOP
        if self.pace.overdue():
            return Wish.SAVE
        if time.monotonic() - self.checked >= _CHECK_EVERY_S:
            return Wish.CHECK
        return Wish.NOTHING

    def save(self) -> None:
        """Write a checkpoint of where the run is.

        Raises:
            Diverged: a loss of this epoch is not finite; nothing is written.
        """
        started = time.monotonic()
        totals = None
        if self.totals is not None:
            summed = self.records.summed(self.totals)
            summed.check(self.at.epoch)
            totals = {**vars(summed), "loss": summed.loss * self.ranks.count}
            self.write_events(self.at.epoch)
        self.ranks.ask_first(lambda: self._save(totals))
        self.ranks.withdraw(below=Wish.STOP)
        self.pace.wrote(started)
        self.records.progress["checkpoint_s"] += self.pace.cost_s
        self.checked = time.monotonic()

    def _save(self, totals: dict[str, Any] | None) -> None:
        self.lease.check()
        self.journal.flush()
        self.shelf.write()
        state = {
            "epoch": self.at.epoch,
            "batch": self.at.batch,
            "totals": totals,
            "trainer": self.trainer.state_dict(),
            "progress": {**self.records.progress, "wall_s": self.wall_s()},
            "products": self.shelf.records,
            "files": self.shelf.digests,
            "journal_length": self.journal.length,
        }
        self.checkpoints.save(self.at.iteration, state)
        self.shelf.sweep()

    def stop(self) -> None:
        """End with what the signal asks for, after a checkpoint."""
        where = f"epoch {self.at.epoch}, batch {self.at.batch} of {self.at.batches_per_epoch}"
        received = self.stops.received or signal.SIGTERM
        kind = Interrupted if received is signal.SIGINT else Resumable
        raise kind(
            f"{self.config.run_name} was stopped by {received.name} at {where}, and saved there; "
            "the same command goes on with it"
        )

    def finish(self) -> dict[str, Any]:
        """Evaluate the products on the test images and return the final record."""
        if self.at.epoch == self.config.epochs and not self.shelf.records["last"]:
            self.records.keep_untrained()
            self.ranks.ask_first(self.shelf.write)
        self.ranks.ask_first(self.publish)
        started = time.perf_counter()
        products = self.records.assess_all(self.folder)
        if not products:
            raise NoModelError(
                f"{self.config.run_name} has trained without yielding a model; a method has to "
                "name its product by the last epoch"
            )
        result = self.records.final("finished", self.wall_s())
        result["products"] = products
        result["files"] = digests(self.folder)
        result["timings"]["test_s"] = round(time.perf_counter() - started, 3)
        return result

    def publish(self) -> None:
        """Give the kept models their final names."""
        self.lease.check()
        self.shelf.publish(self.folder)

    def conclude(self, result: dict[str, Any]) -> None:
        """Write the result, and leave the last checkpoint only, by which it can be made again."""
        self.lease.check()
        conclude(self.folder, result)
        (self.folder / FAILED).unlink(missing_ok=True)
        self.checkpoints.drop(keep=1)
        self.shelf.sweep(keep=1)

    def wall_s(self) -> float:
        """Return the seconds that the run has taken, earlier attempts up to their checkpoints."""
        return float(self.records.progress["wall_s"]) + time.monotonic() - self.started


def run(
    config: RunConfig,
    options: Options,
    reporter: Reporter,
    ranks: Ranks | None = None,
    stops: StopRequests | None = None,
) -> dict[str, Any]:
    """Train one run to its end, or return its result if it already has one.

    Every rank calls this; the first one writes.

    Args:
        config: of the run.
        options: how it is carried out.
        reporter: is told what happens.
        ranks: that share the run; by default this process is alone.
        stops: of the run that starts from this one and is waiting for it.

    Raises:
        SuiteError: what the user can mend, in one sentence.
        Resumable: the run was stopped, or is in another process's hands.
    """
    ranks = ranks or Ranks()
    folder = options.runs / config.run_name
    done = ranks.ask_first(lambda: settled(folder))
    if done is not None:
        reporter.say(f"{config.run_name} has finished already")
        if ranks.first and not (folder / SPARE).exists():
            with contextlib.suppress(OSError):  # of results that are only to be read
                keep_spare(folder, done)
        return done
    lease = Lease(folder)
    with told(config.run_name, folder), contextlib.ExitStack() as stack:
        try:
            if stops is None:
                stops = stack.enter_context(StopRequests())
            heard = stops
            done = ranks.ask_first(lambda: _enter(config, options, lease, heard, stack))
            if done is not None:
                return done
            with told(config.run_name, folder):
                return _train(Run(config, options, reporter, ranks, lease, stops))
        except (Resumable, Interrupted):
            raise
        except Exception as error:
            if not ranks.first or not folder.is_dir():
                raise
            result = failed(config, folder, error)
            if result is None or not options.allow_failure:
                raise
            conclude(folder, result)
            reporter.say(f"{config.run_name} has failed: {result['error']}")
            return result


def _enter(
    config: RunConfig,
    options: Options,
    lease: Lease,
    stops: StopRequests,
    stack: contextlib.ExitStack,
) -> dict[str, Any] | None:
    """Take the run's directory for oneself; return the result that is there, or was removed."""
    folder = lease.folder
    with told(config.run_name, folder):
        folder.mkdir(parents=True, exist_ok=True)
        stack.enter_context(lease.held(options.wait_s, lambda: stops.received))
        done = settled(folder)
        if done is None:
            remove_temporary(folder)
            remove_temporary(folder / "checkpoint")
            restored(folder)
            done = settled(folder)
        if done is None:
            refuse_to_repeat(folder, options.attempt)
            begin(folder, options.attempt)
            stack.callback(_end, lease)
            write_text(folder / "config.yaml", yaml.safe_dump(config.model_dump(mode="json")))
        return done


def _end(lease: Lease) -> None:
    """Take note that an attempt ends as it should, if the run is still in its hands."""
    with contextlib.suppress(Resumable):
        lease.check()
        end(lease.folder)


def _train(this: Run) -> dict[str, Any]:
    try:
        this.prepare()
        if this.ranks.first:
            record_provenance(
                this.folder, this.config, this.trainer.device, this.ranks, resumed=this.resumed
            )
        this.train()
        result = this.finish()
    except Diverged as error:
        this.reporter.say(f"{this.config.run_name} diverged: {error}")
        result = this.records.final("diverged", this.wall_s())
        result |= {"products": {}, "diverged_at": error.epoch, "diverged": str(error)}
    finally:
        if hasattr(this, "trainer"):
            this.trainer.loader.close()
    this.ranks.ask_first(lambda: this.conclude(result))
    return result
