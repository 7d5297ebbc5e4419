"""What a run will cost, before it is run: FLOPs and bytes.

Methods say by themselves how dense they expect to be (``SparseMethod.forecast``); the accounting is
that of ``acdc.sparsity.flops``.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import save
from torch import Tensor

from acdc.config.run import RunConfig
from acdc.data import DATASETS
from acdc.methods.contract import Densities, Product
from acdc.models import build_model
from acdc.sparsity.flops import LayerCost, dense_flops, forward_flops, layer_costs, step_flops
from acdc.sparsity.layers import Layers, prunable_weights
from acdc.sparsity.masks import count_zeros

# Weights of a layer whose magnitudes are counted.
_SAMPLE = 1 << 17
# Of a file by torch.save: what each tensor takes beside its numbers, and the file beside tensors.
_SAVED_TENSOR, _SAVED_FILE = 285, 2_500
# Of journal and result, in text: a line or a model, and a layer in it.
_LINE, _LINE_LAYER = 420, 11
_RESULT, _RESULT_MODEL, _RESULT_LAYER = 2_500, 900, 150


@dataclass(frozen=True)
class Ranking:
    """How the magnitudes of a network's weights are distributed, layer by layer.

    Magnitudes are counted in bins, one for each value of the first sixteen bits (the relative width
    is 1/128 or less); within a bin they count as evenly spread. Of large layers a sample stands for
    the whole.
    """

    counts: npt.NDArray[np.float64]
    """(layers, bins), the largest magnitudes first."""
    above: npt.NDArray[np.float64]
    """(layers, bins), how many weights are in the bins before each."""

    @classmethod
    def of(cls, weights: Mapping[str, Tensor]) -> Ranking:
        """Return the ranking of layers of weights in single precision."""
        layers = []
        for weight in weights.values():
            # Initial weights are drawn independently: any of them are a fair sample.
            sample = weight.detach().flatten()[:_SAMPLE].abs()
            bins = torch.bincount(sample.view(torch.int32) >> 16, minlength=1 << 15).flip(0)
            layers.append(bins.double() * (weight.numel() / sample.numel()))
        counts = torch.stack(layers).numpy()
        counts = counts[:, counts.any(axis=0)]
        return cls(counts, counts.cumsum(axis=1) - counts)

    def kept(self, rows: list[int], count: int) -> npt.NDArray[np.float64]:
        """Return how many of the ``count`` largest weights of some layers are in each of them."""
        counts, above = self.counts[rows], self.above[rows]
        before = above.sum(axis=0)
        last = int(np.searchsorted(before, count, side="right")) - 1
        share = (count - before[last]) / counts[:, last].sum()
        kept: npt.NDArray[np.float64] = above[:, last] + share * counts[:, last]
        return kept


@dataclass(frozen=True)
class Network:
    """What is known of a network with its initial weights."""

    costs: tuple[LayerCost, ...]
    ranking: Ranking
    parameters: tuple[int, ...]
    """Bytes of each."""
    state: tuple[int, ...]
    """Bytes of each parameter and buffer."""
    weights_file: int
    """Bytes."""


@functools.cache
def network(model: str, dataset: str) -> Network:
    """Return what is known of a network, from the initial weights of seed 1."""
    built = build_model(model, dataset, seed=1)
    spec = DATASETS[dataset]
    state: dict[str, Tensor] = built.state_dict()
    return Network(
        costs=layer_costs(built, spec.input_shape),
        ranking=Ranking.of(prunable_weights(built)),
        parameters=tuple(parameter.nbytes for parameter in built.parameters()),
        state=tuple(tensor.nbytes for tensor in state.values()),
        weights_file=len(save({name: tensor.contiguous() for name, tensor in state.items()})),
    )


@dataclass(frozen=True)
class Outlook:
    """What a method can say its densities by, before its run begins."""

    config: RunConfig

    @property
    def settings(self) -> Any:
        """Those of the method."""
        return self.config.settings

    @functools.cached_property
    def exempt(self) -> tuple[str, ...]:
        """Layers that the sparsity does not count over."""
        return self.settings.exempt(self.config.layers)  # type: ignore[no-any-return]

    @functools.cached_property
    def ranked(self) -> Layers:
        """The other layers, those that are pruned."""
        return {n: layer for n, layer in self.config.layers.items() if n not in self.exempt}

    @property
    def network(self) -> Network:
        """The network with its initial weights."""
        return network(self.config.model, self.config.dataset)

    @property
    def batches(self) -> int:
        """Batches in an epoch."""
        return DATASETS[self.config.dataset].training_images // self.config.recipe.batch_size

    @property
    def iterations(self) -> int:
        """Batches in the whole run."""
        return self.config.epochs * self.batches

    def steps_taken(self) -> range:
        """Return the number of batches that are done at the end of each epoch."""
        return range(self.batches, self.iterations + 1, self.batches)

    def kept(self, sparsities: Mapping[str, float]) -> dict[str, float]:
        """Return the densities of layers at these sparsities; layers left out are dense."""
        return {
            name: 1 - count_zeros(sparsities[name], layer.size) / layer.size
            for name, layer in self.ranked.items()
        }

    def uniform(self, sparsity: float) -> dict[str, float]:
        """Return the densities of all layers where each is pruned to the same sparsity."""
        return self.kept(dict.fromkeys(self.ranked, sparsity))

    def together(self, sparsity: float) -> dict[str, float]:
        """Return the densities of all layers where their weights are ranked together.

        By the magnitudes of the initial weights of seed 1; those of trained layers differ.
        """
        if sparsity == 0:
            return {}
        rows = [i for i, name in enumerate(self.config.layers) if name in self.ranked]
        total = sum(layer.size for layer in self.ranked.values())
        kept = self.network.ranking.kept(rows, total - count_zeros(sparsity, total))
        sizes = [layer.size for layer in self.ranked.values()]
        return dict(zip(self.ranked, (kept / sizes).tolist(), strict=True))


@dataclass(frozen=True)
class Storage:
    """What a run writes, in bytes; files that are links to one another count once."""

    model: int
    models: int
    """The last and the best model of each product; fewer where the best is the last."""
    optimizers: int
    """That go with the best models."""
    checkpoint: int
    records: int
    """Configuration, provenance, journal and result, about."""

    @property
    def kept(self) -> int:
        """What stays when the run has ended, one checkpoint included."""
        return self.model * self.models + self.optimizers + self.checkpoint + self.records

    @property
    def training(self) -> int:
        """The most there is meanwhile: two checkpoints, and the models that they refer to."""
        return 2 * (self.model * self.models + self.optimizers + self.checkpoint) + self.records


@dataclass(frozen=True)
class Forecast:
    """What a run will cost."""

    images: int
    """That it trains on, each epoch counting anew; not those that its parents trained on."""
    training_flops: float
    """By the paper's accounting, of the whole run, its parents' included."""
    own_flops: float
    """What the run itself adds to that."""
    inference_flops: Mapping[Product, float]
    """Of each product."""
    computed_flops: float
    """What a device computes for it that gains nothing from zeros: 3 F an image, also of those
    whose gradients are taken outside of training's own steps. Evaluation is not counted."""
    storage: Storage


