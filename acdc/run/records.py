"""The records of a run: of each epoch, of its evaluated models, and of what it cost."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, load_file

from acdc.config.run import RunConfig
from acdc.errors import Diverged
from acdc.frozen import tuples
from acdc.methods.contract import Product
from acdc.methods.rules import checked_product
from acdc.run.model_store import ModelStore, optimizer_name, verified, weights_name
from acdc.run.result import (
    Certificate,
    DivergedResult,
    Evaluation,
    Evaluations,
    FinishedResult,
    MaskChange,
    Timings,
    TrainingFlops,
)
from acdc.sparsity import flops
from acdc.sparsity.certificate import certify
from acdc.step import Step
from acdc.training.evaluation import Score, dead_filters
from acdc.training.loop import Totals
from acdc.training.state import TrainState


@dataclass
class Spent:
    """What a run has spent in all its attempts; part of its checkpoints."""

    train_flops: float = 0.0
    train_flops_published: float = 0.0
    train_s: float = 0.0
    wall_s: float = 0.0
    """Up to the newest checkpoint."""
    checkpoint_s: float = 0.0
    attempts: int = 0
    mask_changes: list[dict[str, Any]] = field(default_factory=list)


def load_start(
    state: TrainState, parent: FinishedResult | DivergedResult, runs: Path, spent: Spent
) -> int:
    """Load the model that a run starts from, and its cost into ``spent``; return the first epoch.

    Raises:
        Diverged: the other run did.
        RunDirectoryError: a file of it is missing or damaged.
    """
    start = state.config.starts_from
    assert start is not None
    if isinstance(parent, DivergedResult):
        raise Diverged(parent.diverged_at, f"{parent.run} diverged")
    folder = runs / parent.run
    weights = verified(folder, weights_name(start.product, start.which), parent.files)
    state.model.load_state_dict(load(weights))
    spent.train_flops = parent.flops.training
    spent.train_flops_published = parent.flops.training_published
    if start.epoch is not None:
        return start.epoch
    content = io.BytesIO(verified(folder, optimizer_name(start.product), parent.files))
    optimizer = torch.load(content, map_location=state.device, weights_only=True)
    state.optimizer.load_state_dict(optimizer)
    evaluations = parent.products[start.product]
    return (evaluations.best if start.which == "best" else evaluations.last).epoch + 1


def validate(state: TrainState, epoch: int) -> Score:
    """Evaluate the weights on the validation images after an epoch.

    Raises:
        Diverged: the loss is not finite. The training loss is measured before each step, so that
            a last step that diverges shows only here.
    """
    score = state.score("validation")
    if not score.finite:
        raise Diverged(epoch, f"the validation loss is {score.loss}")
    return score


def epoch_record(
    state: TrainState, epoch: int, totals: Totals, validation: Score, spent: Spent
) -> dict[str, Any]:
    """Return the journal's record of an epoch, and add what it cost to ``spent``.

    ``state`` is that at its end, ``totals`` are the sums over all ranks.
    """
    step = Step(epoch, state.batches - 1, state.batches)
    densities = state.method.densities()
    nonzeros = state.nonzeros()
    cost = flops.step_flops(state.costs, densities.forward, densities.gradient)
    spent.train_flops += cost * state.samples_per_epoch
    published = state.method.published_flops(state.costs)
    spent.train_flops_published += published * state.samples_per_epoch
    spent.train_s += totals.seconds
    total = sum(cost.weights for cost in state.costs)
    return {
        "epoch": epoch,
        "phase": state.method.phase(step),
        "product": checked_product(state.method, step),
        "learning_rate": state.optimizer.param_groups[0]["lr"],
        "sparsity": 1 - sum(nonzeros.values()) / total,
        "train_loss": float(totals.loss) / state.batches,
        **validation.record("val"),
        **state.task.record(state.model, int(totals.correct), state.samples_per_epoch),
        "forward_flops": state.inference_flops(nonzeros),
        "train_flops": spent.train_flops,
        "train_flops_published": spent.train_flops_published,
        "nonzeros": nonzeros,
        "dead_filters": dead_filters(state.weights),
        "train_s": round(totals.seconds, 3),
    }


def keep_model(
    state: TrainState,
    store: ModelStore,
    epoch: int,
    validation: Score,
    default: Product | None = None,
) -> None:
    """Keep the model at the end of an epoch as its product's last and, if it is, as its best.

    ``default`` is the product if the method names none; without it the model is not kept.
    """
    step = Step(epoch, state.batches - 1, state.batches)
    product = checked_product(state.method, step) or default
    if product is not None:
        kept = state.method.kept()
        store.keep(product, epoch, validation, kept, state.model, state.optimizer)


def evaluate_products(state: TrainState, store: ModelStore, folder: Path) -> dict[str, Evaluations]:
    """Evaluate the last and the best model of each product on the test images."""
    products = {}
    for name, kept in store.records["last"].items():
        last = best = _evaluate(state, name, "last", kept, folder)
        if store.records["best"][name]["epoch"] != kept["epoch"]:
            best = _evaluate(state, name, "best", store.records["best"][name], folder)
        products[name] = Evaluations(last=last, best=best)
    return products


def _evaluate(
    state: TrainState, product: str, which: str, kept: dict[str, Any], folder: Path
) -> Evaluation:
    """Evaluate one model on the test images, and certify the weights that were used."""
    weights = folder / weights_name(product, which)
    state.model.load_state_dict(load_file(weights, device=str(state.device)))
    test = state.score("test")
    if not test.finite:
        raise Diverged(kept["epoch"], f"the test loss is {test.loss}")
    # Counted in the very weights that were just evaluated.
    nonzeros = state.nonzeros()
    certificate = certify(
        state.config.sparsity if product == "sparse" else 0.0,
        tuple(cost for cost in state.costs if cost.weights),
        kept=kept["kept"],
        nonzeros=nonzeros,
        exempt=state.method.exempt,
        tolerance=state.method.sparsity_tolerance,
        dead_filters=dead_filters(state.weights),
    )
    return Evaluation(
        epoch=kept["epoch"],
        **Score(kept["accuracy"], kept["loss"]).record("val"),
        **test.record("test"),
        inference_flops=state.inference_flops(nonzeros),
        certificate=Certificate.model_validate(tuples(certificate)),
    )


def identity(config: RunConfig) -> dict[str, Any]:
    """Return the fields of every result: which run it is of."""
    method = config.method_class
    return {
        "run": config.run_name,
        "fingerprint": config.fingerprint,
        "config": config.plain(),
        "label": method.label,
        "variant": config.settings.variant(),
        "primary": method.products[0],
    }


def trained(
    state: TrainState, spent: Spent, journal_lines: int, wall_s: float, test_s: float = 0.0
) -> dict[str, Any]:
    """Return the fields of the result of a run that has trained, to its end or until it diverged.

    It took ``wall_s`` seconds, ``test_s`` of them for the evaluation on the test images.
    """
    dense = flops.dense_flops(state.costs)
    return identity(state.config) | {
        "flops": TrainingFlops(
            dense_inference=dense,
            dense_training=3 * dense * state.samples_per_epoch * state.config.epochs,
            training=spent.train_flops,
            training_published=spent.train_flops_published,
            published_formula=state.config.method_class.flops_formula,
        ),
        "mask_changes": tuple(MaskChange(**change) for change in spent.mask_changes),
        "prunable_weights": sum(cost.weights for cost in state.costs),
        "timings": Timings(
            wall_s=round(wall_s, 3),
            train_s=round(spent.train_s, 3),
            checkpoint_s=round(spent.checkpoint_s, 3),
            attempts=spent.attempts,
            test_s=round(test_s, 3),
        ),
        "journal_lines": journal_lines,
    }
