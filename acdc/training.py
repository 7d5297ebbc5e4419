"""The one training loop: every method, data set and model goes through it."""

from __future__ import annotations

import contextlib
import io
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
import yaml
from filelock import FileLock, Timeout
from safetensors.torch import load, load_file
from torch import Tensor, nn

from acdc import flops, seeds
from acdc.certificate import certify
from acdc.checkpoints import Checkpoints
from acdc.config import RunConfig
from acdc.data import DATASETS
from acdc.data.images import augment
from acdc.errors import RunDirectoryError
from acdc.evaluation import Score, dead_filters, evaluate
from acdc.files import write_json, write_text
from acdc.journal import Journal
from acdc.layers import prunable_layers, prunable_weights
from acdc.masks import count_nonzeros
from acdc.method import Context, Product, Start
from acdc.models import MODELS
from acdc.optimizers import build_optimizer, learning_rate
from acdc.products import (
    digests,
    optimizer_name,
    save_optimizer,
    save_weights,
    verified,
    weights_name,
)
from acdc.provenance import record
from acdc.results import RESULT, SCHEMA, read_result
from acdc.schedules import Step


class Reporter(Protocol):
    """What the loop tells the person who watches."""

    def start(self, config: RunConfig, first_epoch: int, batches: int) -> None: ...
    def step(self) -> None: ...
    def epoch(self, record: dict[str, Any]) -> None: ...
    def say(self, text: str) -> None: ...


@dataclass(frozen=True)
class Options:
    """How a run is carried out; nothing here changes its result but for rounding."""

    runs: Path
    """The folder that holds the run directories."""
    device: str = "cpu"
    checkpoint_interval_s: float = 2.0
    """Least time between checkpoints; they are written at the ends of epochs."""


def build_model(config: RunConfig) -> nn.Module:
    """Return the network with the initial weights of the run's seed, the same for every method."""
    spec = DATASETS[config.dataset]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seeds.derive(config.seed, "initial_weights"))
        model = MODELS[config.model](spec.channels, spec.classes)
    # torch's annotations of Module.to leave the memory format out.
    return model.to(memory_format=torch.channels_last)  # type: ignore[no-any-return, call-overload]


