"""IST-DASLab/ACDC's FLOP counter: utils/flop_utils.py, get_macs_sparse."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from acdc.methods.phases import PUBLISHED_SCHEDULES
from acdc.models import MODELS
from acdc.models.wide_resnet import WideResNet
from acdc.sparsity.flops import LayerCost, dense_flops, layer_costs
from acdc.vision import torchvision_models
from conformance.vectors import Case, compare

_NETWORKS = {
    "resnet50": ("resnet50", 1000, 224),
    "mobilenet": ("mobilenet_v1", 1000, 224),
    "mobilenet_v1": ("mobilenet_v1", 1000, 224),
    "resnet20": ("resnet20", 10, 32),
    "resnet20_c10": ("resnet20", 10, 32),
}
# The original counted networks with random weights, of which a handful in a layer of millions are
# exactly zero and were left out.
_CHANCE_ZEROS = 8


def counts(data: Any) -> Iterator[Case]:
    """Replay dense FLOPs, in all and per layer: exact but for the original's own random zeros."""
    for name, case in data.items():
        if isinstance(case, dict) and "dense" in case:
            counted = _count(name)
            if counted is not None:
                yield from _network(name, counted, case["dense"])
    schedule = data.get("acdc_schedule_100")
    if schedule:
        phases = PUBLISHED_SCHEDULES["imagenet-100"].phases()
        for kind in ("sparse", "dense"):
            ours = sum(phase.end - phase.start for phase in phases if phase.kind == kind)
            yield compare(f"{kind} epochs of 100", ours, schedule[f"{kind}_epochs"])


def _find(name: str) -> tuple[Callable[[], nn.Module], int] | None:
    """Return how a network is built and the size of its images, none for an unknown one."""
    wide = re.fullmatch(r"wrn_(\d+)_(\d+)_c(\d+)", name)
    if wide:
        depth, widening, classes = map(int, wide.groups())
        return functools.partial(WideResNet, depth, widening, 3, classes), 32
    if name in _NETWORKS:
        model, classes, size = _NETWORKS[name]
        return functools.partial(MODELS[model], 3, classes), size
    built = getattr(torchvision_models(), name, None)
    return (built, 224) if callable(built) else None


def _network(name: str, counted: _Counted, case: Mapping[str, Any]) -> Iterator[Case]:
    costs = counted.layers
    zeros = 0
    rows = case.get("per_layer_flops", {})
    if len(rows) != len(costs):
        yield Case(f"{name}: layers", math.inf, 0.0, f"{len(costs)} layers, not {len(rows)}")
    for (layer, theirs), cost in zip(rows.items(), costs, strict=False):
        uses = cost.flops // (2 * cost.weights)
        added = uses * counted.biases[cost.name]
        # Their sum is in single precision.
        candidates = {
            missing: float(np.float32(cost.flops + added - 2 * uses * missing))
            for missing in range(_CHANCE_ZEROS)
        }
        missing = min(candidates, key=lambda count: abs(candidates[count] - theirs))
        zeros += 2 * uses * missing
        parts = [f"with {added} for its biases"] if added else []
        parts += [f"less {missing} of {cost.weights} random weights that were zero"] * (missing > 0)
        yield compare(f"{name}: {layer}", candidates[missing], theirs, 0.0, ", ".join(parts))
    total = dense_flops(costs)
    # Billions added up in single precision: a unit in the last place for each network's size.
    unit = float(np.spacing(np.float32(total)))
    if "conv_linear_only_flops" in case:
        theirs = case["conv_linear_only_flops"]
        yield compare(f"{name}: convolutions and linear layers", total, theirs, zeros + 2 * unit)
    if "conv_linear_macs" in case:
        theirs = case["conv_linear_macs"]
        yield compare(f"{name}: multiply-adds", total / 2, theirs, zeros / 2 + unit)
    if "total_flops_default" in case:
        ours = total + counted.others
        theirs = case["total_flops_default"]
        yield compare(f"{name}: with all else", ours, theirs, zeros + 2 * unit)


@dataclass(frozen=True)
class _Counted:
    """A network's dense costs, its layers' biases, and what the original counts beside weights."""

    layers: tuple[LayerCost, ...]
    biases: dict[str, int]
    others: int


@functools.cache
def _count(name: str) -> _Counted | None:
    """Return the costs of a network, none for an unknown one."""
    found = _find(name)
    if found is None:
        return None
    build, size = found
    with torch.device("meta"):
        model = build()
        layers = layer_costs(model, (3, size, size))
        others = _others(model, size)
    biases = {}
    for layer in layers:
        bias = model.get_submodule(layer.name.removesuffix(".weight")).bias
        biases[layer.name] = bias.numel() if isinstance(bias, Tensor) else 0
    return _Counted(layers, biases, others)


def _others(model: nn.Module, size: int) -> int:
    """Return what the original counts beside weights, in modules (functions it does not see).

    Biases 1 per output, normalisation 2, ReLU 1, max-pooling its window per output, adaptive
    average pooling 1 per input.
    """
    total = 0

    def count(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total
        if isinstance(module, nn.Conv2d | nn.Linear):
            total += output.numel() if module.bias is not None else 0
        elif isinstance(module, nn.BatchNorm2d):
            total += 2 * output.numel()
        elif isinstance(module, nn.ReLU):
            total += output.numel()
        elif isinstance(module, nn.MaxPool2d):
            window = module.kernel_size
            assert isinstance(window, int)
            total += window**2 * output.numel()
        elif isinstance(module, nn.AdaptiveAvgPool2d):
            total += inputs[0].numel()

    handles = [module.register_forward_hook(count) for module in model.modules()]
    with torch.no_grad():
        model.eval()(torch.zeros(1, 3, size, size))
    for handle in handles:
        handle.remove()
    return total
