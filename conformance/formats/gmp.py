"""Published code of gradual magnitude pruning: sparsity by step, update steps, mask rules."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from baselines import _dialects, _ramps
from conformance.vectors import Case, compare, hashval

# Single against double precision of a sparsity below 1.
_SINGLE = 1e-7


def schedules_and_masks(data: Any) -> Iterator[Case]:
    """Replay sparsities (1e-7), update steps and masks (exact)."""
    yield from _cubic(data["cubic_by_step"], data["cubic_initial_nonzero"])
    for name, steps in data["mask_update_steps"]["contrib"].items():
        begin, end, frequency = (int(number) for number in re.findall(r"=(-?\d+)", name))
        # Without an end the updates continue; the original's are listed up to a point.
        ours = _ramps.updates_since_last(begin, end if end >= 0 else steps[-1], frequency)
        yield compare(f"contrib updates, {name}", ours, steps)
    yield from _woodfisher(data["woodfisher_schedule"])
    for name, rules in data.items():
        found = re.fullmatch(r"mask_rules_on_([\dx]+)_hash(\d+)", name)
        if found:
            weight = hashval([int(size) for size in found[1].split("x")], int(found[2]))
            for sparsity, cases in rules.items():
                for rule, case in cases.items():
                    yield from _rule(rule, float(sparsity), weight, case)


def _cubic(by_step: Mapping[str, Any], nonzero: Mapping[str, Any]) -> Iterator[Case]:
    begin, end, target = by_step["begin"], by_step["end"], by_step["target"]
    ours = [_ramps.cubic_ramp(step, begin, end, 0.0, target) for step in by_step["steps"]]
    for key in ("contrib_model_pruning_f32", "rigl_notebook_f64"):
        yield compare(f"sparsity by step, {key}", ours, by_step[key], _SINGLE)
    bounds = (nonzero["begin"], nonzero["end"], nonzero["initial"], nonzero["target"])
    ours = [_ramps.cubic_ramp(step, *bounds) for step in by_step["steps"]]
    yield compare(f"sparsity by step from {nonzero['initial']}", ours, nonzero["values"], _SINGLE)


def _woodfisher(case: Mapping[str, Any]) -> Iterator[Case]:
    start, frequency, end = case["epochs_cfg"]
    yield from _epochs("WoodFisher", case["by_epoch"], start, frequency, end, case, case["target"])
    start, frequency, end = case["mobilenet_cfg"]
    # Its target is not written down, but its end is an epoch of the list.
    values = case["mobilenet"]
    name = "WoodFisher, MobileNet"
    yield from _epochs(name, values, start, frequency, end, case, values[str(end)])


def _epochs(
    name: str,
    values: Mapping[str, float],
    start: int,
    frequency: int,
    end: int,
    case: Mapping[str, Any],
    target: float,
) -> Iterator[Case]:
    epochs = [int(epoch) for epoch in values]
    yield compare(f"{name}: epochs", _ramps.updates_since_begin(start, end, frequency), epochs)
    ours = [_ramps.cubic_ramp(epoch, start, end, case["initial"], target) for epoch in epochs]
    yield compare(f"{name}: sparsities", ours, values.values(), _SINGLE)


def _rule(rule: str, sparsity: float, weight: Tensor, case: Mapping[str, Any]) -> Iterator[Case]:
    name = f"{rule} at {sparsity}"
    scores = {"": _dialects.magnitude(weight, None)}
    histogram = _dialects.Histogram(256, 0.0)
    if rule.startswith("contrib_hist"):
        nbins, decay = re.findall(r"nbins(\d+)_decay([\d.]+)", rule)[0]
        histogram = _dialects.Histogram(int(nbins), float(decay))
        mask = _dialects.histogram_rule(scores, sparsity, histogram)[""]
        ours = histogram.thresholds[""]
        yield compare(f"{name}: threshold", ours, case["threshold"], _SINGLE)
    elif rule == "acdc_woodfisher_percentile_gt":
        lifted = {"": _dialects.lifted_magnitude(weight, None)}
        mask = _dialects.strict_rule(lifted, sparsity, histogram)[""]
    elif rule == "str_gmp_sort":
        mask = _dialects.exact_rule(scores, sparsity, histogram)[""]
    else:
        return
    if "mask" in case:
        yield compare(f"{name}: mask", mask, case["mask"])
    if "n_kept" in case:
        yield compare(f"{name}: kept", mask.sum(), case["n_kept"])
    if "n_pruned" in case:
        yield compare(f"{name}: pruned", (~mask).sum(), case["n_pruned"])
