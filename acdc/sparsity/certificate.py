"""The sparsity certificate: what a model was asked for, what it has, and whether the two agree."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from acdc.sparsity.flops import LayerCost

# ERK rounds twice: the layers' budgets to whole weights, and each layer's share of their sum.
ROUNDINGS = 2


def certify(
    requested: float,
    costs: Sequence[LayerCost],
    *,
    kept: Mapping[str, int],
    nonzeros: Mapping[str, int],
    exempt: Sequence[str],
    tolerance: float,
    dead_filters: int,
) -> dict[str, Any]:
    """Return the certificate of one evaluated model.

    It holds if no layer had more non-zero weights at evaluation than its mask keeps, and if over
    the layers that are not exempt the requested fraction was pruned, up to the tolerance and to two
    weights a layer of rounding.

    Args:
        requested: sparsity over the layers that are not exempt.
        costs: the prunable layers.
        kept: by layer, the weights that the masks kept when the model was saved.
        nonzeros: by layer, the weights that were not zero at evaluation.
        exempt: layers that the requested sparsity does not count over.
        tolerance: fraction by which the method may miss the requested sparsity.
        dead_filters: outputs without any weight left.
    """
    pruned = [cost for cost in costs if cost.name not in exempt]
    zeros = sum(cost.weights - kept[cost.name] for cost in pruned)
    certificate = {
        "requested": requested,
        "tolerance": tolerance,
        "pruned": zeros / sum(cost.weights for cost in pruned),
        "achieved": 1 - sum(nonzeros.values()) / sum(cost.weights for cost in costs),
        "dead_filters": dead_filters,
        "exempt": list(exempt),
        "layers": [
            {
                "name": cost.name,
                "weights": cost.weights,
                "kept": kept[cost.name],
                "nonzeros": nonzeros[cost.name],
                "flops": cost.flops // cost.weights * nonzeros[cost.name],
            }
            for cost in costs
        ],
    }
    failures = judge(certificate)
    return {"holds": not failures, "failures": failures, **certificate}


def judge(certificate: Mapping[str, Any]) -> list[str]:
    """Return why the counts of a certificate are not what was requested, nothing if they are.

    Judges by the counts of the layers alone, whatever the certificate concludes from them.
    """
    layers = certificate["layers"]
    pruned = [layer for layer in layers if layer["name"] not in certificate["exempt"]]
    size = sum(layer["weights"] for layer in pruned)
    zeros = size - sum(layer["kept"] for layer in pruned)
    failures = [
        f"{layer['name']} has {layer['nonzeros']} weights that are not zero, its mask keeps "
        f"{layer['kept']}"
        for layer in layers
        if layer["nonzeros"] > layer["kept"]
    ]
    # masks.count_zeros without its import of torch: the reports judge certificates too.
    missing = math.floor(certificate["requested"] * size) - zeros
    # Written so that a tolerance that is not a number allows nothing.
    if not abs(missing) <= certificate["tolerance"] * size + ROUNDINGS * len(pruned):
        failures.append(
            f"{zeros} of {size} weights are pruned ({zeros / size:.4%}), "
            f"{certificate['requested']:.4%} were requested"
        )
    return failures


def objections(certificate: Mapping[str, Any] | None, requested: float, weights: int) -> list[str]:
    """Return why a stored certificate is not to be trusted, nothing if it holds.

    A certificate holds if it says so, if its own counts agree, and if it is that of the run.

    Args:
        certificate: as it was read, or none.
        requested: sparsity that the run's configuration asks of this product.
        weights: prunable weights of the run's model.
    """
    if certificate is None:
        return ["there is no certificate"]
    try:
        found = [*certificate["failures"], *judge(certificate)]
        layers = certificate["layers"]
        counted = sum(layer["weights"] for layer in layers)
        achieved = 1 - sum(layer["nonzeros"] for layer in layers) / counted
        if not found and certificate["achieved"] != achieved:
            found.append(f"it says {certificate['achieved']} is zero, its layers say {achieved}")
        if certificate["requested"] != requested:
            found.append(f"it certifies {certificate['requested']}, the run asks for {requested}")
        if counted != weights:
            found.append(f"its layers have {counted} weights, the model has {weights}")
        if not found and certificate["holds"] is not True:
            found = ["the certificate does not hold"]
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        return [f"the certificate cannot be read ({error!r})"]
    return list(dict.fromkeys(found))
