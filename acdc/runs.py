"""One run in its directory: begun or gone on with, watched over, and brought to its result."""

from __future__ import annotations

import contextlib
import enum
import io
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import load, load_file

from acdc import flops
from acdc.certificate import certify
from acdc.checkpoints import Checkpoints, Pace
from acdc.config import RunConfig
from acdc.errors import Diverged, Interrupted, Resumable
from acdc.evaluation import dead_filters
from acdc.failures import NoModelError, refuse_to_repeat, remembered, told
from acdc.files import remove_temporary, write_json, write_text
from acdc.journal import Journal
from acdc.lease import Lease
from acdc.method import Product, Start
from acdc.products import Shelf, digests, optimizer_name, verified, weights_name
from acdc.provenance import record as record_provenance
from acdc.ranks import Ranks
from acdc.reporters import Reporter
from acdc.results import RESULT, SCHEMA, read_result
from acdc.schedules import Step
from acdc.stops import StopRequests
from acdc.training import Engine, Totals, Trainer


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
        self.progress: dict[str, Any] = {
            "train_flops": 0.0,
            "train_flops_published": 0.0,
            "train_s": 0.0,
            "wall_s": 0.0,
            "checkpoint_s": 0.0,
            "attempts": 0,
            "mask_changes": [],
        }

    def prepare(self) -> None:
        """Load data, build the network, take up a checkpoint or the run that this starts from."""
        newest = self.ranks.ask_first(
            lambda: self.checkpoints.newest(
                self.reporter.say, lambda state: self.shelf.complaint(state["files"])
            )
        )
        start = self.config.starts_from if newest is None else None
        # Before anything of this run takes up memory.
        parent = self._parent(start) if start is not None else None
        self.trainer = Trainer(self.config, self.options.engine, self.ranks)
        self.dense_flops = flops.dense_flops(self.trainer.costs)
        self.at = Step(0, 0, self.trainer.batches)
        self.totals: Totals | None = None
        device = self.trainer.device
        saved = None if newest is None else self.checkpoints.read(newest, device)
        if start is not None and parent is not None:
            self.at = Step(self._take_up(start, parent), 0, self.trainer.batches)
        self.trainer.begin()
        if saved is not None:
            self._resume(saved)
        else:
            if self.ranks.first:
                self.journal.cut(0)
            self.write_events(self.at.epoch)

    def _parent(self, start: Start) -> dict[str, Any]:
        """Return the result of the run that this one starts from, which is trained if need be."""
        return run(start.config, self.options, self.reporter, self.ranks, self.stops)

    def _take_up(self, start: Start, result: dict[str, Any]) -> int:
        """Take over the weights, and the cost, of another run; return the epoch to begin with."""
        folder = self.options.runs / start.config.run_name
        if result["status"] != "finished":
            raise Diverged(result["diverged_at"], f"{start.config.run_name} diverged")
        weights = verified(folder, weights_name(start.product, start.which), result)
        self.trainer.model.load_state_dict(load(weights))
        self.progress["train_flops"] = result["flops"]["training"]
        self.progress["train_flops_published"] = result["flops"]["training_published"]
        if start.epoch is not None:
            return start.epoch
        content = io.BytesIO(verified(folder, optimizer_name(start.product), result))
        state = torch.load(content, map_location=self.trainer.device, weights_only=True)
        self.trainer.optimizer.load_state_dict(state)
        return int(result["products"][start.product][start.which]["epoch"]) + 1

    def _resume(self, state: dict[str, Any]) -> None:
        self.trainer.load_state_dict(state["trainer"])
        self.progress = state["progress"]
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
                self.progress["mask_changes"].append({"epoch": epoch, **event["mask_change"]})

    def train(self) -> None:
        """Train what is left.

        Raises:
            Resumable: a signal asked for it; a checkpoint has been written.
            Diverged: a loss is not finite.
        """
        self.progress["attempts"] += 1
        self.reporter.start(self.config, self.at)
        for epoch in range(self.at.epoch, self.config.epochs):
            first = self.at.batch
            if self.totals is None:
                self.totals = Totals.zero(self.trainer.device)
                self.trainer.begin_epoch(epoch)
                self.write_events(epoch)
            self.trainer.train(epoch, first, self.totals, self.after_step)
            record = self.end_epoch(epoch)
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
            self.summed(self.totals).check(step.epoch)

    def wish(self) -> Wish:
        """Return what this rank wants after a step."""
        if self.stops.received is not None:
            return Wish.STOP
        if self.pace.overdue():
            return Wish.SAVE
        if time.monotonic() - self.checked >= _CHECK_EVERY_S:
            return Wish.CHECK
        return Wish.NOTHING

    def summed(self, totals: Totals) -> Totals:
        """Return an epoch's sums over all ranks."""
        loss, correct = totals.loss.clone(), totals.correct.clone()
        self.ranks.sum([loss, correct])
        return Totals(loss / self.ranks.count, correct, totals.seconds)

    def save(self) -> None:
        """Write a checkpoint of where the run is.

        Raises:
            Diverged: a loss of this epoch is not finite; nothing is written.
        """
        started = time.monotonic()
        totals = None
        if self.totals is not None:
            summed = self.summed(self.totals)
            summed.check(self.at.epoch)
            totals = {**vars(summed), "loss": summed.loss * self.ranks.count}
            self.write_events(self.at.epoch)
        self.ranks.ask_first(lambda: self._save(totals))
        self.ranks.withdraw(below=Wish.STOP)
        self.pace.wrote(started)
        self.progress["checkpoint_s"] += self.pace.cost_s
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
            "progress": {**self.progress, "wall_s": self.wall_s()},
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

    def end_epoch(self, epoch: int) -> dict[str, Any]:
        """Evaluate after an epoch, keep its weights where they are the best, and describe it."""
        trainer, progress = self.trainer, self.progress
        step = Step(epoch, trainer.batches - 1, trainer.batches)
        self.write_events(epoch)
        assert self.totals is not None
        totals = self.summed(self.totals)
        totals.check(epoch)
        progress["train_s"] += totals.seconds
        validation = trainer.score("validation")
        # The training loss is measured before each step: the last one shows only here.
        if not validation.finite:
            raise Diverged(epoch, f"the validation loss is {validation.loss}")
        densities = trainer.method.densities()
        nonzeros = trainer.nonzeros()
        spent = flops.step_flops(trainer.costs, densities.forward, densities.gradient)
        progress["train_flops"] += spent * trainer.images_per_epoch
        published = trainer.method.published_flops(trainer.costs)
        progress["train_flops_published"] += published * trainer.images_per_epoch
        product = trainer.method.product(step)
        if product is not None:
            kept = trainer.method.kept()
            self.shelf.keep(product, epoch, validation, kept, trainer.model, trainer.optimizer)
        total = sum(cost.weights for cost in trainer.costs)
        return {
            "epoch": epoch,
            "phase": trainer.method.phase(step),
            "product": product,
            "learning_rate": trainer.optimizer.param_groups[0]["lr"],
            "sparsity": 1 - sum(nonzeros.values()) / total,
            "train_loss": float(totals.loss) / trainer.batches,
            "train_accuracy": int(totals.correct) / trainer.images_per_epoch,
            "val_loss": validation.loss,
            "val_accuracy": validation.accuracy,
            "forward_flops": trainer.inference_flops(nonzeros),
            "train_flops": progress["train_flops"],
            "train_flops_published": progress["train_flops_published"],
            "nonzeros": nonzeros,
            "dead_filters": dead_filters(trainer.weights),
            "train_s": round(totals.seconds, 3),
        }

    def finish(self) -> dict[str, Any]:
        """Evaluate the products on the test images and return the final record."""
        trainer = self.trainer
        if self.at.epoch == self.config.epochs and not self.shelf.records["last"]:
            # Nothing to train: the method's work was done in its setup.
            step = Step(self.config.epochs - 1, trainer.batches - 1, trainer.batches)
            validation = trainer.score("validation")
            product: Product = trainer.method.product(step) or "sparse"
            kept = trainer.method.kept()
            self.shelf.keep(product, step.epoch, validation, kept, trainer.model, trainer.optimizer)
            self.ranks.ask_first(self.shelf.write)
        self.ranks.ask_first(self.publish)
        started = time.perf_counter()
        products: dict[str, Any] = {}
        for name, last in self.shelf.records["last"].items():
            best = self.shelf.records["best"][name]
            assessed = self.assess(name, "last")
            same = best["epoch"] == last["epoch"]
            products[name] = {
                "last": assessed,
                "best": assessed if same else self.assess(name, "best"),
            }
        if not products:
            raise NoModelError(
                f"{self.config.run_name} has trained without yielding a model; a method has to "
                "name its product by the last epoch"
            )
        result = self.record("finished")
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
        write_json(self.folder / RESULT, result)
        self.checkpoints.drop(keep=1)
        self.shelf.sweep(keep=1)

    def assess(self, product: str, which: str) -> dict[str, Any]:
        """Evaluate one kept model on the test images, and certify the weights that were used."""
        trainer = self.trainer
        kept = self.shelf.records[which][product]
        weights = self.folder / weights_name(product, which)
        trainer.model.load_state_dict(load_file(weights, device=str(trainer.device)))
        test = trainer.score("test")
        # Counted in the very weights that were just evaluated.
        nonzeros = trainer.nonzeros()
        return {
            "epoch": kept["epoch"],
            "val_accuracy": kept["accuracy"],
            "val_loss": kept["loss"],
            "test_accuracy": test.accuracy,
            "test_loss": test.loss,
            "inference_flops": trainer.inference_flops(nonzeros),
            "certificate": certify(
                self.config.sparsity if product == "sparse" else 0.0,
                trainer.costs,
                kept=kept["kept"],
                nonzeros=nonzeros,
                exempt=trainer.method.exempt,
                tolerance=trainer.method.sparsity_tolerance,
                dead_filters=dead_filters(trainer.weights),
            ),
        }

    def wall_s(self) -> float:
        """Return the seconds that the run has taken, earlier attempts up to their checkpoints."""
        return float(self.progress["wall_s"]) + time.monotonic() - self.started

    def record(self, status: str) -> dict[str, Any]:
        """Return the parts of the final record that do not depend on how the run ended."""
        method = self.config.method_class
        images = self.trainer.images_per_epoch * self.config.epochs
        return {
            "schema": SCHEMA,
            "status": status,
            "run": self.config.run_name,
            "fingerprint": self.config.fingerprint,
            "config": self.config.model_dump(mode="json"),
            "label": method.label,
            "variant": self.config.settings.variant(),
            "primary": method.products[0],
            "flops": {
                "dense_inference": self.dense_flops,
                "dense_training": 3 * self.dense_flops * images,
                "training": self.progress["train_flops"],
                "training_published": self.progress["train_flops_published"],
                "published_formula": method.flops_formula,
            },
            "mask_changes": self.progress["mask_changes"],
            "prunable_weights": sum(cost.weights for cost in self.trainer.costs),
            "timings": {
                "wall_s": round(self.wall_s(), 3),
                "train_s": round(self.progress["train_s"], 3),
                "checkpoint_s": round(self.progress["checkpoint_s"], 3),
                "attempts": self.progress["attempts"],
            },
        }


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
    done = ranks.ask_first(lambda: read_result(folder))
    if done is not None:
        reporter.say(f"{config.run_name} has finished already")
        return done
    lease = Lease(folder)
    with (
        remembered(folder, ranks),
        told(config.run_name, folder),
        contextlib.ExitStack() as stack,
    ):
        done = ranks.ask_first(lambda: _enter(config, options, lease, stack))
        if done is not None:
            return done
        if stops is None:
            stops = stack.enter_context(StopRequests())
        return _train(Run(config, options, reporter, ranks, lease, stops))


def _enter(
    config: RunConfig, options: Options, lease: Lease, stack: contextlib.ExitStack
) -> dict[str, Any] | None:
    """Take the run's directory for oneself; return the result that another has left meanwhile."""
    folder = lease.folder
    with told(config.run_name, folder):
        folder.mkdir(parents=True, exist_ok=True)
        stack.enter_context(lease.held(options.wait_s))
        done = read_result(folder)
        if done is None:
            refuse_to_repeat(folder, options.attempt)
            remove_temporary(folder)
            remove_temporary(folder / "checkpoint")
            write_text(folder / "config.yaml", yaml.safe_dump(config.model_dump(mode="json")))
        return done


def _train(this: Run) -> dict[str, Any]:
    try:
        this.prepare()
        if this.ranks.first:
            record_provenance(this.folder, this.trainer.device)
        this.train()
        result = this.finish()
    except Diverged as error:
        this.reporter.say(f"{this.config.run_name} diverged: {error}")
        result = this.record("diverged")
        result |= {"products": {}, "diverged_at": error.epoch, "diverged": str(error)}
    finally:
        if hasattr(this, "trainer"):
            this.trainer.feed.close()
    this.ranks.ask_first(lambda: this.conclude(result))
    return result