class Run:
    """One run in its directory, from the first batch or from where it was interrupted."""

    def __init__(self, config: RunConfig, options: Options, reporter: Reporter) -> None:
        self.config = config
        self.options = options
        self.reporter = reporter
        self.started = time.monotonic()
        self.folder = options.runs / config.run_name
        self.device = torch.device(options.device)
        self.journal = Journal(self.folder / "journal.jsonl")
        self.checkpoints = Checkpoints(self.folder / "checkpoint", config.fingerprint)

    def prepare(self) -> None:
        """Load the data and build model, optimizer and method."""
        spec = DATASETS[self.config.dataset]
        self.data = spec.load().to(self.device)
        self.model = build_model(self.config).to(self.device)
        self.costs = flops.layer_costs(self.model, (spec.channels, spec.size, spec.size))
        self.dense_flops = flops.dense_flops(self.costs)
        self.weights = prunable_weights(self.model)
        self.optimizer = build_optimizer(self.model, self.config.recipe)
        self.batches = len(self.data.training) // self.config.recipe.batch_size
        self.images_per_epoch = self.batches * self.config.recipe.batch_size
        self.progress: dict[str, Any] = {
            "train_flops": 0.0,
            "train_flops_published": 0.0,
            "train_s": 0.0,
            "wall_s": 0.0,
            "attempts": 0,
            "best": {},
            "last": {},
            "mask_changes": [],
        }
        self.first_epoch = 0
        self.method = self.config.method_class(self.config.settings, self.config.sparsity)
        self.saved = self.checkpoints.load(self.device, self.reporter.say)
        start = self.config.starts_from
        if start is not None and self.saved is None:
            self.first_epoch = self._take_up(start)
        self.method.setup(
            Context(
                weights=self.weights,
                layers=prunable_layers(self.model),
                optimizer=self.optimizer,
                config=self.config,
                batches_per_epoch=self.batches,
                gradients=self.gradients,
            )
        )

    def _take_up(self, start: Start) -> int:
        """Take over the weights, and the cost, of another run, which is trained if need be.

        Returns the epoch to begin with.
        """
        folder = self.options.runs / start.config.run_name
        result = run(start.config, self.options, self.reporter)
        if result["status"] != "finished":
            raise Diverged(result["diverged_at"], math.nan)
        weights = verified(folder, weights_name(start.product, start.which), result)
        self.model.load_state_dict(load(weights))
        self.progress["train_flops"] = result["flops"]["training"]
        self.progress["train_flops_published"] = result["flops"]["training_published"]
        if start.epoch is not None:
            return start.epoch
        content = io.BytesIO(verified(folder, optimizer_name(start.product), result))
        state = torch.load(content, map_location=self.device, weights_only=True)
        self.optimizer.load_state_dict(state)
        return int(result["products"][start.product][start.which]["epoch"]) + 1

    def gradients(
        self, batches: int, size: int, *position: int, training: bool = False
    ) -> Iterator[dict[str, Tensor]]:
        """Yield gradients of mini-batches at the current weights; see GradientSource."""
        images = self.data.training
        generator = seeds.generator(self.config.seed, "gradient_samples", *position)
        order = torch.randperm(len(images), generator=generator).to(self.device)
        kept = {name: buffer.clone() for name, buffer in self.model.named_buffers()}
        was_training = self.model.training
        try:
            for batch in range(batches):
                chosen = order[torch.arange(batch * size, (batch + 1) * size) % len(images)]
                self.model.train(training)
                with self.seeded("gradient_samples", *position, batch):
                    outputs = self.model(self.data.normalise(images.pixels[chosen]))
                # Without the recipe's label smoothing, as in WoodFisher's and SNIP's code.
                loss = nn.functional.cross_entropy(outputs, images.labels[chosen])
                found = torch.autograd.grad(loss, list(self.weights.values()))
                yield dict(zip(self.weights, found, strict=True))
        finally:
            self.model.train(was_training)
            for name, buffer in self.model.named_buffers():
                buffer.copy_(kept[name])

    @contextlib.contextmanager
    def seeded(self, axis: seeds.Axis, *position: int) -> Iterator[None]:
        """Let what draws from torch's own generators, such as dropout, draw as the seed says."""
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(seeds.derive(self.config.seed, axis, *position))
            yield

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Return the loss that is trained on, the mean over a batch."""
        return nn.functional.cross_entropy(
            outputs, labels, label_smoothing=self.config.recipe.label_smoothing
        )

    def write_events(self, epoch: int) -> None:
        """Write to the journal what the method did."""
        for event in self.method.events.drain():
            self.journal.append({"epoch": epoch, **event})
            if event.get("mask_change"):
                self.progress["mask_changes"].append({"epoch": epoch, **event["mask_change"]})

    def state(self, epoch: int) -> dict[str, Any]:
        """Return all that going on after ``epoch`` epochs needs."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "method": self.method.state_dict(),
            "progress": {**self.progress, "wall_s": self.wall_s()},
            "journal_length": self.journal.length,
        }

    def resume(self) -> None:
        """Go back to the newest checkpoint, or to the very start where there is none."""
        state, self.saved = self.saved, None
        if state is None:
            self.journal.cut(0)
            self.write_events(self.first_epoch)
            return
        self.method.events.drain()
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.method.load_state_dict(state["method"])
        self.progress = state["progress"]
        self.first_epoch = state["epoch"]
        self.journal.cut(state["journal_length"])
        self.journal.append({"event": "resume", "epoch": self.first_epoch})
        self.reporter.say(f"resumed after epoch {self.first_epoch} of {self.config.epochs}")

    def train(self) -> None:
        """Run the remaining epochs."""
        self.progress["attempts"] += 1
        self.reporter.start(self.config, self.first_epoch, self.batches)
        last_checkpoint = time.monotonic()
        for epoch in range(self.first_epoch, self.config.epochs):
            with self.seeded("dropout", epoch):
                record = self.train_epoch(epoch)
            self.journal.append(record)
            self.reporter.epoch(record)
            due = time.monotonic() - last_checkpoint >= self.options.checkpoint_interval_s
            # The last one lets a run whose result was removed finish again without training.
            if due or epoch + 1 == self.config.epochs:
                self.checkpoints.save(epoch + 1, self.state(epoch + 1))
                last_checkpoint = time.monotonic()

    def train_epoch(self, epoch: int) -> dict[str, Any]:
        """Train one epoch and return its record for the journal.

        Raises:
            Diverged: the loss is not finite.
        """
        started = time.perf_counter()
        config, recipe, data = self.config, self.config.recipe, self.data
        step = Step(epoch, 0, self.batches)
        rate = self.method.learning_rate(step, learning_rate(recipe, epoch, config.epochs))
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.model.train()
        self.method.epoch_start(step)
        self.write_events(epoch)
        order = torch.randperm(
            len(data.training), generator=seeds.generator(config.seed, "data_order", epoch)
        ).to(self.device)
        draws = seeds.generator(config.seed, "augmentation", epoch)
        total_loss = torch.zeros((), dtype=torch.float64, device=self.device)
        correct = torch.zeros((), dtype=torch.int64, device=self.device)
        for batch in range(self.batches):
            step = Step(epoch, batch, self.batches)
            chosen = order[batch * recipe.batch_size : (batch + 1) * recipe.batch_size]
            labels = data.training.labels[chosen]
            pixels = augment(data.training.pixels[chosen], recipe.augmentation, draws)
            outputs = self.model(data.normalise(pixels))
            loss = self.loss(outputs, labels)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            if self.method.before_step(step):
                self.optimizer.step()
            self.method.after_step(step)
            self.reporter.step()
            total_loss += loss.detach()
            correct += (outputs.detach().argmax(dim=1) == labels).sum()
        step = Step(epoch, self.batches - 1, self.batches)
        self.write_events(epoch)
        train_loss = float(total_loss) / self.batches
        train_s = time.perf_counter() - started
        if not torch.isfinite(total_loss):
            raise Diverged(epoch, train_loss)
        self.progress["train_s"] += train_s
        return self.epoch_record(step, rate, train_loss, int(correct), train_s)

    def epoch_record(
        self, step: Step, rate: float, train_loss: float, correct: int, train_s: float
    ) -> dict[str, Any]:
        """Evaluate after an epoch, keep its weights where they are the best, and describe it."""
        validation = evaluate(self.model, self.data, self.data.validation)
        # The training loss is measured before each step: the last one shows only here.
        if not math.isfinite(validation.loss):
            raise Diverged(step.epoch, validation.loss)
        densities = self.method.densities()
        nonzeros = count_nonzeros(self.weights)
        forward = self.inference_flops(nonzeros)
        spent = flops.step_flops(self.costs, densities.forward, densities.gradient)
        self.progress["train_flops"] += spent * self.images_per_epoch
        published = self.method.published_flops(self.costs)
        self.progress["train_flops_published"] += published * self.images_per_epoch
        product = self.method.product(step)
        if product is not None:
            self.keep(product, step.epoch, validation)
        total = sum(cost.weights for cost in self.costs)
        return {
            "epoch": step.epoch,
            "phase": self.method.phase(step),
            "product": product,
            "learning_rate": rate,
            "sparsity": 1 - sum(nonzeros.values()) / total,
            "train_loss": train_loss,
            "train_accuracy": correct / self.images_per_epoch,
            "val_loss": validation.loss,
            "val_accuracy": validation.accuracy,
            "forward_flops": forward,
            "train_flops": self.progress["train_flops"],
            "train_flops_published": self.progress["train_flops_published"],
            "nonzeros": nonzeros,
            "dead_filters": dead_filters(self.weights),
            "train_s": round(train_s, 3),
        }

    def inference_flops(self, nonzeros: Mapping[str, int]) -> float:
        """Return the FLOPs of one image at these numbers of non-zero weights."""
        return flops.forward_flops(
            self.costs, {cost.name: nonzeros[cost.name] / cost.weights for cost in self.costs}
        )

    def keep(self, product: Product, epoch: int, validation: Score) -> None:
        """Save the weights as the product's last and, if validated better, as its best."""
        record = {"epoch": epoch, **asdict(validation), "kept": self.method.kept()}
        best = self.progress["best"].get(product)
        self.progress["last"][product] = record
        save_weights(self.model, self.folder / weights_name(product, "last"))
        # Of equal accuracies the later epoch wins: it has trained longer.
        if best is None or validation.accuracy >= best["accuracy"]:
            self.progress["best"][product] = record
            save_weights(self.model, self.folder / weights_name(product, "best"))
            if product in self.method.resumable:
                save_optimizer(self.optimizer, self.folder / optimizer_name(product))

    def finish(self) -> dict[str, Any]:
        """Evaluate the products on the test images and write the final record."""
        if self.first_epoch == self.config.epochs and not self.progress["last"]:
            # Nothing to train: the method's work was done in its setup.
            step = Step(self.config.epochs - 1, self.batches - 1, self.batches)
            validation = evaluate(self.model, self.data, self.data.validation)
            self.keep(self.method.product(step) or "sparse", step.epoch, validation)
        products: dict[str, Any] = {}
        evaluation_started = time.perf_counter()
        for product in self.progress["last"]:
            last = self.assess(product, "last")
            best = self.progress["best"][product]
            same = best["epoch"] == last["epoch"]
            products[product] = {
                "last": last,
                "best": last if same else self.assess(product, "best"),
            }
        if not products:
            raise RunDirectoryError(
                f"{self.config.run_name} has trained without yielding a model; a method has to "
                "name its product by the last epoch"
            )
        result = self.record("finished")
        result["products"] = products
        result["files"] = digests(self.folder)
        result["timings"]["test_s"] = round(time.perf_counter() - evaluation_started, 3)
        return result

    def assess(self, product: Product, which: str) -> dict[str, Any]:
        """Evaluate one kept model on the test images, and certify the weights that were used."""
        kept = self.progress[which][product]
        weights = self.folder / weights_name(product, which)
        self.model.load_state_dict(load_file(weights, device=str(self.device)))
        test = evaluate(self.model, self.data, self.data.test)
        # Counted in the very weights that were just evaluated.
        nonzeros = count_nonzeros(self.weights)
        return {
            "epoch": kept["epoch"],
            "val_accuracy": kept["accuracy"],
            "val_loss": kept["loss"],
            "test_accuracy": test.accuracy,
            "test_loss": test.loss,
            "inference_flops": self.inference_flops(nonzeros),
            "certificate": certify(
                self.config.sparsity if product == "sparse" else 0.0,
                self.costs,
                kept=kept["kept"],
                nonzeros=nonzeros,
                exempt=self.method.exempt,
                tolerance=self.method.sparsity_tolerance,
                dead_filters=dead_filters(self.weights),
            ),
        }

    def wall_s(self) -> float:
        """Return the seconds that the run has taken, earlier attempts up to their checkpoints."""
        return float(self.progress["wall_s"]) + time.monotonic() - self.started

    def record(self, status: str) -> dict[str, Any]:
        """Return the parts of the final record that do not depend on how the run ended."""
        method = self.config.method_class
        dense_training = 3 * self.dense_flops * self.images_per_epoch * self.config.epochs
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
                "dense_training": dense_training,
                "training": self.progress["train_flops"],
                "training_published": self.progress["train_flops_published"],
                "published_formula": method.flops_formula,
            },
            "mask_changes": self.progress["mask_changes"],
            "prunable_weights": sum(cost.weights for cost in self.costs),
            "timings": {
                "wall_s": round(self.wall_s(), 3),
                "train_s": round(self.progress["train_s"], 3),
                "attempts": self.progress["attempts"],
            },
        }


