"""What Theorem 1's assumptions say of a network in AC/DC training: concentration and curvature."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Annotated, Any, Self

import torch
from pydantic import AfterValidator, Field, model_validator
from torch import Tensor, nn

from acdc.config.recipe import Recipe
from acdc.config.run import RunConfig, parse_run
from acdc.data import DATASETS
from acdc.distributed import Ranks
from acdc.errors import Diverged
from acdc.methods import acdc
from acdc.methods.phases import Phase
from acdc.sparsity.layers import prunable_weights
from acdc.sparsity.masks import count_zeros
from acdc.sparsity.selection import top_k_rows
from acdc.training.evaluation import dead_filters
from acdc.training.loop import Engine, Totals, Trainer
from theory import experiment
from theory.curvature import Hessian, flat, largest_curvature, random_direction
from theory.experiment import Outcome
from theory.iht import hard_threshold
from theory.noise import stream
from theory.rates import Theorem1
from theory.statistics import Statement, geometric_mean, student_mean

_CURVATURES = {
    "all": "all directions",
    "kept": r"within the support of $T_k(\theta)$",
    "leading": r"$T_k$ of the leading eigenvector",
    "gradient": r"$T_k(\nabla f)$",
    "random": "random $k$-sparse directions",
}
_FIRST = (
    "n",
    "alpha",
    "beta",
    "gap",
    "phase",
    "gradient2",
    "on_kept",
    "dead_filters",
    "sparse_to_all",
)
_BY_COUNT = ("cpl", "gaussian", "layerwise", "alpha", "asked")
# How far from 0 the difference of two shares may be for them to be alike.
_ALIKE = 0.05

Row = dict[str, Any]
Share = Annotated[float, Field(gt=0, lt=1)]


class Settings(experiment.Settings):
    """AC/DC training of a network, measured after every epoch, curvature after every phase."""

    seed: int = Field(default=1, ge=0)
    """The first seed of training, and of the random vectors."""
    trials: int = Field(default=3, ge=2)
    """Seeds of training, one after the other."""
    model: str = "resnet8_bottleneck_s8"
    """Network architecture."""
    dataset: str = "fashion_mnist_1k"
    """Data set."""
    epochs: int = Field(default=40, ge=1)
    """Passes over the training images."""
    sparsity: float = Field(default=0.9, gt=0, lt=1)
    """Of the sparse phases; k is the number of weights that are kept."""
    schedule: str = "imagenet-100"
    """A published schedule, its phases scaled to the epochs."""
    recipe: Recipe = Recipe(
        lr=0.2, momentum=0.9, weight_decay=2e-3, batch_size=128, augmentation="shift"
    )
    """How the network is trained."""
    images: int = Field(default=64, ge=2)
    """Training images over which f is the mean loss, the same for all seeds and epochs."""
    shares: Annotated[tuple[Share, ...], AfterValidator(experiment.ascending)] = (0.01, 0.05)
    """Parts of the weights, beside the part that is kept, for k in ||T_k(grad f)||."""
    directions: int = Field(default=1, ge=1)
    """Random sparse directions for each mean curvature."""

    @model_validator(mode="after")
    def _can_be_carried_out(self) -> Self:
        config = self.config(self.seed)
        known = DATASETS[self.dataset].training_images
        self.require(self.images <= known, "images", f"at most {known}")
        total = sum(layer.size for layer in config.layers.values())
        numbers = [*(_count(share, total) for share in self.shares), kept(config)]
        self.require(
            len({_percent(number, total) for number in numbers}) == len(numbers),
            "shares",
            "parts that differ from each other and from the part that is kept",
        )
        self.require(kept(config) >= 2, "sparsity", "less, such that two weights or more are kept,")
        return self

    def config(self, seed: int) -> RunConfig:
        """Return the run of a seed.

        Raises:
            ConfigError: there is no such run.
        """
        return parse_run(
            {
                "method": "acdc",
                "settings": {"schedule": self.schedule},
                "seed": seed,
                **{key: getattr(self, key) for key in ("model", "dataset", "epochs", "sparsity")},
                "recipe": self.recipe,
            }
        )


def _count(share: float, total: int) -> int:
    return max(1, round(share * total))


def kept(config: RunConfig) -> int:
    """Return k, the number of weights that a sparse phase keeps."""
    total = sum(layer.size for layer in config.layers.values())
    return total - count_zeros(config.sparsity, total)


def train(config: RunConfig) -> Iterator[tuple[int, Trainer]]:
    """Train a run, and yield after each epoch how many are behind it, and the trainer.

    Raises:
        Diverged: a loss is not finite.
    """
    trainer = Trainer(config, Engine(), Ranks())
    try:
        trainer.begin()
        for epoch in range(config.epochs):
            totals = Totals.zero(trainer.device)
            trainer.begin_epoch(epoch)
            trainer.train(epoch, 0, totals, lambda step: None)
            totals.check(epoch)
            yield epoch + 1, trainer
    finally:
        trainer.loader.close()


class Point:
    """f at the weights that a trainer has now, its gradient and its Hessian.

    f is the mean cross entropy over fixed training images, not augmented, as a function of the
    prunable weights; weight decay is left out, and the other parameters stay as they are. Batch
    normalisation uses the statistics of these images, as training uses those of a batch: f is then
    a function of the weights alone, where running averages would make it another one after every
    step. All is computed on a copy of the network, so that training goes on as if nobody had
    looked.

    Raises:
        Diverged: f is not finite.
    """

    def __init__(self, trainer: Trainer, chosen: Tensor, epoch: int) -> None:
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
        """||grad f||^2."""
        return float(self.gradient.square().sum())

    def kept(self, k: int) -> Tensor:
        """Return the support of T_k(theta), a mask (N,): in a sparse phase that of theta."""
        return top_k_rows(self.weights, k, magnitudes=True)

    def layerwise(self, generator: torch.Generator) -> Tensor:
        """Draw a Gaussian vector whose parts have the norms of the layers' gradients, (N,)."""
        drawn = torch.randn(len(self.gradient), dtype=torch.float64, generator=generator)
        parts = zip(
            drawn.split_with_sizes(self.sizes),
            self.gradient.split_with_sizes(self.sizes),
            strict=True,
        )
        return torch.cat([part / part.norm() * layer.norm() for part, layer in parts])


