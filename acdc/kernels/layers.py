"""Layers that multiply with their non-zero weights alone while a mask holds and that is faster."""

from __future__ import annotations

import contextlib
import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from acdc.kernels import functions, library
from acdc.kernels.blocked import Blocked
from acdc.kernels.pattern import Geometry, Pattern
from acdc.messages import config_error

Kernels = Literal["dense", "auto", "sparse"]
MODES: tuple[Kernels, ...] = get_args(Kernels)

_REPETITIONS = 5
_MARGIN = 0.95
"""Of a dense layer's time, which a sparse one has to stay below; about what a timing is off by."""
_SETTLED = 3
"""Steps after which a mask is expected to hold for longer."""
_TRIAL = 5
"""Whole steps that are timed with dense and with sparse products, in turns."""


class SparseLayers:
    """The convolutions and linear layers of a network that can use sparse products.

    A layer uses them within ``active``, if it is masked and its weight gets no gradient outside the
    masks. Parameters, buffers and their names stay the network's.

    Args:
        model: changed in place: its layers get another class, and are dense outside ``active``.
        mode: sparse wherever possible, or (auto) where it is faster and masks have held for some
            steps. First each layer's forward and backward pass is timed, then whole steps: what
            follows a layer may cost more in its layout. Each is timed once for each density.
    """

    def __init__(self, model: nn.Module, mode: Kernels) -> None:
        self.mode = mode
        self.choices: dict[str, bool] = {}
        """Whether sparse products are faster, by layer, density and shape of the input."""
        self.layers: dict[str, _Conv2d | _Linear] = {}
        self.used: dict[str, str] = {}
        """What each masked layer did last: "sparse", or why it was dense."""
        self.trials: dict[int, tuple[list[float], list[float]]] = {}
        """Seconds of steps with dense and with sparse products, by the density of all layers."""
        self._reported: dict[str, str] = {}
        self.unsupported: dict[str, str] = {}
        self._patterns: dict[tuple[str, str], tuple[Tensor, int, Pattern]] = {}
        self._held: dict[str, tuple[Tensor, int, int, int]] = {}
        """Each layer's last mask, its version and non-zeros, and for how many steps it has held."""
        for name, module in model.named_modules():
            reason = _unsupported(module)
            if reason is None:
                module.__class__ = _Conv2d if isinstance(module, nn.Conv2d) else _Linear
                assert isinstance(module, _Conv2d | _Linear)
                module.sparse = None
                self.layers[f"{name}.weight" if name else "weight"] = module
            elif isinstance(module, nn.Conv2d | nn.Linear):
                self.unsupported[f"{name}.weight" if name else "weight"] = reason

    @contextlib.contextmanager
    def active(
        self, masks: Mapping[str, Tensor], gradients: Mapping[str, Tensor]
    ) -> Iterator[None]:
        """Use sparse products in forward passes within the context, and in their backward passes.

        Args:
            masks: of layers whose other weights are zero.
            gradients: which weights' gradients are needed; of a layer that is missing, all.
        """
        used = [name for name in masks if name in self.layers and name in gradients]
        self.used = {name: self.unsupported.get(name, "needs all gradients") for name in masks}
        held = {name: self._hold(name, masks[name]) for name in used}
        trial = None
        if self.mode == "auto" and used and min(held.values()) >= _SETTLED:
            trial = self.trials.setdefault(_level(sum(self._held[n][2] for n in used)), ([], []))
        sparse_step = trial is None or _next_is_sparse(*trial)
        try:
            for name in used:
                if not sparse_step:
                    self.used[name] = "a whole step is slower"
                elif held[name] < _SETTLED and self.mode == "auto":
                    # A pattern costs about as much as a step, so that masks must outlive it.
                    self.used[name] = "its mask has just changed"
                else:
                    pattern = support = self._pattern(name, "forward", masks[name])
                    if gradients[name] is not masks[name]:
                        support = self._pattern(name, "gradient", gradients[name])
                    self.layers[name].sparse = _Sparse(self, name, pattern, support)
            choices, started = len(self.choices), time.perf_counter()
            yield
            seconds = time.perf_counter() - started
            # A step in which layers were timed is none to be timed itself.
            if (
                trial is not None
                and len(trial[sparse_step]) < _TRIAL
                and len(self.choices) == choices
            ):
                trial[sparse_step].append(seconds)
        finally:
            if sparse_step:
                for name in used:
                    self.layers[name].sparse = None

    def _hold(self, name: str, mask: Tensor) -> int:
        """Return for how many steps before this one a layer has had this mask."""
        last, version, nonzeros, steps = self._held.get(name, (None, 0, 0, 0))
        if last is mask and version == mask._version:
            steps += 1
        else:
            nonzeros, steps = int(mask.count_nonzero()), 0
        self._held[name] = mask, mask._version, nonzeros, steps
        return steps

    def _pattern(self, name: str, use: str, mask: Tensor) -> Pattern:
        """Return the pattern of a mask, made again where the mask is another or has changed."""
        known = self._patterns.get((name, use))
        if known is None or known[0] is not mask or known[1] != mask._version:
            layer = self.layers[name]
            pattern = Pattern(mask, layer.geometry, layer.weight.stride())
            known = mask, mask._version, pattern
            self._patterns[name, use] = known
        return known[2]

    def chosen(self, sparse: _Sparse, x: Any, dense: Callable[[Any], Tensor]) -> bool:
        """Return whether a layer uses sparse products for an input."""
        layer = self.layers[sparse.name]
        problem = _problem(layer, x)
        if problem is None and not self._faster(sparse, x, dense):
            problem = "slower"
        self.used[sparse.name] = problem or "sparse"
        return problem is None

    def _faster(self, sparse: _Sparse, x: Any, dense: Callable[[Any], Tensor]) -> bool:
        if self.mode == "sparse":
            return True
        key = f"{sparse.name} {_level(len(sparse.pattern.index))} {tuple(x.shape)}"
        if key not in self.choices:
            # Outside of training's graph.
            seconds = _times(x, dense, sparse)
            self.choices[key] = seconds[1] < _MARGIN * seconds[0]
        return self.choices[key]

    def report(self) -> dict[str, str] | None:
        """Return what the masked layers did last, if it is not what was returned before."""
        if self.used == self._reported:
            return None
        self._reported = dict(self.used)
        return self._reported

    def state_dict(self, masks: Mapping[str, Tensor]) -> dict[str, Any]:
        """Return what the next steps' choices depend on, so that a resumed run rounds alike.

        Args:
            masks: the layers' masks now, which may have changed since the last step.
        """
        held = {
            name: steps
            for name, (mask, version, _, steps) in self._held.items()
            if masks.get(name) is mask and version == mask._version
        }
        return {
            "choices": self.choices,
            "trials": self.trials,
            "reported": self._reported,
            "held": held,
        }

    def load_state_dict(self, state: Mapping[str, Any], masks: Mapping[str, Tensor]) -> None:
        """Load what ``state_dict`` returned, for the same masks."""
        self.choices, self._reported = dict(state["choices"]), dict(state["reported"])
        trials = state.get("trials", {})  # older checkpoints have none
        self.trials = {level: (list(d), list(s)) for level, (d, s) in trials.items()}
        self._held = {
            name: (masks[name], masks[name]._version, int(masks[name].count_nonzero()), steps)
            for name, steps in state["held"].items()
        }


