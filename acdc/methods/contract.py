"""The contract between the training loop and a sparse-training method.

A method is one class in one file. The loop does not know the methods: it calls the hooks below. The
model's parameters always hold the *effective* weights, those that the forward pass uses. A method
whose stored weights differ from the effective ones (Top-KAST, GMP with surviving weights) parks the
difference in ``stored`` and restores it for the optimizer's step.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, Literal, Protocol, get_args

import torch
from torch import Tensor, nn
from typing_extensions import TypeVar

from acdc.methods.plan import Plan
from acdc.methods.settings import MethodSettings
from acdc.sparsity.apply import StoredWeights, apply_masks, mask_gradients
from acdc.sparsity.flops import LayerCost, step_flops
from acdc.sparsity.masks import Masks, count_nonzeros
from acdc.step import Step

Product = Literal["sparse", "dense"]
SettingsT = TypeVar("SettingsT", bound=MethodSettings, default=MethodSettings)


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
    """What a method works on during training."""

    weights: dict[str, nn.Parameter]
    """Convolutional and linear weights (never biases or normalisation), in module order."""
    optimizer: torch.optim.Optimizer
    gradients: GradientSource


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
    """The run that another run starts from, and which of its models is loaded."""

    changes: Mapping[str, Any]
    """Keys of the run's configuration that differ in the other run."""
    product: Product
    which: Literal["best", "last"]
    epoch: int | None
    """First epoch of the new run; None: the one after the product's, with its optimizer state."""


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