def ratio(top: float, bottom: float) -> float:
    """Return a ratio to a quantity that is above 0, NaN where it is not."""
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


def run(settings: Settings) -> Outcome:
    """Train with each seed and measure on the way."""
    outcome = Outcome()
    config = settings.config(settings.seed)
    total = sum(layer.size for layer in config.layers.values())
    k = kept(config)
    counts = {f"{share:g}": _count(share, total) for share in settings.shares}
    counts["kept"] = k
    for seed in range(settings.seed, settings.seed + settings.trials):
        outcome.trials += _train_and_measure(settings, settings.config(seed), counts)
    _draw(outcome, config, counts, total)
    outcome.statements = _statements(outcome.trials, settings, counts, total)
    return outcome


def _train_and_measure(
    settings: Settings, config: RunConfig, counts: Mapping[str, int]
) -> list[Row]:
    """Return a row for each epoch of a seed."""
    generator = stream(config.seed, "bridge")
    images = DATASETS[config.dataset].training_images
    chosen = torch.randperm(images, generator=stream(settings.seed, "bridge", "images"))
    ends = {phase.end for phase in _phases(config)}
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
                found |= second_order(point, counts, settings.directions, generator)
            phase = "sparse" if trainer.method.masks else "dense"
            dead = dead_filters(trainer.weights)
            add(epoch, "finished", {"phase": phase, "dead_filters": dead, **found})
    except Diverged as error:
        add(error.epoch + 1, "diverged", {"phase": None})
    return rows


def first_order(point: Point, counts: Mapping[str, int], generator: torch.Generator) -> Row:
    """Measure the concentration of the gradient beside that of random vectors."""
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
    point: Point, counts: Mapping[str, int], directions: int, generator: torch.Generator
) -> Row:
    """Measure curvature, and what Theorem 1 would ask for with it."""
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
        part = concentration(point.gradient, count)
        alpha = ratio(2.0 * part * point.norm2, point.loss)
        row[f"asked_{name}"] = _asked(alpha, beta, count) / n
    return row