def _level(nonzeros: int) -> int:
    """Return a number that densities within a tenth share, since ramps change them all the time."""
    return round(math.log(max(nonzeros, 1)) / math.log(1.1))


def _next_is_sparse(dense: list[float], sparse: list[float]) -> bool:
    """Return whether the next step is to be sparse, given the seconds of those timed before."""
    if len(dense) < _TRIAL:
        return len(sparse) <= len(dense)
    return statistics.median(sparse) < statistics.median(dense)


class _Sparse:
    """What a layer needs for sparse products now."""

    def __init__(self, layers: SparseLayers, name: str, pattern: Pattern, support: Pattern) -> None:
        self.layers = layers
        self.name = name
        self.pattern = pattern
        self.support = support


class _Conv2d(nn.Conv2d):
    sparse: _Sparse | None

    @property
    def geometry(self) -> Geometry:
        assert not isinstance(self.padding, str)
        stride, padding, dilation = (
            (pair[0], pair[1]) for pair in (self.stride, self.padding, self.dilation)
        )
        return Geometry(stride, padding, dilation, self.groups)

    def forward(self, input: Any) -> Any:
        sparse = self.sparse
        if sparse is None or not sparse.layers.chosen(sparse, input, super().forward):
            return super().forward(input)
        return self.multiply(input, sparse)

    def multiply(self, input: Blocked | Tensor, sparse: _Sparse) -> Blocked:
        """Return the convolution by sparse products."""
        if isinstance(input, Blocked):
            data, lanes = input.data, input.lanes
        else:
            lanes = 16 if input.shape[0] % 16 == 0 else 8
            data = functions.block(input, lanes)
        y = functions.convolution(
            data, self.weight, self.bias, sparse.pattern, lanes, sparse.support
        )
        return Blocked(y, lanes)