def forecast(config: RunConfig) -> Forecast:
    """Return what a run will cost; the same for all seeds."""
    return _forecast(config.with_seed(1))


@functools.cache
def _forecast(config: RunConfig) -> Forecast:
    outlook = Outlook(config)
    costs, method, start = outlook.network.costs, config.method_class, config.starts_from
    first = _first_epoch(config)
    images = outlook.batches * config.recipe.batch_size
    own = sum(
        step_flops(costs, densities.forward, densities.gradient) * images * epochs
        for densities, epochs in epochs_of(outlook, first)
    )
    inherited = forecast(start.config).training_flops if start else 0.0
    trained = (config.epochs - first) * images
    dense = dense_flops(costs)
    return Forecast(
        images=trained,
        training_flops=inherited + own,
        own_flops=own,
        inference_flops=_inference(outlook),
        computed_flops=3.0 * dense * (trained + method.further_gradients(config)),
        storage=_storage(outlook, config.epochs - first),
    )


def epochs_of(outlook: Outlook, first: int = 0) -> Iterator[tuple[Densities, int]]:
    """Yield the densities of the epochs from ``first`` on, each with how many in a row have it."""
    method = outlook.config.method_class
    epochs = itertools.islice(method.forecast(outlook), first, None)
    for _, group in itertools.groupby(epochs, key=id):
        same = list(group)
        yield same[0], len(same)


def _inference(outlook: Outlook) -> dict[Product, float]:
    """Return the FLOPs of each product: the sparsest epoch's, and those of the dense network."""
    costs = outlook.network.costs
    sparsest = min(forward_flops(costs, densities.forward) for densities, _ in epochs_of(outlook))
    found: dict[Product, float] = {"sparse": sparsest, "dense": float(dense_flops(costs))}
    return {product: found[product] for product in outlook.config.method_class.products}


def _first_epoch(config: RunConfig) -> int:
    """Return the first epoch that a run trains itself.

    Where that follows its parent's best epoch, the last one that may be the best.
    """
    start = config.starts_from
    if start is None:
        return 0
    if start.epoch is not None:
        return start.epoch
    outlook = Outlook(start.config)
    wanted = _inference(outlook)[start.product]
    epoch = first = 0
    for densities, epochs in epochs_of(outlook):
        epoch += epochs
        if forward_flops(outlook.network.costs, densities.forward) == wanted:
            first = epoch
    return first


def _storage(outlook: Outlook, epochs: int) -> Storage:
    config, known, method = outlook.config, outlook.network, outlook.config.method_class
    momentum = known.parameters if config.recipe.momentum else ()
    sizes = [layer.size for layer in outlook.ranked.values()]
    state = [element * size for element in method.state_bytes(config) for size in sizes]
    models = len(method.products) * min(2, max(1, epochs))
    layers = len(config.layers)
    names = sum(map(len, config.layers))
    return Storage(
        model=known.weights_file,
        models=models,
        optimizers=len(method.resumable) * _saved(momentum),
        # Without an epoch to train there is nothing to go on with.
        checkpoint=_saved([*known.state, *momentum, *state]) if epochs else 0,
        records=_RESULT
        + epochs * (_LINE + names + _LINE_LAYER * layers)
        + models * (_RESULT_MODEL + 4 * names + _RESULT_LAYER * layers),
    )


def _saved(sizes: tuple[int, ...] | list[int]) -> int:
    """Return the bytes of a file in which tensors are saved."""
    return _SAVED_FILE + sum(sizes) + _SAVED_TENSOR * len(sizes)