class Diverged(Exception):
    """The loss became NaN or infinite; the run ends as diverged, not as an error."""

    def __init__(self, epoch: int, loss: float) -> None:
        super().__init__(f"the loss is {loss} in epoch {epoch}")
        self.epoch = epoch


def run(config: RunConfig, options: Options, reporter: Reporter) -> dict[str, Any]:
    """Train one run to its end, or return its result if it already has one.

    Raises:
        RunDirectoryError: the directory cannot be written.
        DataError: the data set is missing or damaged.
    """
    folder = options.runs / config.run_name
    done = read_result(folder)
    if done is not None:
        reporter.say(f"{config.run_name} has finished already")
        return done
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            reporter.say(f"{config.run_name} is being trained by another process; waiting for it")
            lock.acquire()
        try:
            return read_result(folder) or _train(config, options, reporter, folder)
        finally:
            lock.release()
    except OSError as error:
        raise RunDirectoryError(
            f"run directory {folder} cannot be written: {error.strerror or error}"
        ) from error


def _train(config: RunConfig, options: Options, reporter: Reporter, folder: Path) -> dict[str, Any]:
    write_text(folder / "config.yaml", yaml.safe_dump(config.model_dump(mode="json")))
    this = Run(config, options, reporter)
    try:
        this.prepare()
        this.resume()
        record(folder, this.device)
        this.train()
        result = this.finish()
    except Diverged as error:
        reporter.say(f"{config.run_name} diverged: {error}")
        result = {**this.record("diverged"), "products": {}, "diverged_at": error.epoch}
    write_json(folder / RESULT, result)
    return result
