"""What Theorem 1's assumptions say of a network in AC/DC training: concentration and curvature."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, Self

import torch
from pydantic import Field, model_validator

from acdc.config.recipe import Recipe
from acdc.config.run import RunConfig
from acdc.data import DATASETS
from acdc.errors import Diverged
from acdc.sparsity.masks import count_zeros
from acdc.training.evaluation import dead_filters
from theory.experiment import Ascending, Count, Fraction, Size, Trials
from theory.network import (
    Point,
    Row,
    Training,
    first_order,
    gaussian_concentration,
    phases_of,
    ratio,
    required,
    second_order,
    train,
)
from theory.noise import stream
from theory.outcome import Outcome
from theory.statistics import Interval, geometric_mean, student_mean

_CURVATURES = {
    "all": "all directions",
    "kept": r"within the support of $T_k(\theta)$",
    "leading": r"$T_k$ of the leading eigenvector",
    "gradient": r"$T_k(\nabla f)$",
    "random": "random $k$-sparse directions",
}
_FIRST = (
    *("n", "alpha", "beta", "gap", "phase", "gradient2"),
    *("on_kept", "dead_filters", "sparse_to_all"),
)
_BY_COUNT = ("cpl", "gaussian", "layerwise", "alpha", "asked")


class Settings(Training):
    """AC/DC training of a network, measured after every epoch, curvature after every phase."""

    trials: Trials = Field(3, description="Number of consecutive seeds of training.")
    model: str = Field("resnet8_bottleneck_s8", description="Network architecture.")
    dataset: str = Field("fashion_mnist_1k", description="Data set.")
    epochs: Count = Field(40, description="Passes over the training images.")
    sparsity: Fraction = 0.9
    """Sparsity of the sparse phases; k is the number of kept weights."""
    recipe: Recipe = Recipe(
        lr=0.2, momentum=0.9, weight_decay=2e-3, batch_size=128, augmentation="shift"
    )
    """Training recipe."""
    images: Size = Field(64, description="Training images over which f is the mean loss.")
    shares: Annotated[tuple[Fraction, ...], Ascending] = (0.01, 0.05)
    """Fractions of the weights for k in ||T_k(grad f)||, beside the kept fraction."""
    directions: Count = Field(1, description="Random sparse directions for each mean curvature.")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        config = self.config(self.model, self.sparsity, self.seed)
        known = DATASETS[self.dataset].training_samples
        self.require(self.images <= known, "images", f"at most {known}")
        total = sum(layer.size for layer in config.layers.values())
        numbers = [*(_count(share, total) for share in self.shares), kept(config)]
        self.require(
            len({_percent(number, total) for number in numbers}) == len(numbers),
            "shares",
            "fractions that differ from each other and from the kept one",
        )
        self.require(kept(config) >= 2, "sparsity", "less, such that at least two weights are kept")
        return self


def _count(share: float, total: int) -> int:
    return max(1, round(share * total))


def kept(config: RunConfig) -> int:
    """Return k, the number of weights that a sparse phase keeps."""
    total = sum(layer.size for layer in config.layers.values())
    return total - count_zeros(config.sparsity, total)


def run(settings: Settings) -> Outcome:
    """Train with each seed and measure on the way."""
    outcome = Outcome("bridge", settings)
    configs = [
        settings.config(settings.model, settings.sparsity, seed)
        for seed in range(settings.seed, settings.seed + settings.trials)
    ]
    config = configs[0]
    total = sum(layer.size for layer in config.layers.values())
    counts = {f"{share:g}": _count(share, total) for share in settings.shares}
    counts["kept"] = kept(config)
    for each in configs:
        outcome.trials += _train_and_measure(settings, each, counts)
    _draw(outcome, config, counts, total)
    judge(outcome, counts, total)
    return outcome


def _train_and_measure(
    settings: Settings, config: RunConfig, counts: Mapping[str, int]
) -> list[Row]:
    """Train with one seed, and return a row for each epoch."""
    generator = stream(config.seed, "bridge")
    images = DATASETS[config.dataset].training_samples
    chosen = torch.randperm(images, generator=stream(settings.seed, "bridge", "images"))
    ends = {phase.end for phase in phases_of(config)}
    about = {"family": config.model, "k": counts["kept"], "sigma": None, "seed": config.seed}
    columns = [f"{kind}_{name}" for kind in _BY_COUNT for name in counts]
    columns += [f"curvature_{name}" for name in _CURVATURES]
    rows: list[Row] = []

    def add(epochs: int, status: str, found: Row) -> None:
        empty = dict.fromkeys([*_FIRST, *columns], math.nan)
        rows.append(empty | about | {"iterations": epochs, "status": status} | found)

    try:
        for epoch, trainer in train(config):
            point = Point(trainer, chosen[: settings.images], epoch)
            found = first_order(point, counts, generator)
            if epoch in ends:
                found |= second_order(point, counts, found, settings.directions, generator)
            phase = "sparse" if trainer.method.masks else "dense"
            dead = dead_filters(trainer.weights)
            add(epoch, "finished", {"phase": phase, "dead_filters": dead, **found})
    except Diverged as error:
        add(error.epoch + 1, "diverged", {"phase": None})
    return rows


def _percent(count: int, total: int) -> str:
    return rf"$k/N={100 * count / total:.2g}\,\%$"


def _draw(outcome: Outcome, config: RunConfig, counts: Mapping[str, int], total: int) -> None:
    rows = [row for row in outcome.trials if row["status"] == "finished"]

    def line(panel: str, label: str, column: str) -> None:
        for epochs in sorted({row["iterations"] for row in rows}):
            each = [row[column] for row in rows if row["iterations"] == epochs]
            each = [value for value in each if not math.isnan(value)]
            if each:
                y = sum(each) / len(each)
                outcome.draw(panel, label, "measured", epochs, y, min(each), max(each))

    def level(panel: str, label: str, y: float) -> None:
        for epochs in (1, config.epochs):
            outcome.draw(panel, label, "bound", epochs, y)

    labels = {name: _percent(count, total) for name, count in counts.items()}
    for name, label in labels.items():
        line("cpl", label, f"cpl_{name}")
        level("cpl", f"Gaussian vector, {label}", gaussian_concentration(counts[name] / total))
    for name, label in labels.items():
        line("alpha", label, f"alpha_{name}")
    for name, label in _CURVATURES.items():
        line("smoothness", label, f"curvature_{name}")
    for name, label in labels.items():
        line("condition", label.replace("k", r"k^\ast"), f"asked_{name}")
    level("condition", "$k=N$", 1.0)
    for panel in ("cpl", "alpha", "smoothness", "condition"):
        for phase in phases_of(config):
            if phase.kind == "sparse":
                outcome.draw(panel, "sparse phase", "phase", phase.start, phase.end)


def _measured(rows: Sequence[Row], at: str) -> list[list[Row]]:
    """Return the rows of each seed in which a column was measured."""
    seeds = sorted({row["seed"] for row in rows})
    return [[r for r in rows if r["seed"] == seed and not math.isnan(r[at])] for seed in seeds]


def _means(
    rows: Sequence[Row], value: Callable[[Row], float], phases: Sequence[str], at: str = "gap"
) -> tuple[list[float], int]:
    """Return each seed's mean over epochs of these phases, and the number of excluded epochs.

    Args:
        rows: of all seeds.
        value: of an epoch, NaN where its denominator is 0: such epochs are excluded.
        phases: to average over; the mean is NaN where a seed has none.
        at: column that tells in which epochs there was a measurement.
    """
    found, excluded = [], 0
    for mine in _measured(rows, at):
        values = [value(row) for row in mine if row["phase"] in phases]
        known = [each for each in values if not math.isnan(each)]
        found.append(sum(known) / len(known) if known else math.nan)
        excluded += len(values) - len(known)
    return found, excluded


def judge(outcome: Outcome, counts: Mapping[str, int], total: int) -> None:
    """Judge the claims by the rows of all seeds."""
    rows = outcome.trials
    seeds = len({row["seed"] for row in rows})
    diverged = sum(row["status"] == "diverged" for row in rows)
    share = _percent(counts["kept"], total)

    def state(id: str, measured: Interval, excluded: int, **words: object) -> None:
        left_out = f" Left out: {excluded} epochs in which a denominator was not above 0."
        words |= {"seeds": seeds, "share": share}
        words["left_out"] = left_out if excluded else ""
        outcome.state(id, measured, seeds, diverged, words)

    def over(top: str, bottom: str) -> Callable[[Row], float]:
        return lambda row: ratio(row[top], row[bottom])

    kinds = ("dense", "sparse")
    for kind in kinds:
        ratios, excluded = _means(rows, over("cpl_kept", "gaussian_kept"), (kind,))
        state("concentration_%(kind)s", geometric_mean(ratios), excluded, kind=kind)
    ratios, excluded = _means(rows, over("cpl_kept", "layerwise_kept"), kinds)
    state("concentration_beyond_layers", geometric_mean(ratios), excluded)
    (dense, first), (sparse, second) = (
        _means(rows, lambda row: float(row["cpl_kept"]), (kind,)) for kind in kinds
    )
    differences = [a - b for a, b in zip(dense, sparse, strict=True)]
    state("phases_alike", student_mean(differences), first + second)
    ratios, excluded = _means(rows, lambda row: float(row["sparse_to_all"]), kinds, "curvature_all")
    directions = ", ".join(label for name, label in _CURVATURES.items() if name != "all")
    state("sparse_smoothness", geometric_mean(ratios), excluded, directions=directions)
    least, excluded = _least_required(rows, counts)
    worst = ", ".join(_worst_required(rows, counts, total))
    state("condition", geometric_mean(least), excluded, worst=worst)


def _least_required(rows: Sequence[Row], counts: Mapping[str, int]) -> tuple[list[float], int]:
    """Return the least k over N that each seed's epochs require, and the unknown epochs."""
    least, unknown = [], 0
    for measured in _measured(rows, "curvature_all"):
        mine = [[row[f"asked_{name}"] for name in counts] for row in measured]
        known = [each for row in mine for each in row if not math.isnan(each)]
        least.append(min(known, default=math.nan))
        unknown += sum(all(map(math.isnan, row)) for row in mine)
    return least, unknown


def _worst_required(rows: Sequence[Row], counts: Mapping[str, int], total: int) -> Iterator[str]:
    """Yield the k over N that the least alpha and the largest beta of all epochs would require."""
    for name, count in counts.items():
        alphas = [row[f"alpha_{name}"] for row in rows if row[f"alpha_{name}"] > 0]
        betas = [row["beta"] for row in rows if row["beta"] > 0]
        found = required(min(alphas, default=math.nan), max(betas, default=math.nan), count)
        yield f"{found / total:.1e} at {_percent(count, total)}"
