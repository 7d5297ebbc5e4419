"""The contract between the training loop and a sparse-training method, and how methods are found.

A method is one class in one file. The loop knows nothing of any method: it calls the hooks below,
and the parameters of the model always hold the *effective* weights, those that the forward pass
uses. A method whose stored weights differ from the effective ones (Top-KAST, GMP with surviving
weights) parks the difference in its own state and puts it back for the optimizer's step.
"""

from __future__ import annotations

import importlib
import importlib.util
import itertools
import pkgutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

import torch
from pydantic import BaseModel, ConfigDict, field_validator
from torch import Tensor, nn

from acdc import seeds
from acdc.errors import ConfigError
from acdc.sparsity.flops import LayerCost, step_flops
from acdc.sparsity.layers import Layers, dense_layers
from acdc.sparsity.masks import Masks, count_nonzeros
from acdc.step import Step

if TYPE_CHECKING:
    from acdc.config.run import RunConfig
    from workflow.forecast import Outlook

Product = Literal["sparse", "dense"]

# AC/DC and its dense fine-tuning are the library's own; every other method is a module of the
# package, so that a new file there is a new method, with nothing to register.
OWN = ("acdc", "acdc_dense")
BASELINES = "baselines"

STORED_BYTES = (1, 4)
"""What ``SparseMethod.state_bytes`` is where pruned weights are stored: masks and values."""


class MethodSettings(BaseModel):
    """The settings of a method beside the sparsity; methods without any use this class."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False
    )

    def variant(self) -> str:
        """Return a short name for these settings in run names and tables, empty for the default."""
        return self.named_changes()

    def named_changes(self, *apart: str) -> str:
        """Return what differs from the defaults, leaving out the settings named ``apart``."""
        parts = []
        for key, schema in type(self).model_fields.items():
            value = getattr(self, key)
            if key in apart or value is None or value == schema.get_default():
                continue
            if isinstance(value, bool):
                parts.append(key if value else f"no-{key}")
            elif isinstance(value, int | float):
                parts.append(f"{key}{value:g}")
            elif isinstance(value, str):
                parts.append(value.replace(":", "of"))
            elif all(isinstance(item, str) for item in value):
                parts += value or [f"no-{key}"]
            else:
                parts.append(key)
        return "-".join(parts)

    def exempt(self, layers: Layers) -> tuple[str, ...]:
        """Return the layers that the sparsity does not count over, none by default.

        Raises:
            ConfigError: the settings name layers that there are not, or leave none to prune.
        """
        return ()


class ScopedSettings(MethodSettings):
    """The settings of a method that can be told to leave layers alone."""

    dense_layers: tuple[str, ...] = ()
    """Layers that stay dense: names of weights, or first, last, depthwise, shortcut; the sparsity
    counts over the others."""

    @field_validator("dense_layers")
    @classmethod
    def _once_each(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(value))

    def exempt(self, layers: Layers) -> tuple[str, ...]:
        return dense_layers(layers, self.dense_layers)


def check_order(begin: float, end: float) -> None:
    """Refuse settings by which something ends before it begins.

    Raises:
        ConfigError: ``begin`` is not below ``end``.
    """
    if begin >= end:
        raise ConfigError(
            f"settings.begin: {begin} is not before settings.end {end}; a value below it is "
            "accepted"
        )


class GradientSource(Protocol):
    """Gives gradients of the loss at the current weights, outside of training's own steps."""

    def __call__(
        self, batches: int, size: int, *position: int, training: bool = False
    ) -> Iterator[dict[str, Tensor]]:
        """Yield the prunable weights' gradients of the mean loss of one mini-batch after another.

        Args:
            batches: how many mini-batches, drawn one after the other from shuffled training images,
                which start over when they are used up.
            size: images a mini-batch, not augmented.
            position: of the shuffling, so that no two uses draw the same.
            training: normalise with the statistics of the batch, without keeping them.
        """


@dataclass(frozen=True)
class Context:
    """What a method is given: the weights it may prune, the optimizer, and the plan of the run."""

    weights: dict[str, nn.Parameter]
    """The prunable weights (conv and linear, never biases or normalisation), in module order."""
    layers: Layers
    """Their shapes and kinds."""
    optimizer: torch.optim.Optimizer
    config: RunConfig
    batches_per_epoch: int
    gradients: GradientSource

    @property
    def iterations(self) -> int:
        """Batches in the whole run."""
        return self.config.epochs * self.batches_per_epoch

    def generator(self, *position: int) -> torch.Generator:
        """Return the generator of the masks' randomness at a position, a CPU generator."""
        return seeds.generator(self.config.seed, "masks", *position)


@dataclass(frozen=True)
class Densities:
    """Per layer, the fraction of weights in the forward pass and of weights that get a gradient.

    The error is back-propagated through the forward weights, so a step costs
    2 f(forward) + f(gradient) FLOPs (paper, Appendix C.2). A layer that is not named is dense.
    """

    forward: dict[str, float]
    gradient: dict[str, float]


