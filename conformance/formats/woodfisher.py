"""IST-DASLab/WoodFisher: inverse Fisher blocks, the statistic, the mask, the update."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from acdc.sparsity.released import strictly_above_masks
from baselines.woodfisher import InverseFisher, pruning_statistic, weight_update
from conformance.vectors import Case, compare, hashval

_TOLERANCE = 1e-10


def blocks(data: Any) -> Iterator[Case]:
    """Replay whole prunings of one layer in double precision: 1e-10, relative for large numbers."""
    for case in data["cases"]:
        name = f"N {case['N']}, d {case['d']}, block {case['block']}, damp {case['damp']}"
        yield from _block(name, case)


def _block(name: str, case: Mapping[str, Any]) -> Iterator[Case]:
    count, size = case["N"], case["d"]
    gradients = _tensor(case["G"], (count, size))
    weight = _tensor(case["w"], (size,))
    block_size = case["block"] if case["block"] > 0 else size
    if "blocks" in case:
        bounds = range(0, size, block_size)
        blocks = [list(range(start, min(start + block_size, size))) for start in bounds]
        yield compare(f"{name}: blocks", blocks, case["blocks"])
    inverse = InverseFisher(weight, count, block_size, case["damp"])
    for gradient in gradients:
        inverse.add(gradient)
    diagonal = inverse.diagonal()
    # The diagonal reaches up to 1 / damp: its error is relative.
    scale = max(1.0, *(abs(value) for value in case["inv_diag"]))
    yield compare(f"{name}: inverse", diagonal, case["inv_diag"], _TOLERANCE * scale)
    statistic = pruning_statistic(weight, diagonal, None)
    yield compare(f"{name}: statistic", statistic, case["stat"], _TOLERANCE)
    mask = strictly_above_masks({"": statistic}, case["sparsity"])[""]
    yield compare(f"{name}: mask", mask, case["mask"])
    update = weight_update(weight, inverse, ~mask)
    yield compare(f"{name}: update", update, case["update"], _TOLERANCE)
    yield compare(f"{name}: weights", (weight + update) * mask, case["w_after"], _TOLERANCE)
    if "w_after_unmasked" in case:
        theirs = case["w_after_unmasked"]
        yield compare(f"{name}: before the mask", weight + update, theirs, _TOLERANCE)


def _tensor(text: str, shape: tuple[int, ...]) -> Tensor:
    """Return a tensor of a text such as ``hashval((N,d),71) float64``."""
    salt = re.findall(r",(\d+)\)", text)[0]
    return hashval(shape, int(salt), torch.float64)