class _Linear(nn.Linear):
    sparse: _Sparse | None
    geometry = Geometry()

    def forward(self, input: Any) -> Any:
        sparse = self.sparse
        if sparse is None or not sparse.layers.chosen(sparse, input, super().forward):
            return super().forward(input)
        return self.multiply(input, sparse)

    def multiply(self, input: Tensor, sparse: _Sparse) -> Tensor:
        """Return the product by sparse products."""
        return functions.linear(input, self.weight, self.bias, sparse.pattern, sparse.support)


def _unsupported(module: nn.Module) -> str | None:
    """Return why a module is always dense, or None."""
    if type(module) is nn.Linear:
        return None
    if type(module) is not nn.Conv2d:
        return "not a plain Conv2d or Linear"
    if module.padding_mode != "zeros" or isinstance(module.padding, str):
        return f"padding {module.padding_mode}, {module.padding}"
    if module.stride[1] not in library.STRIDES:
        return f"a stride of {module.stride[1]}"
    return None


def _problem(layer: nn.Conv2d | nn.Linear, x: Blocked | Tensor) -> str | None:
    """Return why there are no sparse products for an input, or None."""
    if torch.is_autocast_enabled("cpu"):
        return "autocast"
    weight = layer.weight
    if not (weight.is_contiguous() or weight.is_contiguous(memory_format=torch.channels_last)):
        return "a weight with gaps in memory"
    if x.dtype != layer.weight.dtype or not library.supports(x.dtype):
        return str(x.dtype)
    if isinstance(layer, nn.Linear):
        return None if x.numel() else "an empty batch"
    if x.dim() != 4 or x.shape[0] % 8:
        return "a batch that is no multiple of 8 images"
    return None


def _times(x: Blocked | Tensor, dense: Callable[[Any], Tensor], sparse: _Sparse) -> list[float]:
    """Return the median seconds of a forward and backward pass, dense and sparse.

    Each with the conversion of the input, if it is in the other layout.
    """
    layer = sparse.layers.layers[sparse.name]
    blocked = isinstance(x, Blocked)
    source = (x.data if isinstance(x, Blocked) else x).detach().requires_grad_()
    leaves = [layer.weight] + ([layer.bias] if layer.bias is not None else [])

    def run(forward: Callable[[Any], Any], as_images: bool) -> float:
        started = time.perf_counter()
        given: Any = Blocked(source, x.lanes) if isinstance(x, Blocked) else source
        y = forward(given.images() if as_images and blocked else given)
        y = y.data if isinstance(y, Blocked) else y
        torch.autograd.grad(y, [source, *leaves], torch.ones_like(y))
        return time.perf_counter() - started

    with torch.enable_grad():
        found: list[list[float]] = [[], []]
        for _ in range(1 + _REPETITIONS):
            found[0].append(run(dense, as_images=True))
            found[1].append(run(lambda given: layer.multiply(given, sparse), as_images=False))
    return [statistics.median(each[1:]) for each in found]


def check_kernels(mode: Kernels, device: torch.device, compile: str) -> None:
    """Raise ConfigError if sparse products are asked for where there are none."""
    if mode == "dense":
        return
    if device.type != "cpu":
        raise config_error("kernels", mode, f"not on device {device.type}", "dense")
    if compile != "off":
        raise config_error("kernels", mode, "does not combine with torch.compile", "dense")
    if mode == "sparse" and library.library() is None:
        problem = "the package was installed without a C++ compiler"
        raise config_error("kernels", mode, problem, "dense, or auto, which is then dense")
