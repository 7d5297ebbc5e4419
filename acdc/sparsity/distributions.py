"""How the zeros are spread over the layers: uniform, Erdos-Renyi, Erdos-Renyi-Kernel."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Literal

from acdc.messages import config_error
from acdc.sparsity.layers import Layers
from acdc.sparsity.masks import count_zeros

Distribution = Literal["uniform", "erk", "er"]


def layer_sparsities(
    layers: Layers, distribution: Distribution, sparsity: float, dense: Collection[str] = ()
) -> dict[str, float]:
    """Return the sparsity of every layer, 0 for those that are kept dense.

    Dense layers are no part of the budget, as those of custom sparsity 0 in RigL.

    Args:
        layers: all prunable layers.
        distribution: ``uniform``, Erdos-Renyi-Kernel (``erk``) or Erdos-Renyi (``er``).
        sparsity: wanted fraction of zeros over the layers that are not dense.
        dense: names of layers.

    Raises:
        ConfigError: no layer would have a zero, though the sparsity is above 0.
    """
    custom = dict.fromkeys(dense, 0.0)
    if distribution == "uniform":
        result = uniform_sparsities(list(layers), sparsity, custom=custom)
    else:
        shapes = {name: layer.shape for name, layer in layers.items()}
        kernel = distribution == "erk"
        result = erk_sparsities(shapes, sparsity, custom=custom, include_kernel=kernel)
    if sparsity > 0 and not any(count_zeros(result[n], layers[n].size) for n in layers):
        problem = f"with settings.distribution={distribution} every layer is dense"
        raise config_error("sparsity", sparsity, problem, "a higher one")
    return result


def uniform_sparsities(
    names: Sequence[str], sparsity: float, *, custom: Mapping[str, float] | None = None
) -> dict[str, float]:
    """Return the same sparsity for every layer but those whose sparsity is given."""
    return {name: (custom or {}).get(name, sparsity) for name in names}


def erk_sparsities(
    shapes: Mapping[str, Sequence[int]],
    sparsity: float,
    *,
    custom: Mapping[str, float] | None = None,
    power: float = 1.0,
    include_kernel: bool = True,
) -> dict[str, float]:
    """Return Erdos-Renyi-Kernel sparsities whose overall sparsity is the wanted one.

    A layer's density is proportional to (sum of its dimensions / product of its dimensions)^power.
    Layers whose density would exceed 1 are made dense and the rest is solved again; in each round
    only the layers with the largest raw density are moved, as in the original
    (Evci et al. 2020, Section 3 (1); rigl/sparse_utils.py, get_sparsities_erdos_renyi).

    Args:
        shapes: layer shapes, (outputs, inputs, height, width) or (outputs, inputs).
        sparsity: wanted fraction of zeros over all layers that are not in ``custom``.
        custom: layers whose sparsity is given; they are left out of the budget.
        power: exponent of the raw density (``erk_power_scale`` of the original).
        include_kernel: count the kernel's dimensions too; false is plain Erdos-Renyi, of inputs
            and outputs alone and without the power.
    """
    custom = custom or {}
    free = [name for name in shapes if name not in custom]
    sizes = {name: math.prod(shapes[name]) for name in free}
    raw = {}
    for name in free:
        dims = shapes[name] if include_kernel else shapes[name][:2]
        raw[name] = (sum(dims) / math.prod(dims)) ** (power if include_kernel else 1.0)
    dense: set[str] = set()
    epsilon = 0.0
    while open_layers := [name for name in free if name not in dense]:
        budget = sum(sizes[name] for name in open_layers)
        budget -= sum(count_zeros(sparsity, sizes[name]) for name in free)
        epsilon = budget / sum(raw[name] * sizes[name] for name in open_layers)
        largest = max(raw[name] for name in open_layers)
        if largest * epsilon <= 1:
            break
        dense.update(name for name in open_layers if raw[name] == largest)
    result = {name: 0.0 if name in dense else 1 - epsilon * raw[name] for name in free}
    return {name: custom.get(name, result.get(name, 0.0)) for name in shapes}
