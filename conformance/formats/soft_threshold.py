"""RAIVNLab/STR: soft thresholds, their gradients, and how a threshold moves without a gradient."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from acdc.config.recipe import warmup_cosine
from baselines.str import soft_threshold, soft_threshold_gradients
from conformance.vectors import Case, compare, hashval

_TOLERANCE = 1e-6


def cases(data: Any) -> Iterator[Case]:
    """Replay forward, gradients, sparsity and trajectories: 1e-6, relative for large numbers."""
    soft = data.get("soft_threshold", {"cases": []})
    for case in soft["cases"]:
        weight, upstream = _tensor(soft["w"]), _tensor(soft["upstream_grad"])
        s = torch.tensor(case["s"])
        name = f"s = {case['s']}"
        effective = soft_threshold(weight, s)
        of_weight, of_s = soft_threshold_gradients(weight, s, upstream)
        yield compare(f"{name}: threshold", s.sigmoid(), case["threshold"], _TOLERANCE)
        yield compare(f"{name}: forward", effective, case["out"], _TOLERANCE)
        yield compare(f"{name}: gradient of w", of_weight, case["grad_w"], _TOLERANCE)
        yield compare(f"{name}: gradient of s", of_s, case["grad_s"], _TOLERANCE)
        if "n_nonzero" in case:
            yield compare(f"{name}: non-zeros", (effective != 0).sum(), case["n_nonzero"])
    if "getSparsity" in data:
        case = data["getSparsity"]
        weight, s = _tensor(case["weight"]), torch.tensor(case["s"])
        zeros = (soft_threshold(weight, s) == 0).float().mean() * 100
        ours = [zeros, weight.numel(), s.sigmoid()]
        # The percentage is a single-precision number below 100.
        yield compare("sparsity of a layer", ours, case["value"], 100 * _TOLERANCE)
    for case in data.get("threshold_trajectory_no_gradient", []):
        yield from _trajectory(case)


def _tensor(text: str) -> Tensor:
    """Return the tensor of a text such as ``hashval((4,6),61)``."""
    shape, salt = re.findall(r"hashval\(\(([\d,]+)\),\s*(\d+)\)", text)[0]
    return hashval([int(size) for size in shape.split(",") if size], int(salt))


def _trajectory(case: Mapping[str, Any]) -> Iterator[Case]:
    """Let weight decay and momentum alone move s, as long as its gradient underflows to zero."""
    # SGD's steps written out: they are hundreds of thousands, of one number.
    s, velocity = np.float32(case["s_init"]), np.float32(0)
    momentum, decay = np.float32(case["momentum"]), np.float32(case["weight_decay"])
    wanted = {int(epoch): value for epoch, value in case["s_at_end_of_epoch"].items()}
    first = None
    for epoch in range(max([*wanted, case.get("first_epoch_with_nonzero_float32_threshold") or 0])):
        rate = np.float32(case["lr0"] * warmup_cosine(epoch, case["epochs"], case["warmup"]))
        for _ in range(case["steps_per_epoch"]):
            velocity = momentum * velocity + decay * s
            s -= rate * velocity
        if first is None and torch.tensor(s).sigmoid() > 0:
            first = epoch + 1
        if epoch + 1 in wanted:
            value = wanted[epoch + 1]
            name = f"s from {case['s_init']} after epoch {epoch + 1}"
            yield compare(name, s, value, _TOLERANCE * max(1.0, abs(value)))
    if "first_epoch_with_nonzero_float32_threshold" in case:
        expected = case["first_epoch_with_nonzero_float32_threshold"]
        yield compare(f"s from {case['s_init']}: first epoch with a threshold", first, expected)
