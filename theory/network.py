"""Gradient concentration and curvature of a network during AC/DC training."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from acdc.config.recipe import Recipe
from acdc.config.run import RunConfig, parse_run
from acdc.distributed import Ranks
from acdc.errors import Diverged
from acdc.methods import acdc
from acdc.methods.phases import Phase
from acdc.sparsity.layers import prunable_weights
from acdc.sparsity.selection import top_k_rows
from acdc.step import Step
from acdc.training import loop
from acdc.training.state import Engine, TrainState
from theory import experiment
from theory.curvature import Hessian, flat, largest_curvature, random_direction
from theory.experiment import Count, Seed
from theory.iht import hard_threshold
from theory.rates import Theorem1

Row = dict[str, Any]


class Training(experiment.Settings):
    """Settings that all of an experiment's runs of AC/DC have in common."""

    seed: Seed = Field(1, description="First seed of training, and of the random vectors.")
    dataset: str
    epochs: Count
    schedule: str = Field(
        "imagenet-100", description="Published schedule, its phases scaled to the epochs."
    )
    recipe: Recipe

    def config(self, model: str, sparsity: float, seed: int) -> RunConfig:
        """Return a run.

        Raises:
            ConfigError: there is no such run.
        """
        data = self.model_dump(include={"dataset", "epochs", "recipe"})
        data |= {"model": model, "sparsity": sparsity, "seed": seed}
        return parse_run({"method": "acdc", "settings": {"schedule": self.schedule}, **data})


def phases_of(config: RunConfig) -> tuple[Phase, ...]:
    """Return the phases of a run of AC/DC."""
    assert isinstance(config.settings, acdc.Settings)
    return config.settings.resolve(config.epochs)


def train(
    config: RunConfig, epochs: int = 0, saved: Mapping[str, Any] | None = None
) -> Iterator[tuple[int, TrainState]]:
    """Train a run, and yield the number of epochs and the training state after each epoch.

    Args:
        config: of the run.
        epochs: how many it has been trained already.
        saved: what its state's ``state_dict`` returned then; None: nothing, of a new run.

    Raises:
        Diverged: a loss is not finite.
    """
    state = TrainState(config, Engine(), Ranks())
    try:
        state.begin()
        if saved is not None:
            state.load_state_dict(saved)
        for epoch in range(epochs, config.epochs):
            start = Step(epoch, 0, state.batches)
            loop.train(state, loop.Callbacks(), start, end=epoch + 1)
            yield epoch + 1, state
    finally:
        state.loader.close()


class Point:
    """The loss f at a state's current weights, its gradient and its Hessian.

    f is the mean cross entropy over fixed training images without augmentation, as a function of
    the prunable weights; it excludes weight decay, and the other parameters are constants. Batch
    normalisation uses the statistics of these images, as training uses those of a batch, so that f
    depends on the weights alone and not on running averages. Everything is computed on a copy of
    the network: training does not change.

    Raises:
        Diverged: f is not finite.
    """

    def __init__(self, trainer: TrainState, chosen: Tensor, epoch: int) -> None:
        # The double backward pass of convolutions is many times slower in channels-last.
        model = copy.deepcopy(trainer.model).to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        weights = list(prunable_weights(model.train()).values())
        inputs, labels = trainer.loader.samples(chosen)
        with trainer.seeded("gradient_samples", epoch):
            loss = nn.functional.cross_entropy(model(inputs.contiguous()), labels)
        self.loss = float(loss.detach())
        if not math.isfinite(self.loss):
            raise Diverged(epoch - 1, f"the loss is {self.loss}")
        self.hessian = Hessian(loss, weights)
        self.gradient = self.hessian.gradient
        self.weights = flat(weights)
        self.sizes = [weight.numel() for weight in weights]

    @cached_property
    def norm2(self) -> float:
        """Return ||grad f||^2."""
        return float(self.gradient.square().sum())

    def kept(self, k: int) -> Tensor:
        """Return the support of T_k(theta), a mask (N,); in a sparse phase that of theta."""
        return top_k_rows(self.weights, k, magnitudes=True)

    def layerwise(self, generator: torch.Generator) -> Tensor:
        """Draw a vector (N,), Gaussian in each layer, with the norms of the layers' gradients."""
        drawn = torch.randn(len(self.gradient), dtype=torch.float64, generator=generator)
        parts = zip(
            drawn.split_with_sizes(self.sizes),
            self.gradient.split_with_sizes(self.sizes),
            strict=True,
        )
        return torch.cat([part / part.norm() * layer.norm() for part, layer in parts])


