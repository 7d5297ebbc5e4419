"""Top-KAST, for which no code was released: figures computed from its definition."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from acdc.selection import layer_magnitude_masks
from baselines.top_kast import Exploration, exploration_gradient, exploration_penalty
from conformance.vectors import Case, compare, hashval


def sets(data: Any) -> Iterator[Case]:
    """Replay forward and backward sets, the gradient that is applied, and the penalty: exact."""
    found = re.findall(r"hashval\(\((\d+),(\d+)\),(\d+)\)", data["source"])
    weight, gradient = (hashval((int(a), int(b)), int(salt)) for a, b, salt in found)
    for case in data["cases"]:
        density, backward_density = case["D_forward_density"], case["B_backward_density"]
        name = f"D = {density}, B = {backward_density}"
        forward = layer_magnitude_masks({"": weight}, {"": round(1 - density, 12)})[""]
        backward = layer_magnitude_masks({"": weight}, {"": round(1 - backward_density, 12)})[""]
        yield compare(f"{name}: set A", forward, case["mask_A"])
        yield compare(f"{name}: set B", backward, case["mask_B"])
        yield compare(f"{name}: counts", [forward.sum(), backward.sum()], [case["kA"], case["kB"]])
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
        kept = layer_magnitude_masks({"": weight}, {"": float(sparsity)})[""].sum()
        yield compare(f"top-k at {sparsity}", kept, case["n_topk"])
