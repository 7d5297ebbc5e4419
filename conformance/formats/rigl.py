"""google-research/rigl: sparsity distributions, drop fractions, single mask updates."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from acdc.methods.phases import cosine_drop_fraction
from acdc.methods.rewiring import rewire
from acdc.sparsity.distributions import erk_sparsities, uniform_sparsities
from acdc.sparsity.masks import count_zeros
from conformance.vectors import Case, compare

_METHODS = ("random", "erdos_renyi", "erdos_renyi_kernel")


def distributions(data: Any) -> Iterator[Case]:
    """Replay sparsities per layer (1e-12) and numbers of zeros (exact) of whole networks."""
    for network, figures in data.get("networks", {"": data}).items():
        shapes = {layer["name"]: _to_torch(layer["shape_hwio"]) for layer in figures["layers"]}
        sizes = {name: torch.Size(shape).numel() for name, shape in shapes.items()}
        prefix = f"{network}, " if network else ""
        for layer in figures["layers"]:
            if "n" in layer:
                name = f"{prefix}weights of {layer['name']}"
                yield compare(name, sizes[layer["name"]], layer["n"])
        if "total_params" in figures:
            yield compare(f"{prefix}weights in all", sum(sizes.values()), figures["total_params"])
        for case in figures["cases"]:
            yield from _distribution(prefix, shapes, sizes, case)


def _distribution(
    prefix: str,
    shapes: Mapping[str, Sequence[int]],
    sizes: Mapping[str, int],
    case: Mapping[str, Any],
) -> Iterator[Case]:
    if case["method"] not in _METHODS:
        return
    power = case.get("erk_power_scale", 1.0)
    name = f"{prefix}{case['method']} at {case['default_sparsity']}"
    name += f", power {power}" if power != 1 else ""
    name += f", custom {case['custom']}" if case["custom"] else ""
    ours = _sparsities(case["method"], shapes, case["default_sparsity"], case["custom"], power)
    theirs = case["layer_sparsities"]
    yield compare(f"{name}: sparsities", [ours[key] for key in theirs], theirs.values(), 1e-12)
    zeros = {key: count_zeros(ours[key], sizes[key]) for key in ours}
    if "n_zeros_by_floor" in case:
        expected = case["n_zeros_by_floor"]
        yield compare(f"{name}: zeros", [zeros[key] for key in expected], expected.values())
    if "overall_sparsity_all_layers" in case:
        overall = sum(zeros.values()) / sum(sizes.values())
        expected = case["overall_sparsity_all_layers"]
        yield compare(f"{name}: overall", overall, expected, 1e-12)
    if "dense_layers" in case:
        dense = {key for key in ours if ours[key] == 0}
        listed = set(case["dense_layers"])
        yield compare(
            f"{name}: dense layers", [key in listed for key in ours], [key in dense for key in ours]
        )


def small_distributions(data: Any) -> Iterator[Case]:
    """Replay the sparsities of nets that force layers to be dense, in several rounds: 1e-12."""
    for name, case in data["cases"].items():
        _, method, sparsity = name.split("|")
        if method not in _METHODS:
            continue
        shapes = {f"l{number}": _to_torch(shape) for number, shape in enumerate(case["shapes"])}
        power = case.get("erk_power_scale", 1.0)
        ours = _sparsities(method, shapes, float(sparsity), case.get("custom", {}), power)
        theirs = case["sparsities"]
        yield compare(name, [ours[key] for key in theirs], theirs.values(), 1e-12)


def _to_torch(shape: Sequence[int]) -> tuple[int, ...]:
    """Return a shape whose last two dimensions are input and output in PyTorch's order."""
    return (shape[-1], shape[-2], *shape[:-2])


def _sparsities(
    method: str,
    shapes: Mapping[str, Sequence[int]],
    sparsity: float,
    custom: Mapping[str, float],
    power: float,
) -> dict[str, float]:
    if method == "random":
        return uniform_sparsities(list(shapes), sparsity, custom=custom)
    kernel = method == "erdos_renyi_kernel"
    return erk_sparsities(shapes, sparsity, custom=custom, power=power, include_kernel=kernel)


def drop_fraction(data: Any) -> Iterator[Case]:
    """Replay the drop fraction by step: 1e-7."""
    for name, values in data["values"].items():
        found = dict(re.findall(r"(\w+)=([\d.]+)", name))
        # The schedule is begun at step 0, wherever the updates begin.
        decay = int(found["T_end"]) - int(found.get("begin", 0))
        ours = [cosine_drop_fraction(int(step), float(found["alpha"]), decay) for step in values]
        yield compare(name, ours, values.values(), 1e-7)


def updates(data: Any) -> Iterator[Case]:
    """Replay single updates of mask, weights and momentum, without noise: exact."""
    for case in data["cases"]:

        def tensor(key: str, case: Mapping[str, Any] = case) -> Tensor:
            return torch.tensor(case[key], dtype=torch.float32).reshape(case["shape"])

        weight, momentum, mask = tensor("weights"), tensor("momentum"), tensor("mask").bool()
        updated, _ = rewire(weight, mask, tensor("grad").abs(), [momentum], case["drop_fraction"])
        yield compare(f"{case['name']}: mask", updated, tensor("out_mask"))
        yield compare(f"{case['name']}: weights", weight, tensor("out_weights"))
        yield compare(f"{case['name']}: momentum", momentum, tensor("out_momentum"))
        if "n_active_before" in case:
            yield compare(f"{case['name']}: active before", mask.sum(), case["n_active_before"])
        if "n_active_after" in case:
            yield compare(f"{case['name']}: active", updated.sum(), case["n_active_after"])
