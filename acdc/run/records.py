"""What a run has come to: the record of each epoch, its models, and its final record."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, load_file

from acdc.config.run import RunConfig
from acdc.errors import Diverged
from acdc.methods.contract import Product, Start
from acdc.run.model_store import Shelf, optimizer_name, verified, weights_name
from acdc.run.results import SCHEMA
from acdc.sparsity import flops
from acdc.sparsity.certificate import certify
from acdc.step import Step
from acdc.training.evaluation import dead_filters
from acdc.training.loop import Totals, Trainer


class Records:
    """Describes a run on one rank, and keeps account of its cost and of its models."""

    def __init__(self, config: RunConfig, trainer: Trainer, shelf: Shelf) -> None:
        self.config = config
        self.trainer = trainer
        self.shelf = shelf
        self.dense_flops = flops.dense_flops(trainer.costs)
        self.progress: dict[str, Any] = {
            "train_flops": 0.0,
            "train_flops_published": 0.0,
            "train_s": 0.0,
            "wall_s": 0.0,
            "checkpoint_s": 0.0,
            "attempts": 0,
            "mask_changes": [],
        }
        """What the run has spent so far, part of its checkpoints."""

    def take_up(self, start: Start, folder: Path, result: Mapping[str, Any]) -> int:
        """Take over the weights, and the cost, of another run; return the epoch to begin with.

        Args:
            start: what is taken up.
            folder: of the other run.
            result: its final record.

        Raises:
            Diverged: the other run did.
            RunDirectoryError: a file of it is missing or damaged.
        """
        if result["status"] != "finished":
            raise Diverged(result["diverged_at"], f"{result['run']} diverged")
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

    def summed(self, totals: Totals) -> Totals:
        """Return an epoch's sums over all ranks."""
        ranks = self.trainer.ranks
        loss, correct = totals.loss.clone(), totals.correct.clone()
        ranks.sum([loss, correct])
        return Totals(loss / ranks.count, correct, totals.seconds)

    def end_epoch(self, epoch: int, totals: Totals) -> dict[str, Any]:
        """Evaluate after an epoch, keep its weights where they are the best, and describe it.

        Args:
            epoch: which one.
            totals: its sums over all ranks.

        Raises:
            Diverged: a loss is not finite.
        """
        trainer, progress = self.trainer, self.progress
        step = Step(epoch, trainer.batches - 1, trainer.batches)
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
            **trainer.memorized(),
            "forward_flops": trainer.inference_flops(nonzeros),
            "train_flops": progress["train_flops"],
            "train_flops_published": progress["train_flops_published"],
            "nonzeros": nonzeros,
            "dead_filters": dead_filters(trainer.weights),
            "train_s": round(totals.seconds, 3),
        }

    def keep_untrained(self) -> None:
        """Keep the model of a run with nothing to train: its method worked in its setup."""
        trainer = self.trainer
        step = Step(self.config.epochs - 1, trainer.batches - 1, trainer.batches)
        validation = trainer.score("validation")
        product: Product = trainer.method.product(step) or "sparse"
        kept = trainer.method.kept()
        self.shelf.keep(product, step.epoch, validation, kept, trainer.model, trainer.optimizer)

    def assess_all(self, folder: Path) -> dict[str, Any]:
        """Return the test results of each product's last and best model, published in a folder."""
        products: dict[str, Any] = {}
        for name, last in self.shelf.records["last"].items():
            best = self.shelf.records["best"][name]
            assessed = self.assess(name, "last", folder)
            same = best["epoch"] == last["epoch"]
            products[name] = {
                "last": assessed,
                "best": assessed if same else self.assess(name, "best", folder),
            }
        return products

    def assess(self, product: str, which: str, folder: Path) -> dict[str, Any]:
        """Evaluate one kept model on the test images, and certify the weights that were used."""
        trainer = self.trainer
        kept = self.shelf.records[which][product]
        weights = folder / weights_name(product, which)
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

    def final(self, status: str, wall_s: float) -> dict[str, Any]:
        """Return the parts of the final record that do not depend on how the run ended."""
        images = self.trainer.images_per_epoch * self.config.epochs
        return {
            **identity(self.config, status),
            "flops": {
                "dense_inference": self.dense_flops,
                "dense_training": 3 * self.dense_flops * images,
                "training": self.progress["train_flops"],
                "training_published": self.progress["train_flops_published"],
                "published_formula": self.config.method_class.flops_formula,
            },
            "mask_changes": self.progress["mask_changes"],
            "prunable_weights": sum(cost.weights for cost in self.trainer.costs),
            "timings": {
                "wall_s": round(wall_s, 3),
                "train_s": round(self.progress["train_s"], 3),
                "checkpoint_s": round(self.progress["checkpoint_s"], 3),
                "attempts": self.progress["attempts"],
            },
        }


def identity(config: RunConfig, status: str) -> dict[str, Any]:
    """Return what every result begins with: how a run ended, and which one it is."""
    method = config.method_class
    return {
        "schema": SCHEMA,
        "status": status,
        "run": config.run_name,
        "fingerprint": config.fingerprint,
        "config": config.model_dump(mode="json"),
        "label": method.label,
        "variant": config.settings.variant(),
        "primary": method.products[0],
    }
