"""Dead filters at AC/DC's first restore: their gradients, by the eps of batch normalisation."""

from __future__ import annotations

import copy
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from operator import itemgetter
from typing import Annotated, Any, NamedTuple, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from acdc.config.recipe import Recipe
from acdc.config.run import RunConfig
from acdc.errors import Diverged
from acdc.models import MODELS
from acdc.sparsity.layers import prunable_weights
from acdc.training import loop
from acdc.training.state import TrainState
from theory.experiment import Ascending, Count, Factors, Fraction, Several, Trials
from theory.measures import geometric
from theory.network import Row, Training, phases_of, ratio, train
from theory.outcome import Outcome
from theory.statistics import geometric_mean, student_mean

_COUNTS = ("dead", "live", "dead_reached", "live_reached")
_NUMBERS = (
    *("dead_median", "dead_max", "live_median", "live_max"),
    *("ratio", "jump", "exponent", "exponent_max"),
)
_UNKNOWN: Row = dict.fromkeys(_COUNTS) | dict.fromkeys(_NUMBERS, math.nan)
_LINES = {"dead_max": "dead, largest", "dead_median": "dead, median", "live_median": "live, median"}

Saved = tuple[int, Mapping[str, Any] | None]


class Settings(Training):
    """AC/DC training up to the first restore, and the gradient of the first batch after it."""

    trials: Trials = Field(6, description="Number of consecutive seeds of training.")
    models: Annotated[tuple[str, ...], Several, Ascending] = Field(
        ("resnet6_w32_s8", "resnet8_bottleneck_s8"), description="Network architectures."
    )
    dataset: str = Field("fashion_mnist_1k", description="Data set.")
    epochs: Count = Field(60, description="Length of the run whose beginning is trained.")
    sparsities: Annotated[tuple[Fraction, ...], Several, Ascending] = (0.9, 0.95, 0.98)
    """Sparsities of the first sparse phase."""
    recipe: Recipe = Recipe(
        lr=0.2, momentum=0.9, weight_decay=2e-3, batch_size=128, augmentation="shift"
    )
    """Training recipe; each network trains with the eps that it has (1e-3 and 1e-5)."""
    eps: Factors = Field(
        (1e-5, 1e-4, 1e-3, 1e-2), description="Of all batch normalisations, for the gradient."
    )

    @model_validator(mode="after")
    def _fits(self) -> Self:
        self.require(set(self.models) <= set(MODELS), "models", ", ".join(MODELS))
        self.require(len(self.eps) > 1, "eps", "at least two values, between which to compare")
        for model in self.models:
            for sparsity in self.sparsities:
                self.config(model, sparsity, self.seed)
        return self


def run(settings: Settings) -> Outcome:
    """Train each network with each seed, and measure at the first restore of each sparsity."""
    outcome = Outcome("restore", settings)
    for model in settings.models:
        for seed in range(settings.seed, settings.seed + settings.trials):
            outcome.trials += _train_and_measure(settings, model, seed)
        _draw(outcome, settings, model)
        _judge(outcome, settings, model)
    return outcome


def _train_and_measure(settings: Settings, model: str, seed: int) -> list[Row]:
    """Return a row for each sparsity and eps.

    Before the first pruning the runs of a seed are the same, and are trained once.
    """
    rows: list[Row] = []
    saved: Saved = (0, None)
    for sparsity in settings.sparsities:
        about: Row = {"family": model, "sigma": None, "seed": seed, "sparsity": sparsity}
        try:
            found, saved = at_restore(settings.config(model, sparsity, seed), settings.eps, saved)
        except Diverged as error:
            lost: Row = {"iterations": error.epoch + 1, "status": "diverged"}
            found = [lost | {"eps": eps} | _UNKNOWN for eps in settings.eps]
        rows += [about | row for row in found]
    return rows


def at_restore(
    config: RunConfig, eps: Sequence[float], saved: Saved = (0, None)
) -> tuple[list[Row], Saved]:
    """Train up to the first restore, and measure its first batch with each eps.

    Args:
        config: of a run of AC/DC.
        eps: of batch normalisation, for the gradient alone.
        saved: the epochs trained already, and the state then.

    Returns:
        A row for each eps, and the epochs and the state before the first pruning.

    Raises:
        Diverged: a loss is not finite.
    """
    dense, sparse, *_ = phases_of(config)
    for epochs, state in train(config, *saved):
        if epochs == dense.end:
            saved = epochs, copy.deepcopy(state.state_dict())
        if epochs == sparse.end:
            loop.begin_epoch(state, epochs)
            return measure(state, epochs, eps), saved
    raise AssertionError("a schedule has a dense phase after a sparse one")


class Filters(NamedTuple):
    """The filters of all convolutions of a network, (filters,) each."""

    dead: Tensor
    """Whether all weights of a filter are zero."""
    weight: Tensor
    """Norms of the weights."""
    gradient: Tensor
    """Norms of the gradients."""


