"""Top-KAST, for which no code was released: figures computed from its definition."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from acdc.sparsity.masks import count_zeros
from acdc.sparsity.selection import magnitude_masks, top_k_mask
from baselines.top_kast import Exploration, exploration_gradient, exploration_penalty
from conformance.vectors import Case, compare, hashval


def sets(data: Any) -> Iterator[Case]:
    """Replay forward and backward sets, the gradient that is applied, and the penalty: exact."""
    found = re.findall(r"hashval\(\(([\d,]+)\),\s*(\d+)\)", data["source"])
    weight, gradient = (
        hashval([int(size) for size in shape.split(",") if size], int(salt))
        for shape, salt in found
    )
    for case in data["cases"]:
        density, backward_density = case["D_forward_density"], case["B_backward_density"]
        name = f"D = {density}, B = {backward_density}"
        forward = top_k_mask(weight, case["kA"], magnitudes=True)
        backward = top_k_mask(weight, case["kB"], magnitudes=True)
        yield compare(f"{name}: set A", forward, case["mask_A"])
        yield compare(f"{name}: set B", backward, case["mask_B"])
        for part, key in ((density, "kA"), (backward_density, "kB")):
            # How a fraction of a weight is rounded is not part of the definition.
            if abs(part * weight.numel() - round(part * weight.numel())) < 1e-9:
                zeros = count_zeros(round(1 - part, 12), weight.numel())
                yield compare(f"{name}: {key}", weight.numel() - zeros, case[key])
        yield compare(f"{name}: forward", weight * forward, case["alpha"])
        yield compare(f"{name}: gradient", gradient * backward, case["grad_applied"])
        # The figures are in double precision but for the squares, which were made in single.
        point = (weight.double(), forward, backward, density)
        kinds: tuple[tuple[str, Exploration, float], ...]
        kinds = (("reg_abs", "l1", 1e-12), ("reg_half_l2", "l2", 1e-6))
        for key, kind, tolerance in kinds:
            penalty = exploration_penalty(*point, kind)
            yield compare(f"{name}: {key}", penalty, case[key], tolerance)
        of_penalty = exploration_gradient(*point, "l2")
        yield compare(f"{name}: gradient of reg_half_l2", of_penalty, case["reg_half_l2_grad"])
    for sparsity, case in data.get("torch_topkast_quantile_rule", {}).items():
        kept = magnitude_masks({"": weight}, float(sparsity), "uniform")[""].sum()
        yield compare(f"top-k at {sparsity}", kept, case["n_topk"])
