"""The published codes of gradual magnitude pruning: sparsity by step, update steps, mask rules."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from acdc.methods import dialects, ramps
from conformance.vectors import Case, compare, hashval

# Single against double precision of a sparsity below 1.
_SINGLE = 1e-7


def schedules_and_masks(data: Any) -> Iterator[Case]:
    """Replay sparsities (1e-7), update steps and masks (exact) of each dialect."""
    yield from _cubic(data)
    for dialect, cases in data.get("mask_update_steps", {}).items():
        if dialect != "note":
            yield from _update_steps(dialect, cases)
    yield from _epochs(data)
    for name, rules in data.items():
        found = re.fullmatch(r"mask_rules_on_([\dx]+)_hash(\d+)", name)
        if found:
            weight = hashval([int(size) for size in found[1].split("x")], int(found[2]))
            for sparsity, cases in rules.items():
                for rule, case in cases.items():
                    yield from _rule(rule, float(sparsity), weight, case)


_GRIDS = {
    "contrib": ramps.updates_since_last,
    "tfmot": ramps.updates_since_begin,
    "jaxpruner": ramps.updates_at_multiples,
    "woodfisher": ramps.updates_since_begin,
    "granet": ramps.updates_before_end,
}


def _update_steps(dialect: str, cases: Mapping[str, Any]) -> Iterator[Case]:
    for name, steps in cases.items():
        begin, end, frequency = (int(number) for number in re.findall(r"=(-?\d+)", name))
        # Without an end updates go on; the original was watched as far as it is listed.
        last = end if end >= 0 else steps[-1]
        if dialect in _GRIDS:
            ours = _GRIDS[dialect](begin, last, frequency)
            yield compare(f"{dialect} updates, {name}", ours, steps)
        else:
            yield Case(f"{dialect} updates, {name}", math.inf, 0.0, "an unknown dialect")


def _cubic(data: Mapping[str, Any]) -> Iterator[Case]:
    by_step = data.get("cubic_by_step", {})
    if by_step:
        begin, end, target = by_step["begin"], by_step["end"], by_step["target"]
        for key, ramp in (
            ("contrib_model_pruning_f32", ramps.cubic_ramp),
            ("rigl_notebook_f64", ramps.cubic_ramp),
            ("jaxpruner_plus_one", ramps.early_cubic_ramp),
        ):
            if key in by_step:
                ours = [ramp(step, begin, end, 0.0, target) for step in by_step["steps"]]
                yield compare(f"sparsity by step, {key}", ours, by_step[key], _SINGLE)
    case = data.get("cubic_initial_nonzero")
    if case:
        steps = case.get("steps") or by_step["steps"]
        bounds = (case["begin"], case["end"], case["initial"], case["target"])
        ours = [ramps.cubic_ramp(step, *bounds) for step in steps]
        yield compare(f"sparsity by step from {case['initial']}", ours, case["values"], _SINGLE)


def _epochs(data: Mapping[str, Any]) -> Iterator[Case]:
    """Replay the ramps that are counted in epochs or in pruning iterations."""
    case = data.get("str_gmp_epochs")
    if case:
        bounds = (case["init_prune_epoch"], case["final_prune_epoch"] + 1, 0.0, case["prune_rate"])
        yield from _by_position("STR", case["by_epoch"], ramps.open_cubic_ramp, bounds)
    case = data.get("woodfisher_schedule")
    if case:
        start, frequency, end = case["epochs_cfg"]
        bounds = (start, end, case["initial"], case["target"])
        yield from _by_position("WoodFisher", case["by_epoch"], ramps.cubic_ramp, bounds)
        ours = ramps.updates_since_begin(start, end, frequency)
        yield compare("WoodFisher epochs", ours, [int(epoch) for epoch in case["by_epoch"]])
        if "mobilenet" in case:
            start, frequency, end = case["mobilenet_cfg"]
            ours = ramps.updates_since_begin(start, end, frequency)
            theirs = [int(epoch) for epoch in case["mobilenet"]]
            yield compare("WoodFisher epochs, MobileNet", ours, theirs)
            # Its target is not written down, but its end is an epoch of the list.
            bounds = (start, end, case["initial"], case["mobilenet"][str(end)])
            name = "WoodFisher, MobileNet"
            yield from _by_position(name, case["mobilenet"], ramps.cubic_ramp, bounds)
    case = data.get("granet_schedule")
    if case:
        bounds = (case["ini"], case["fin"], 1 - case["di"], 1 - case["df"])
        yield from _by_position("GraNet", case["by_iter"], ramps.bounded_cubic_ramp, bounds)
    case = data.get("sparsimony_accelerated_cubic")
    if case:
        bounds = (case["t_accel"], case["t_end"], case["acc"], case["final"])
        yield from _by_position("sparsimony", case["values"], ramps.accelerated_cubic_ramp, bounds)


def _by_position(
    name: str, values: Mapping[str, float | None], ramp: Any, bounds: tuple[Any, ...]
) -> Iterator[Case]:
    for position, value in values.items():
        ours = ramp(int(position), *bounds)
        if value is None or ours is None:
            same = value is None and ours is None
            yield Case(f"{name} at {position}", 0.0 if same else math.inf, 0.0, "no pruning")
        else:
            yield compare(f"{name} at {position}", ours, value, _SINGLE)


def _rule(rule: str, sparsity: float, weight: Tensor, case: Mapping[str, Any]) -> Iterator[Case]:
    name = f"{rule} at {sparsity}"
    scores = {"": dialects.magnitude(weight, None)}
    histogram = dialects.Histogram(256, 0.0)
    if rule.startswith("contrib_hist"):
        nbins, decay = re.findall(r"nbins(\d+)_decay([\d.]+)", rule)[0]
        histogram = dialects.Histogram(int(nbins), float(decay))
        mask = dialects.histogram_rule(scores, sparsity, histogram)[""]
    elif rule == "acdc_woodfisher_percentile_gt":
        mask = dialects.strict_rule(
            {"": dialects.lifted_magnitude(weight, None)}, sparsity, histogram
        )[""]
    else:
        rules = {
            "tfmot_topk_ge": dialects.at_least_rule,
            "str_gmp_sort": dialects.exact_rule,
            "granet_global_gt": dialects.truncated_strict_rule,
            "jaxpruner_topk": dialects.rounded_rule,
        }
        if rule not in rules:
            yield Case(name, math.inf, 0.0, "an unknown rule")
            return
        mask = rules[rule](scores, sparsity, histogram)[""]
    if "mask" in case:
        yield compare(f"{name}: mask", mask, case["mask"])
    if "n_kept" in case:
        yield compare(f"{name}: kept", mask.sum(), case["n_kept"])
    if "n_pruned" in case:
        yield compare(f"{name}: pruned", (~mask).sum(), case["n_pruned"])
    if "threshold" in case and rule.startswith("contrib_hist"):
        yield compare(f"{name}: threshold", histogram.thresholds[""], case["threshold"], _SINGLE)