def _asked(alpha: float, beta: float, k_star: int) -> float:
    """Return the k from which on Theorem 1 speaks, NaN where a constant is not above 0."""
    positive = alpha > 0.0 and beta > 0.0
    return float(Theorem1(alpha, beta, k_star).enough) if positive else math.nan


def _phases(config: RunConfig) -> tuple[Phase, ...]:
    assert isinstance(config.settings, acdc.Settings)
    return config.settings.resolve(config.epochs)


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
        for phase in _phases(config):
            if phase.kind == "sparse":
                outcome.draw(panel, "sparse phase", "phase", phase.start, phase.end)


class _Seeds:
    """What each seed's epochs come to."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = rows
        self.seeds = sorted({row["seed"] for row in rows})

    def measured(self, seed: int, at: str) -> list[Row]:
        """Return the epochs of a seed in which a column was measured."""
        return [row for row in self.rows if row["seed"] == seed and not math.isnan(row[at])]

    def means(
        self, value: Callable[[Row], float], phases: Sequence[str], at: str = "gap"
    ) -> tuple[list[float], int]:
        """Return each seed's mean over epochs of these phases, and how many epochs are left out.

        Args:
            value: of an epoch, NaN where its denominator is 0: such epochs are left out.
            phases: of which the mean is taken; where a seed has none, the mean is NaN.
            at: the column that says in which epochs there was a measurement at all.
        """
        found, left_out = [], 0
        for seed in self.seeds:
            mine = [value(row) for row in self.measured(seed, at) if row["phase"] in phases]
            there = [each for each in mine if not math.isnan(each)]
            found.append(sum(there) / len(there) if there else math.nan)
            left_out += len(mine) - len(there)
        return found, left_out


def _left_out(count: int) -> str:
    return f" Left out: {count} epochs in which a denominator was not above 0." if count else ""


def _statements(
    rows: Sequence[Row], settings: Settings, counts: Mapping[str, int], total: int
) -> list[Statement]:
    runs = _Seeds(rows)

    def over(top: str, bottom: str) -> Callable[[Row], float]:
        return lambda row: ratio(row[top], row[bottom])

    diverged = sum(row["status"] == "diverged" for row in rows)
    rest: dict[str, Any] = {"trials": len(runs.seeds), "diverged": diverged}
    few = f"Student's interval over {len(runs.seeds)} seeds, each a mean over epochs."
    setting = f"{settings.model} on {settings.dataset}"
    share = _percent(counts["kept"], total)
    kinds = ("dense", "sparse")
    found = []
    for kind in kinds:
        ratios, unknown = runs.means(over("cpl_kept", "gaussian_kept"), (kind,))
        found.append(
            Statement(
                id=f"concentration_{kind}",
                source="Theorem 1, assumption of a concentrated gradient (CPL)",
                claim=rf"in {kind} phases the gradient is more concentrated than a Gaussian vector",
                measure=r"$\|T_k(\nabla f)\|^2/\|\nabla f\|^2$ over that of a Gaussian vector, "
                rf"{share} ({setting})",
                relation="at least",
                predicted=1.0,
                measured=geometric_mean(ratios),
                note=few + _left_out(unknown),
                **rest,
            )
        )
    ratios, unknown = runs.means(over("cpl_kept", "layerwise_kept"), kinds)
    found.append(
        Statement(
            id="concentration_beyond_layers",
            source="Theorem 1, assumption of a concentrated gradient (CPL)",
            claim="the gradient is more concentrated than layers of different sizes make it",
            measure=r"$\|T_k(\nabla f)\|^2/\|\nabla f\|^2$ over that of a vector that is Gaussian "
            rf"within each layer and has the norms of the layers' gradients, {share}",
            relation="at least",
            predicted=1.0,
            measured=geometric_mean(ratios),
            note=few + _left_out(unknown),
            **rest,
        )
    )
    (dense, without), (sparse, unknown) = (
        runs.means(lambda row: row["cpl_kept"], (kind,)) for kind in kinds
    )
    found.append(
        Statement(
            id="phases_alike",
            source="this suite's question",
            claim="the gradient is as concentrated in dense phases as in sparse ones",
            measure=r"$\|T_k(\nabla f)\|^2/\|\nabla f\|^2$ in dense phases less that in sparse "
            rf"ones, paired by seed, {share}",
            relation="equals",
            predicted=0.0,
            tolerance=_ALIKE,
            measured=student_mean([a - b for a, b in zip(dense, sparse, strict=True)]),
            note=f"{few} The assumption does not tell phases apart; that the ratio is the same in "
            f"both does not follow from it.{_left_out(without + unknown)}",
            **rest,
        )
    )
    ratios, unknown = runs.means(lambda row: row["sparse_to_all"], kinds, "curvature_all")
    found.append(
        Statement(
            id="sparse_smoothness",
            source="Theorem 1, assumption of smoothness along sparse directions",
            claim=r"the largest curvature along sparse directions is at most that along all",
            measure=r"largest curvature found along $k$-sparse directions over the largest along "
            rf"all, at the ends of phases, {share}",
            relation="at most",
            predicted=1.0,
            measured=geometric_mean(ratios),
            note="It cannot fail but for the search for both, and of interest is the number alone: "
            f"how far it is below 1. {few} Curvature and "
            "gradient are extreme where a sparse phase has left a filter without weights: batch "
            "normalisation divides its output by almost nothing. The largest curvature over all "
            "supports is NP-hard to find: this one is from below, over "
            + ", ".join(label for name, label in _CURVATURES.items() if name != "all")
            + f".{_left_out(unknown)}",
            **rest,
        )
    )
    found.append(_condition(runs, counts, total, rest))
    return found


def _condition(
    runs: _Seeds, counts: Mapping[str, int], total: int, rest: Mapping[str, Any]
) -> Statement:
    """Say what the theorem would ask for if local numbers of a run were its constants."""
    worst = []
    for name, count in counts.items():
        alphas = [row[f"alpha_{name}"] for row in runs.rows if row[f"alpha_{name}"] > 0]
        betas = [row["beta"] for row in runs.rows if row["beta"] > 0]
        asked = _asked(min(alphas, default=math.nan), max(betas, default=math.nan), count)
        worst.append(f"{asked / total:.1e} at {_percent(count, total)}")
    least, unknown = [], 0
    for seed in runs.seeds:
        mine = [
            [row[f"asked_{name}"] for name in counts]
            for row in runs.measured(seed, "curvature_all")
        ]
        there = [each for row in mine for each in row if not math.isnan(each)]
        least.append(min(there, default=math.nan))
        unknown += sum(all(map(math.isnan, row)) for row in mine)
    return Statement(
        id="condition",
        source="Theorem 1, condition on $k$",
        claim=r"with local estimates of $\alpha$ and $\beta$ in place of the constants, "
        r"$k \ge 160\,k^\ast(\beta/\alpha)^2$ can be met by a $k \le N$",
        measure=r"$160\,k^\ast(\hat\beta/\hat\alpha)^2/N$ with the estimates at the end of the "
        r"phase, and at the $k^\ast$ among those that were tried, where it is least",
        relation="at most",
        predicted=1.0,
        measured=geometric_mean(least),
        note=r"Nothing here verifies the theorem's assumptions, and the number bounds what the "
        r"theorem asks for from neither side, as the estimates' errors oppose each other: "
        r"$\hat\alpha=2\|T_k(\nabla f)\|^2/f$ is at most what the point itself allows, since "
        r"$f^\ast\ge 0$, which makes the number too large; but the theorem's $\alpha$ and $\beta$ "
        r"are for all of $\mathbb{R}^N$, and $\hat\beta$ is the largest curvature that was found "
        r"at the point along $k$-sparse directions, where the theorem needs $(2k+3k^\ast)$-sparse "
        r"ones, which makes it too small. $k^\ast$ is unknown, and was put to the $k$ by which "
        r"$\hat\alpha$ was measured. With the least $\hat\alpha$ and the largest $\hat\beta$ met "
        f"anywhere, the theorem would ask for so many $N$: {', '.join(worst)}.{_left_out(unknown)}",
        **rest,
    )
