"""N:M sparsity: at most N non-zero weights in every group of M neighbours."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from acdc.messages import config_error
from acdc.sparsity.layers import Layers
from acdc.sparsity.masks import Masks
from acdc.sparsity.selection import top_k_rows

Grouping = Literal["input", "flat"]
"""``input``: groups lie within one output and one kernel position, along the input channels, as
sparse tensor cores need them. ``flat``: the same order, but groups may run on into the next
position and the next filter where the inputs are not a multiple of M, as in AC/DC's code."""


def parse_pattern(text: str) -> tuple[int, int]:
    """Return N and M of a text such as ``2:4``.

    Raises:
        ConfigError: it is not of this form, or N is not between 1 and M - 1.
    """
    match = re.fullmatch(r"(\d+):(\d+)", text)
    n, m = (int(match[1]), int(match[2])) if match else (0, 0)
    if not 0 < n < m:
        raise config_error("settings.pattern", text, "no pattern", "N:M with 0 < N < M, as 2:4")
    return n, m


def check_pattern(
    layers: Layers, exempt: tuple[str, ...], pattern: str, grouping: Grouping, sparsity: float
) -> None:
    """Check that a pattern fits the layers and the sparsity.

    Raises:
        ConfigError: names the layer, or the pattern's sparsity.
    """
    n, m = parse_pattern(pattern)
    if abs(sparsity - (1 - n / m)) > 1e-9:
        raise config_error(
            "sparsity",
            sparsity,
            f"not that of settings.pattern={pattern}",
            str(round(1 - n / m, 12)),
        )
    for name, layer in layers.items():
        if name in exempt:
            continue
        size, what = (layer.shape[1], "inputs") if grouping == "input" else (layer.size, "weights")
        if size % m:
            or_flat = " or settings.grouping=flat" if grouping == "input" else ""
            raise config_error(
                "settings.pattern",
                pattern,
                f"the {size} {what} of {name} are not a multiple of {m}",
                f"{name} in settings.dense_layers{or_flat}",
            )


def pattern_masks(scores: Mapping[str, Tensor], n: int, m: int) -> Masks:
    """Return masks that keep the ``n`` largest magnitudes of every group of ``m``.

    Groups are consecutive in the order (output, height, width, input), IST-DASLab/ACDC's
    MagnitudeNMPruner. Ties go to the earlier member of the group.

    Args:
        scores: by layer; each has a multiple of ``m`` entries.
        n: kept of each group, 1 to ``m`` - 1.
        m: size of a group.
    """
    masks: Masks = {}
    for name, score in scores.items():
        order = (0, *range(2, score.dim()), 1)
        moved = score.detach().permute(order)
        mask = top_k_rows(moved.reshape(-1, m), n, magnitudes=True)
        # In the memory layout of the weight, so that the two are multiplied in one sweep.
        masks[name] = torch.empty_like(score, dtype=torch.bool)
        masks[name].permute(order).copy_(mask.reshape(moved.shape))
    return masks