class SparseMethod(Generic[SettingsT]):
    """Decides which weights are active in the forward pass, which get gradient, and when.

    The hooks are in the order in which a run calls them; a subclass overrides what it needs. Their
    docstrings make the table of docs/methods.md.
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
    """Products whose optimizer state is kept with the best weights, for runs that start there."""
    flops_formula: ClassVar[str] = "none; the paper's 2 f + f_grad"
    """A step's training FLOPs in the method's own publication, what ``published_flops`` counts."""
    Settings: ClassVar[type[MethodSettings]] = MethodSettings
    """The class of its settings: that of ``SparseMethod[...]``."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        for base in cls.__dict__.get("__orig_bases__", ()):
            for argument in get_args(base):
                cls.Settings = getattr(argument, "__bound__", argument)

    def __init__(self, plan: Plan[SettingsT]) -> None:
        self.plan = plan
        self.settings = plan.settings
        self.sparsity = plan.sparsity
        self.exempt = plan.settings.exempt(plan.layers)
        """Layers that the sparsity does not count over."""
        self.masks: Masks = {}
        """The weights in the forward pass; empty while all are."""
        self.stored = StoredWeights()
        """What the masks take out of weights that are stored nevertheless."""
        self.events = Events()

    @classmethod
    def check(cls, plan: Plan[SettingsT]) -> None:
        """Raise ConfigError if the method cannot carry out a plan.

        Called: when a configuration is validated.
        Default: the layers that the settings name exist.
        """
        plan.settings.exempt(plan.layers)

    @classmethod
    def starts_from(cls, plan: Plan[SettingsT]) -> Start | None:
        """Return the run whose weights this one starts from.

        Called: before training.
        Default: none, initial weights.
        """
        return None

    @property
    def sparsity_tolerance(self) -> float:
        """Return by how much the sparsity may miss the requested one, beside rounding in layers.

        1 if it is an outcome, not a target; tables show it then beside the accuracy.

        Called: for the certificate.
        Default: 0.
        """
        return 0.0

    def setup(self, context: Context) -> None:
        """Bind the method to weights and optimizer, and make the first masks.

        Called: once, before training or loading a checkpoint.
        Default: binds, and leaves every weight active.
        """
        self.weights = context.weights
        self.optimizer = context.optimizer
        self.gradients = context.gradients
        self.ranked = {n: w for n, w in context.weights.items() if n not in self.exempt}
        """The weights that are pruned: all but the exempt layers'."""

    def learning_rate(self, step: Step, rate: float) -> float:
        """Return the learning rate of a step, given the recipe's.

        Called: before every step.
        Default: the recipe's.
        """
        return rate

    def epoch_start(self, step: Step) -> None:
        """Change masks or state before an epoch.

        Called: before the first batch of each epoch.
        Default: nothing.
        """

    def before_step(self, step: Step) -> bool:
        """Act on the complete gradients; return whether the optimizer steps.

        Called: in each step, after the backward pass.
        Default: sets gradients outside the masks to zero; true.
        """
        mask_gradients(self.weights, self.masks)
        return True

    def after_step(self, step: Step) -> None:
        """Make the parameters effective again.

        Called: in each step, after the optimizer's step or where it would have been.
        Default: sets weights outside the masks to zero.
        """
        apply_masks(self.weights, self.masks)

    def gradient_masks(self) -> Masks:
        """Return the weights that receive a gradient, by layer; a layer that is missing: all.

        Called: by densities.
        Default: the masks.
        """
        return self.masks

    def needed_gradients(self) -> Masks:
        """Return the weights whose gradients a step reads, by layer; a missing layer: all.

        Other gradients may be zero instead of the loss's, since sparse products do without them.

        Called: before a step's forward pass.
        Default: the gradient masks; all weights where a subclass has its own before_step.
        """
        own = type(self).before_step is not SparseMethod.before_step
        return {} if own else self.gradient_masks()

    def densities(self) -> Densities:
        """Return the densities of the forward pass and of the gradient, for the paper's FLOPs.

        Forward: the weights that are not zero, whatever the reason (restored at zero, or of dead
        filters). A gradient confined to the forward weights is as sparse (Appendix C.2).

        Called: at the end of an epoch.
        Default: weights that are not zero; the gradient masks.
        """
        nonzeros = count_nonzeros({name: w.detach() for name, w in self.weights.items()})
        forward = {name: nonzeros[name] / w.numel() for name, w in self.weights.items()}
        gradient = dict.fromkeys(forward, 1.0)
        for name, mask in self.gradient_masks().items():
            same = mask is self.masks.get(name)
            gradient[name] = forward[name] if same else float(mask.float().mean())
        return Densities(forward, gradient)

    def published_flops(self, costs: tuple[LayerCost, ...]) -> float:
        """Return the epoch's mean training FLOPs of a step for one image, by ``flops_formula``.

        Called: at the end of an epoch.
        Default: the paper's accounting, by the densities.
        """
        densities = self.densities()
        return step_flops(costs, densities.forward, densities.gradient)

    def kept(self) -> dict[str, int]:
        """Return how many weights of each layer the masks keep, which need not all be non-zero.

        Called: at the end of an epoch, for the certificate.
        Default: the masks' counts.
        """
        return {
            name: int(self.masks[name].sum()) if name in self.masks else weight.numel()
            for name, weight in self.weights.items()
        }

    def product(self, step: Step) -> Product | None:
        """Return the product that the weights are a candidate for now, if any.

        Called: at the end of an epoch, and after its first step to check it.
        Default: sparse.
        """
        return "sparse"

    def phase(self, step: Step) -> str:
        """Return the name of the phase that an epoch belongs to, for the journal and figures.

        Called: at the end of an epoch.
        Default: dense without masks, sparse where they yield a sparse product, else ramp.
        """
        if not self.masks:
            return "dense"
        return "sparse" if self.product(step) == "sparse" else "ramp"

    def state_dict(self) -> dict[str, Any]:
        """Return what resuming needs beside weights and optimizer: tensors and numbers.

        Called: for a checkpoint, after any step.
        Default: masks and stored weights.
        """
        return {"masks": self.masks, "parked": self.stored.parked}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load what ``state_dict`` returned.

        Called: on resuming, after setup.
        Default: masks and stored weights.
        """
        self.masks = dict(state["masks"])
        self.stored.parked = dict(state["parked"])
