"""What a run trains on one rank: network, optimizer, method and data."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from acdc import seeds
from acdc.config.run import RunConfig
from acdc.data import DATASETS
from acdc.data.loader import LoaderPlan
from acdc.distributed import Ranks
from acdc.kernels.layers import Kernels, SparseLayers, check_kernels
from acdc.kernels.library import keep_memory, library
from acdc.methods.contract import Context
from acdc.methods.rules import check_state
from acdc.models import build_model
from acdc.models.dropout import WholeBatch
from acdc.models.normalization import share_statistics
from acdc.sparsity import flops
from acdc.sparsity.layers import prunable_weights
from acdc.sparsity.masks import count_nonzeros
from acdc.training.evaluation import Score
from acdc.training.optimizers import build_optimizer
from acdc.training.precision import Arithmetic, zero_unseen_taps
from acdc.training.tasks import TASKS

Compile = Literal["off", "default", "reduce-overhead", "max-autotune"]


@dataclass(frozen=True)
class Engine:
    """What training is carried out on, and how; it changes results by rounding only."""

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    workers: int = 2
    """Processes that decode images, for data sets that do not fit into memory."""
    compile: Compile = "off"
    """The mode of torch.compile; reduce-overhead uses CUDA graphs."""
    deterministic: bool = False
    """Only kernels that give the same bits every time; a CPU has no others."""
    kernels: Kernels = "dense"
    """How masked layers are multiplied on a CPU; auto times each and takes what is faster."""


class TrainState:
    """Network, optimizer, method and data of a run on one rank.

    Its parts are made when it is constructed; ``begin`` starts the method on the weights that the
    network then has, the initial ones or those of another run.
    """

    def __init__(self, config: RunConfig, engine: Engine, ranks: Ranks) -> None:
        self.config = config
        self.ranks = ranks
        self.device = engine.device
        self._set_kernels(engine.deterministic)
        recipe = config.recipe
        ranks.check_batch(recipe.batch_size)
        spec = DATASETS[config.dataset]
        self.loader = spec.load().loader(
            LoaderPlan(
                seed=config.seed,
                batch_size=recipe.batch_size,
                augmentation=recipe.augmentation,
                device=self.device,
                ranks=ranks,
                workers=engine.workers,
                segment=recipe.segment,
            )
        )
        self.batches = self.loader.batches
        self.samples_per_epoch = self.batches * self.loader.batch_samples
        """What FLOPs are counted for: images or tokens."""
        self.model = build_model(config.model, config.dataset, config.seed).to(self.device)
        self.task = TASKS[spec.kind](spec, recipe, self.loader, ranks)
        self.costs = self.task.costs(spec, recipe, self.model)
        self.arithmetic = Arithmetic(config.precision, self.device)
        if self.arithmetic.dtype is not None and self.device.type == "cpu":
            zero_unseen_taps(self.model)
        self.whole_batch = WholeBatch(self.model, ranks, recipe.batch_size)
        check_kernels(engine.kernels, self.device, engine.compile)
        self.sparse_layers = None
        if engine.kernels != "dense" and library() is not None:
            self.sparse_layers = SparseLayers(self.model, engine.kernels)
            keep_memory()
        self.network = self._network(engine.compile)
        self.weights = prunable_weights(self.model)
        self.optimizer = build_optimizer(self.model, recipe)
        self.method = config.method_class(config.plan)

    def _set_kernels(self, deterministic: bool) -> None:
        if self.device.type == "cuda":
            if deterministic:
                # cuBLAS asks for this before it is first used.
                os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
            torch.use_deterministic_algorithms(deterministic)
            # A run has few shapes, so that seeking the fastest kernel for each pays.
            torch.backends.cudnn.benchmark = not deterministic

    def _network(self, mode: Compile) -> Callable[..., Any]:
        """Return what the forward pass of training goes through, around the model itself."""
        network: Callable[..., Any] = self.model
        if self.ranks.count > 1:
            self.model = share_statistics(self.model, self.device)
            with warnings.catch_warnings():
                # From torch 2.13 on it is called forward_sync_buffers.
                warnings.filterwarnings("ignore", "`broadcast_buffers`", FutureWarning)
                network = nn.parallel.DistributedDataParallel(
                    self.model,
                    device_ids=[self.device] if self.device.type == "cuda" else None,
                    # Their statistics are the same on every rank already.
                    broadcast_buffers=False,
                    gradient_as_bucket_view=True,
                )
        if mode != "off":
            network = torch.compile(network, mode=mode)
        return network

    def kernels(self) -> contextlib.AbstractContextManager[None]:
        """Return the context of a step's forward and backward pass."""
        if self.sparse_layers is None:
            return contextlib.nullcontext()
        return self.sparse_layers.active(self.method.masks, self.method.needed_gradients())

    def begin(self) -> None:
        """Bind the method to the weights as they are now; it makes its first masks."""
        self.method.setup(Context(self.weights, self.optimizer, self.gradients))
        check_state(self.method)

    def gradients(
        self, batches: int, size: int, *position: int, training: bool = False
    ) -> Iterator[dict[str, Tensor]]:
        """Yield gradients of mini-batches at the current weights; see GradientSource."""
        examples = self.loader.examples
        generator = seeds.generator(self.config.seed, "gradient_samples", *position)
        order = torch.randperm(examples, generator=generator)
        kept = {name: buffer.clone() for name, buffer in self.model.named_buffers()}
        was_training = self.model.training
        try:
            for batch in range(batches):
                chosen = order[torch.arange(batch * size, (batch + 1) * size) % examples]
                self.model.train(training)
                found = self._gradient(chosen, *position, batch)
                yield dict(zip(self.weights, found, strict=True))
        finally:
            self.model.train(was_training)
            for name, buffer in self.model.named_buffers():
                buffer.copy_(kept[name])

    def _gradient(self, chosen: Tensor, *position: int) -> tuple[Tensor, ...]:
        """Return the gradients of the mean loss over chosen images, each rank computing a share."""
        inputs, targets = self.loader.samples(chosen[self.ranks.slice(len(chosen))])
        self.whole_batch.images = len(chosen)
        with self.seeded("gradient_samples", *position, 0):
            # Without the recipe's label smoothing, as in WoodFisher's and SNIP's code.
            loss = self.task.plain_loss(self.model, inputs, targets)
        self.whole_batch.images = self.config.recipe.batch_size
        predictions = len(chosen) * targets[0].numel()
        found = torch.autograd.grad(loss / predictions, list(self.weights.values()))
        self.ranks.sum(found)
        return found

    @contextlib.contextmanager
    def seeded(self, axis: seeds.Axis, *position: int) -> Iterator[None]:
        """Seed torch's own generators, which dropout draws from; restore them afterwards."""
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            seeds.seed_device(self.device, seeds.derive(self.config.seed, axis, *position))
            yield

    def score(self, split: Literal["validation", "test"]) -> Score:
        """Evaluate the weights as they are now."""
        return self.task.score(self.model, split)

    def inference_flops(self, nonzeros: Mapping[str, int]) -> float:
        """Return the FLOPs of one sample at these numbers of non-zero weights."""
        layers = [cost for cost in self.costs if cost.weights]
        return flops.forward_flops(
            self.costs, {cost.name: nonzeros[cost.name] / cost.weights for cost in layers}
        )

    def nonzeros(self) -> dict[str, int]:
        """Return how many prunable weights of each layer are not zero."""
        return count_nonzeros(self.weights)

    def state_dict(self) -> dict[str, Any]:
        """Return what resuming needs, as tensors and numbers."""
        layers, masks = self.sparse_layers, self.method.masks
        return {
            "kernels": None if layers is None else layers.state_dict(masks),
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "arithmetic": self.arithmetic.state_dict(),
            "method": self.method.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load what ``state_dict`` returned; called after ``begin``."""
        self.method.events.drain()
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.arithmetic.load_state_dict(state["arithmetic"])
        self.method.load_state_dict(state["method"])
        if self.sparse_layers is not None and state.get("kernels"):
            self.sparse_layers.load_state_dict(state["kernels"], self.method.masks)