def ratio(top: float, bottom: float) -> float:
    """Return a ratio, NaN where the denominator is not positive."""
    return top / bottom if bottom > 0.0 else math.nan


def concentration(vector: Tensor, k: int) -> float:
    """Return ||T_k(v)||^2 / ||v||^2 of a vector (N,), NaN if it is 0."""
    squares = vector.square()
    return ratio(float(squares.topk(k).values.sum()), float(squares.sum()))


def gaussian_concentration(share: float) -> float:
    """Return the limit of ||T_k(v)||^2 / ||v||^2 for Gaussian v and k = share N, as N grows.

    share + 2 z phi(z), where a standard normal number exceeds z in magnitude with probability
    ``share``.
    """
    from scipy.stats import norm

    z = norm.isf(share / 2)
    return float(share + 2.0 * z * norm.pdf(z))


def first_order(point: Point, counts: Mapping[str, int], generator: torch.Generator) -> Row:
    """Measure the concentration of the gradient and of random vectors, for each k in counts."""
    layerwise = point.layerwise(generator)
    n = len(point.gradient)
    found: Row = {"n": n, "gap": point.loss, "gradient2": point.norm2}
    on_kept = point.gradient[point.kept(counts["kept"])].square().sum()
    found["on_kept"] = ratio(float(on_kept), point.norm2)
    for name, count in counts.items():
        part = concentration(point.gradient, count)
        found[f"cpl_{name}"] = part
        found[f"gaussian_{name}"] = gaussian_concentration(count / n)
        found[f"layerwise_{name}"] = concentration(layerwise, count)
        found[f"alpha_{name}"] = ratio(2.0 * part * point.norm2, point.loss)
    return found | {"alpha": found["alpha_kept"]}


def second_order(
    point: Point,
    counts: Mapping[str, int],
    first: Row,
    directions: int,
    generator: torch.Generator,
) -> Row:
    """Measure curvature, and the k over N that Theorem 1 would require with it.

    ``first`` is what `first_order` has measured there.
    """
    k, hessian, n = counts["kept"], point.hessian, len(point.gradient)
    everywhere = torch.ones(n, dtype=torch.bool)
    whole, leading = largest_curvature(hessian, everywhere, generator)
    drawn = [hessian.along(random_direction(n, k, generator)) for _ in range(directions)]
    sparse = {
        "kept": largest_curvature(hessian, point.kept(k), generator)[0],
        "leading": hessian.along(hard_threshold(leading, k)),
        "gradient": hessian.along(hard_threshold(point.gradient, k)),
    }
    # A gradient of 0 has no direction, and so no curvature.
    beta = max(each for each in (*sparse.values(), *drawn) if not math.isnan(each))
    found = {"all": whole, **sparse, "random": sum(drawn) / directions}
    row: Row = {f"curvature_{name}": value for name, value in found.items()}
    row |= {"beta": beta, "sparse_to_all": ratio(beta, whole)}
    for name, count in counts.items():
        row[f"asked_{name}"] = required(first[f"alpha_{name}"], beta, count) / n
    return row


def required(alpha: float, beta: float, k_star: int) -> float:
    """Return the least k of Theorem 1, NaN where a constant is not positive."""
    positive = alpha > 0.0 and beta > 0.0
    return float(Theorem1(alpha, beta, k_star).enough) if positive else math.nan
