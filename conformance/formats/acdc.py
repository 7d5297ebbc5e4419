"""IST-DASLab/ACDC: thresholds and ties, masks, schedules, learning rates."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

from acdc.config.recipe import warmup_cosine
from acdc.methods.optimizer import reset_momentum
from acdc.methods.phases import PUBLISHED_SCHEDULES
from acdc.models import MODELS
from acdc.sparsity.layers import Layers, dense_layers, prunable_layers
from acdc.sparsity.patterns import pattern_masks
from acdc.sparsity.released import released_masks, strictly_above_masks
from acdc.sparsity.selection import kth_largest
from baselines._ramps import updates_before_end
from conformance.vectors import Case, compare, hashval


def masks_schedules(data: Any) -> Iterator[Case]:
    """Replay thresholds, masks, N:M masks, schedules and learning rates: exact."""
    for number, case in enumerate(data.get("percentile", [])):
        yield from _percentile(f"percentile {number} ({case['name']}, p {case['p']})", case)
    for case in data.get("masks", []):
        yield from _masks(case)
    if "nm" in data:
        yield from _pattern(data["nm"])
    for name, case in data.get("schedules", {}).items():
        yield from _schedule(name, case)
    rates = data.get("cosine_lr_by_epoch", [])
    if rates:
        ours = [0.256 * warmup_cosine(epoch, len(rates), 5) for epoch in range(len(rates))]
        # The same formula in another order of operations.
        yield compare("learning rate by epoch", ours, rates, 1e-15)
    if "momentum_reset" in data:
        yield _momentum_reset(data["momentum_reset"])


def _percentile(name: str, case: Mapping[str, Any]) -> Iterator[Case]:
    scores = torch.tensor(case["values"], dtype=torch.float32)
    kept = strictly_above_masks({"": scores}, case["p"])[""]
    yield compare(f"{name}: kept", kept, case["kept"])
    yield compare(f"{name}: count", kept.sum(), case["n_kept"])
    if case.get("k") is not None:
        threshold, _ = kth_largest([scores], case["k"])
        yield compare(f"{name}: k", math.ceil(len(scores) * (1 - case["p"])), case["k"])
        yield compare(f"{name}: threshold", threshold, case["threshold"])


def _masks(case: Mapping[str, Any]) -> Iterator[Case]:
    name = f"{case['pruner']} masks at {case['sparsity']}"
    level = case.get("level", case["sparsity"])
    if "shapes" not in case:
        kept = released_masks({"w": torch.ones(40)}, level, "global")["w"].sum()
        yield compare(f"{name} ({case.get('note', '')})", kept, case["n_kept"])
        return
    weights = {key: hashval(shape, case["salts"][key]) for key, shape in case["shapes"].items()}
    masks = released_masks(weights, level, "global" if case["pruner"] == "global" else "uniform")
    for key, mask in case["masks"].items():
        yield compare(f"{name}: {key}", masks[key], mask)
    if "n_total" in case:
        yield compare(f"{name}: weights", sum(w.numel() for w in weights.values()), case["n_total"])
    if "n_kept" in case:
        yield compare(f"{name}: count", sum(m.sum() for m in masks.values()), case["n_kept"])


def _pattern(case: Mapping[str, Any]) -> Iterator[Case]:
    n, m = case.get("n", 2), case.get("m", 4)
    for kind in ("conv", "lin"):
        if f"{kind}_mask" in case:
            weight = hashval(case[f"{kind}_shape"], case[f"{kind}_salt"])
            ours = pattern_masks({"": weight}, n, m)[""]
            yield compare(f"{n}:{m} mask, {kind}", ours, case[f"{kind}_mask"])


# The layers that stay dense in each variant of a network.
_STARRED = {
    "resnet50": ("", "first last"),
    "mobilenet": ("", "first depthwise"),
    "wideresnet": ("",),
    "resnet20": ("", "shortcut"),
}
_NETWORKS = {
    "resnet50": ("resnet50", 1000),
    "mobilenet": ("mobilenet_v1", 1000),
    "wideresnet": ("wrn28_10", 100),
    "resnet20": ("resnet20", 10),
}
# Parts of a configuration's name, and the schedule that they mean.
_BY_NAME = {
    "ep100": "imagenet-100",
    "ep150": "imagenet-150",
    "ep200": "imagenet-200",
    "dense13": "cifar-14",
    "freq20": "cifar-20",
}


def _schedule(name: str, case: Mapping[str, Any]) -> Iterator[Case]:
    prune, restore = case["prune_epochs"], case["recycle_epochs"]
    published = next((ours for part, ours in _BY_NAME.items() if part in name), None)
    if prune and restore:
        events = {key: _events(key) for key in PUBLISHED_SCHEDULES if published in (None, key)}
        found = [key for key, switches in events.items() if switches == (prune, restore)]
        note = ", ".join(found) or f"{published or 'no schedule'} does not have these phases"
        yield Case(f"{name}: phases", 0.0 if found else math.inf, 0.0, note)
    elif prune:
        # Gradual pruning of the original, in epochs 1 to 40 and every fifth.
        ours = updates_before_end(1, 40, 5) if "gmp" in name else ()
        yield compare(f"{name}: epochs of pruning", ours, prune)
    else:
        yield compare(f"{name}: dense throughout", len(prune) + len(restore), 0)
    for number in sorted(set(case.get("n_pruned_modules", ()))):
        network = next((key for key in _NETWORKS if key in name), None)
        if network is not None:
            yield _pruned_modules(f"{name}: pruned modules", network, number)


def _events(schedule: str) -> tuple[list[int], list[int]]:
    phases = PUBLISHED_SCHEDULES[schedule].phases()
    prune = [phase.start for phase in phases if phase.kind == "sparse"]
    return prune, [phase.start for phase in phases[1:] if phase.kind == "dense"]


def _pruned_modules(name: str, network: str, number: int) -> Case:
    """Count the layers that are pruned when the named ones stay dense."""
    layers = _layers(network)
    variants = {}
    for text in _STARRED[network]:
        variants[len(layers) - len(dense_layers(layers, text.split()))] = text or "none"
    nearest = min(variants, key=lambda count: abs(count - number))
    return compare(name, nearest, number, note=f"dense: {variants[nearest]}")


@functools.cache
def _layers(network: str) -> Layers:
    model, classes = _NETWORKS[network]
    with torch.device("meta"):
        return prunable_layers(MODELS[model](3, classes))


def _momentum_reset(case: Mapping[str, Any]) -> Case:
    """Reset buffers whose parameters have no gradient, which the original skips by mistake."""
    parameter = nn.Parameter(torch.zeros(len(case["buffer_before"])))
    optimizer = torch.optim.SGD([parameter], lr=0.1, momentum=0.9)
    optimizer.state[parameter]["momentum_buffer"] = torch.tensor(case["buffer_before"])
    reset_momentum(optimizer)
    return compare(
        "momentum reset without gradients",
        optimizer.state[parameter]["momentum_buffer"],
        case["buffer_after_reset_with_grad_zeros"],
    )