@dataclass(frozen=True)
class Start:
    """A run that another run starts from, and what it takes up."""

    config: RunConfig
    product: Product
    which: Literal["best", "last"]
    epoch: int | None
    """The first epoch of the new run; None: the one after the product's, with its optimizer."""


@dataclass(frozen=True)
class Deviation:
    """A deliberate difference from the original: what it does, what we do, and why."""

    original: str
    ours: str
    why: str


@dataclass
class Events:
    """What a method did since the loop last asked, for the journal."""

    records: list[dict[str, Any]] = field(default_factory=list)

    def add(self, kind: str, **values: object) -> None:
        self.records.append({"event": kind, **values})

    def drain(self) -> list[dict[str, Any]]:
        records, self.records = self.records, []
        return records


class SparseMethod:
    """Decides which weights are active in the forward pass, which get gradient, and when.

    The hooks in the order in which the loop calls them: ``setup`` once; ``epoch_start`` before the
    first batch of each epoch; for each batch ``before_step`` when the gradients are complete and
    ``after_step`` when the optimizer has stepped. A subclass overrides what it needs.
    """

    name: ClassVar[str]
    """What it is called in configurations; the name of its module."""
    label: ClassVar[str]
    """What it is called in tables and figures."""
    source: ClassVar[str]
    """The paper, and the original code where there is one."""
    deviations: ClassVar[tuple[Deviation, ...]] = ()
    products: ClassVar[tuple[Product, ...]] = ("sparse",)
    """The models that it yields, the one that tables show by default first."""
    resumable: ClassVar[frozenset[Product]] = frozenset()
    """Products whose optimizer is kept with the best weights, for runs that go on from there."""
    flops_formula: ClassVar[str] = "none; the paper's 2 f + f_grad"
    """A step's training FLOPs in the method's own publication, what ``published_flops`` counts."""
    Settings: ClassVar[type[MethodSettings]] = MethodSettings

    def __init__(self, settings: MethodSettings, sparsity: float) -> None:
        self.settings: Any = settings
        self.sparsity = sparsity
        self.masks: Masks = {}
        """The weights in the forward pass; empty while all are."""
        self.events = Events()
        self.exempt: tuple[str, ...] = ()
        """Layers that the sparsity does not count over."""
        self.ranked: dict[str, nn.Parameter] = {}
        """The other weights, those that are pruned."""

    @property
    def sparsity_tolerance(self) -> float:
        """By how much the sparsity may miss the requested one, beside rounding in each layer."""
        return 0.0

    @classmethod
    def check(cls, config: RunConfig) -> None:
        """Refuse, with a ConfigError, a configuration that this method cannot carry out."""
        config.settings.exempt(config.layers)

    @classmethod
    def starts_from(cls, config: RunConfig) -> Start | None:
        """Return the run whose weights this one starts from, or none: from initial weights."""
        return None

    @classmethod
    def forecast(cls, outlook: Outlook) -> Iterable[Densities]:
        """Return, before a run begins, the densities expected at the end of each of its epochs.

        Of all epochs, also those before the one that it starts with. By default the sparsity is
        there from the first, over all layers together, and gradients are confined to the weights
        that are left.
        """
        sparse = outlook.together(outlook.config.sparsity)
        return itertools.repeat(Densities(sparse, sparse), outlook.config.epochs)

    @classmethod
    def further_gradients(cls, config: RunConfig) -> int:
        """Return on how many images gradients are taken outside of training's own steps."""
        return 0

    @classmethod
    def state_bytes(cls, config: RunConfig) -> tuple[int, ...]:
        """Return what the last checkpoint holds of each weight that is pruned: its masks.

        One number for each tensor of the weight's shape, the bytes of an element; weights and
        momentum not counted.
        """
        return (1,)

    def setup(self, context: Context) -> None:
        """Take hold of the weights and make the first masks."""
        self.context = context
        self.weights = context.weights
        self.exempt = self.settings.exempt(context.layers)
        self.ranked = {n: w for n, w in context.weights.items() if n not in self.exempt}

    def epoch_start(self, step: Step) -> None:
        """Act before the first batch of an epoch."""

    def before_step(self, step: Step) -> bool:
        """Act on the complete gradients; return whether the optimizer shall step."""
        mask_gradients(self.weights, self.masks)
        return True

    def after_step(self, step: Step) -> None:
        """Act after the optimizer's step, or after the batch whose step was replaced."""
        apply_masks(self.weights, self.masks)

    def gradient_masks(self) -> Masks:
        """Return the weights that receive a gradient, by layer; a layer not named: all of it."""
        return self.masks

    def densities(self) -> Densities:
        """Return the densities at the end of an epoch, by which the paper counts its FLOPs.

        Forward: the weights that are not zero, whatever the reason (restored at zero, or of dead
        filters). A gradient confined to the forward weights is as sparse (Appendix C.2).
        """
        nonzeros = count_nonzeros({name: w.detach() for name, w in self.weights.items()})
        forward = {name: nonzeros[name] / w.numel() for name, w in self.weights.items()}
        gradient = dict.fromkeys(forward, 1.0)
        for name, mask in self.gradient_masks().items():
            same = mask is self.masks.get(name)
            gradient[name] = forward[name] if same else float(mask.float().mean())
        return Densities(forward, gradient)

    def published_flops(self, costs: tuple[LayerCost, ...]) -> float:
        """Return the mean training FLOPs of the epoch's steps for one image, by ``flops_formula``.

        Called at the end of each epoch. By default the paper's accounting.
        """
        densities = self.densities()
        return step_flops(costs, densities.forward, densities.gradient)

    def learning_rate(self, step: Step, rate: float) -> float:
        """Return the learning rate of an epoch, given the recipe's."""
        return rate

    def kept(self) -> dict[str, int]:
        """Return how many weights of each layer the masks keep, which need not all be non-zero."""
        return {
            name: int(self.masks[name].sum()) if name in self.masks else weight.numel()
            for name, weight in self.weights.items()
        }

    def product(self, step: Step) -> Product | None:
        """Return which product the current weights are a candidate for, or none (on the way)."""
        return "sparse"

    def phase(self, step: Step) -> str:
        """Return the name of the phase that an epoch belongs to, for the journal and figures."""
        return "sparse" if self.masks else "dense"

    def state_dict(self) -> dict[str, Any]:
        """Return what resuming needs beside weights and optimizer: tensors and numbers."""
        return {"masks": self.masks}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up the state saved by ``state_dict``, after ``setup``."""
        self.masks = dict(state["masks"])


class StoredWeights:
    """Keeps the stored values of weights that a mask takes out of the forward pass.

    Between ``park`` and ``restore`` the parameters hold mask * w and this holds the rest; the two
    add up to the stored weights exactly, since of each pair one is zero.
    """

    def __init__(self) -> None:
        self.parked: dict[str, Tensor] = {}

    def park(self, weights: Mapping[str, nn.Parameter], masks: Masks) -> None:
        """Take the values outside the masks out of the parameters."""
        if not masks:
            return
        with torch.no_grad():
            effective: list[Tensor] = [weights[name] for name in masks]
            stored = [weight.detach().clone() for weight in effective]
            multiply_by_masks(effective, masks)
            torch._foreach_sub_(stored, effective)
        self.parked = dict(zip(masks, stored, strict=True))

    def restore(self, weights: Mapping[str, nn.Parameter]) -> None:
        """Put the parked values back into the parameters."""
        if self.parked:
            with torch.no_grad():
                stored: list[Tensor] = [weights[name] for name in self.parked]
                torch._foreach_add_(stored, list(self.parked.values()))
            self.parked = {}


def apply_masks(weights: Mapping[str, Tensor], masks: Masks) -> None:
    """Set the weights outside the masks to zero, in place, in one call over all layers."""
    with torch.no_grad():
        multiply_by_masks([weights[name] for name in masks], masks)


def mask_gradients(weights: Mapping[str, nn.Parameter], masks: Masks) -> None:
    """Set the gradients outside the masks to zero, in place, in one call over all layers."""
    gradients = {name: weights[name].grad for name in masks}
    present = {name: gradient for name, gradient in gradients.items() if gradient is not None}
    multiply_by_masks(list(present.values()), {name: masks[name] for name in present})


def multiply_by_masks(tensors: list[Tensor], masks: Masks) -> None:
    """Multiply tensors by their masks, in place, in one call over all layers."""
    if tensors:
        # Read as bytes, ones and zeros are multiplied twice as fast on a CPU as truth values.
        torch._foreach_mul_(tensors, [mask.view(torch.int8) for mask in masks.values()])


def momentum_buffers(
    optimizer: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter]
) -> dict[str, Tensor]:
    """Return the optimizer's momentum buffer of each parameter that already has one."""
    return {
        name: buffer
        for name, parameter in parameters.items()
        if (buffer := optimizer.state.get(parameter, {}).get("momentum_buffer")) is not None
    }