def filters_at(model: nn.Module, loss: Callable[[nn.Module], Tensor], eps: float) -> Filters:
    """Return a network's filters, with the gradient that batch normalisation gives them with eps.

    It is that of the loss, a function of the network, in training mode; computed on a copy.
    """
    model = copy.deepcopy(model).train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = eps
    weights = [weight for weight in prunable_weights(model).values() if weight.dim() == 4]
    gradients = torch.autograd.grad(loss(model), weights)
    norms = [
        torch.cat([part.detach().flatten(1).norm(dim=1) for part in parts])
        for parts in (weights, gradients)
    ]
    return Filters(norms[0] == 0.0, *norms)


def measure(state: TrainState, epochs: int, eps: Sequence[float]) -> list[Row]:
    """Return a row for each eps, of the gradient of an epoch's first batch."""
    inputs, labels = next(iter(state.loader.training(epochs, 0)))
    rate = state.optimizer.param_groups[0]["lr"]
    each = [
        filters_at(state.model, lambda model: state.task.forward(model, inputs, labels).loss, e)
        for e in eps
    ]
    rows: list[Row] = []
    for value, filters in zip(eps, each, strict=True):
        about: Row = {"iterations": epochs, "status": "finished", "eps": value}
        row = about | _UNKNOWN | summary(filters)
        usual = float(filters.weight[~filters.dead].median())
        row["ratio"] = ratio(row["dead_median"], row["live_median"])
        rows.append(row | {"jump": rate * ratio(row["dead_max"], usual)})
    for row, one, other, after in zip(rows, each, each[1:], eps[1:], strict=False):
        reached = one.dead & (one.gradient > 0.0) & (other.gradient > 0.0)
        if reached.any():
            change = (other.gradient / one.gradient)[reached].log()
            exponents = change / math.log(after / row["eps"])
            largest = exponents[one.gradient[reached].argmax()]
            row |= {"exponent": float(exponents.median()), "exponent_max": float(largest)}
    return rows


def summary(filters: Filters) -> Row:
    """Return how many filters are dead and live, and the gradients of those that have one."""
    row: Row = {}
    for name, kind in (("dead", filters.dead), ("live", ~filters.dead)):
        reached = filters.gradient[kind & (filters.gradient > 0.0)]
        row |= {name: int(kind.sum()), f"{name}_reached": len(reached)}
        if len(reached):
            row |= {f"{name}_median": float(reached.median()), f"{name}_max": float(reached.max())}
    return row


def _known(outcome: Outcome, column: str, **where: object) -> list[float]:
    """Return the numbers of a column, in the rows that have these values in other columns."""
    rows = (row for row in outcome.trials if all(row[key] == where[key] for key in where))
    return [row[column] for row in rows if not math.isnan(row[column])]


def _draw(outcome: Outcome, settings: Settings, model: str) -> None:
    """Draw each sparsity's lines, and the predicted power from the first median of the dead."""
    first = settings.eps[0]
    for sparsity in settings.sparsities:
        panel, where = f"{model}_{sparsity:g}", {"family": model, "sparsity": sparsity}
        for column, label in _LINES.items():
            for eps in settings.eps:
                if values := _known(outcome, column, eps=eps, **where):
                    outcome.draw_range(panel, label, eps, torch.tensor(values))
        if values := _known(outcome, "dead_median", eps=first, **where):
            start = geometric(torch.tensor(values))
            for eps in settings.eps:
                y = start * math.sqrt(first / eps)
                outcome.draw(panel, r"$\propto 1/\sqrt{\varepsilon}$", "bound", eps, y)


def _scientific(value: float) -> str:
    """Return a number as LaTeX."""
    factor, exponent = f"{value:e}".split("e")
    power = f"10^{{{int(exponent)}}}"
    return power if float(factor) == 1.0 else rf"{float(factor):g}\cdot {power}"


def _judge(outcome: Outcome, settings: Settings, model: str) -> None:
    """Judge the claims about a network by one number of each seed."""
    first, second, last = settings.eps[0], settings.eps[1], settings.eps[-1]
    seeds = range(settings.seed, settings.seed + settings.trials)
    mine = [row for row in outcome.trials if row["family"] == model]
    diverged = len({row["seed"] for row in mine if row["status"] == "diverged"})
    named = {"first": first, "second": second, "last": last}
    words = {"model": model} | {name: _scientific(eps) for name, eps in named.items()}

    def of_seeds(eps: float) -> list[list[Row]]:
        """Return each seed's rows, those of sparsities at which a dead filter has a gradient."""
        rows = [row for row in mine if row["eps"] == eps and row["dead_reached"]]
        return [[row for row in rows if row["seed"] == seed] for seed in seeds]

    def middle(column: str) -> list[float]:
        every = ([row[column] for row in rows] for rows in of_seeds(first))
        return [statistics.median(each) if each else math.nan for each in every]

    def worst(column: str, eps: float) -> list[float]:
        each = (max(rows, key=itemgetter("dead_max"), default=_UNKNOWN) for rows in of_seeds(eps))
        return [row[column] for row in each]

    for id, measured in {
        "square_root": student_mean([abs(each + 0.5) for each in middle("exponent")]),
        "inverse": student_mean([abs(each + 1.0) for each in worst("exponent_max", first)]),
        "larger": geometric_mean(middle("ratio")),
        "jump": geometric_mean(worst("jump", first)),
        "no_jump": geometric_mean(worst("jump", last)),
    }.items():
        outcome.state(f"{id}_%(model)s", measured, settings.trials, diverged, words)