def reset_momentum(optimizer: torch.optim.Optimizer) -> None:
    """Set every momentum buffer to zero, also those of parameters that have no gradient now."""
    for state in optimizer.state.values():
        if state.get("momentum_buffer") is not None:
            state["momentum_buffer"].zero_()


def method_names() -> tuple[str, ...]:
    """Return the names of all methods that can be found, in alphabetical order."""
    package = importlib.util.find_spec(BASELINES)
    folders = package.submodule_search_locations if package else None
    return tuple(sorted({*OWN, *(module.name for module in pkgutil.iter_modules(folders or []))}))


def get_method(name: str) -> type[SparseMethod]:
    """Return the method class of a name: the SparseMethod of that name in the module of that name.

    Raises:
        ConfigError: no such method; lists those that there are.
    """
    if name not in method_names():
        raise ConfigError(f"method: {name!r} is unknown; {', '.join(method_names())} are accepted")
    module = importlib.import_module(
        f"acdc.methods.{name}" if name in OWN else f"{BASELINES}.{name}"
    )
    for value in vars(module).values():
        if (
            isinstance(value, type)
            and issubclass(value, SparseMethod)
            and getattr(value, "name", None) == name
        ):
            return value
    raise ConfigError(f"method: {module.__file__} defines no SparseMethod whose name is {name!r}")
