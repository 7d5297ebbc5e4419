"""Tidy tables made of nothing but a claim, as this file reads it: they support or contradict it."""

import math
import random
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
from scipy.optimize import linprog

from acdc.data import DATASETS
from acdc.run.result import CertifiedLayer
from reports.aggregate import RunRow, Tables
from reports.claims import Claim
from study.model import Row, Study
from study.resolve import load

SEEDS = (1, 2, 3, 4)
PHASES, LENGTH, DROP = 8, 3, 30
"""Pairs of a dense and a sparse phase, epochs of a phase, the epoch of a lower learning rate."""
EPOCHS = 2 * PHASES * LENGTH
DENSE_FLOPS, IMAGES = 1e6, 100
OTHERS = "every other method"

# By the last word of a quantity's name: least and largest value, and what tells two values apart.
RANGES = {
    "top1": (30, 95, 0.1),
    "ppl": (15, 40, 0.1),
    "ratio": (0.02, 3, 0.004),
    "weights": (0, 100, 0.1),
    "agreement": (0, 100, 0.1),
    "entropy": (0.1, 3, 0.01),
    "trend": (-1, 1, 0.01),
    "left": (0.01, 1, 0.01),
    "range": (0, 1, 0.01),
    "fall": (0, 0.9, 0.01),
    "error": (0, 1, 0),
    "layers": (0, 3, 0),
    "dips": (0, 100, 1),
    "recoveries": (0, 100, 1),
}
RELABELLED = (0, 100, 0.5)


@cache
def study() -> Study:
    """The suite's experiments at smoke scale, with runs of four seeds for each of their rows."""
    found = load("smoke")
    names: dict[Row, Row] = {}

    def trained(row: Row) -> Row:
        if row.method is None:
            return row
        runs, tuned = (
            tuple(f"{kind}{len(names)}_{seed}" for seed in SEEDS) for kind in ("run", "tuned")
        )
        return names.setdefault(row, replace(row, runs=runs, fine_tuned=tuned))

    return replace(
        found,
        experiments=tuple(
            replace(
                each,
                rows=tuple(map(trained, each.rows)),
                panels=tuple(
                    replace(panel, rows=tuple(map(trained, panel.rows))) for panel in each.panels
                ),
            )
            for each in found.experiments
        ),
    )


@dataclass(frozen=True)
class Bound:
    """The reading of a line of a predicate: low <= a - b <= high; a - b < wrong contradicts it."""

    a: str
    b: str
    low: float
    high: float
    wrong: float


def rows_of(term: str, claim: Claim) -> list[Row]:
    """Return the rows of a term, by hand: all of its sparsity for OTHERS."""
    label, _, place = term.partition(" of ")[2].partition(" in ")
    label, _, sparsity = label.rpartition(" at ") if label.endswith(" %") else (label, "", "0 %")
    experiment = study().experiment(place or claim.experiment)
    percent = float(sparsity.removesuffix(" %"))
    return [
        row
        for row in experiment.all_rows
        if math.isclose(100 * row.sparsity, percent) and label in (row.label, OTHERS)
    ]


def bounds(lines: Any, claim: Claim) -> Iterator[Bound]:
    """Read a predicate."""
    inf = math.inf
    for line in lines:
        if order := line.get("increasing") or line.get("decreasing"):
            order = order if "increasing" in line else order[::-1]
            yield from (Bound(b, a, 0, inf, 0) for a, b in pairwise(order))
        elif a := line.get("value") or line.get("each"):
            low = line.get("from", -inf)
            yield Bound(a, "", low, line.get("to", inf), low)
        elif a := line.get("equal"):
            yield Bound(a, line["to"], -line["within"], line["within"], -line["within"])
        else:
            a = line.get("greater") or line["no_less"]
            low = line.get("by", -line.get("within", 0.0))
            for b in [line["than"]] if isinstance(line["than"], str) else line["than"]:
                labels = {""}
                if OTHERS in b:
                    ours = rows_of(a, claim)[0].method
                    labels = {r.label for r in rows_of(b, claim) if r.method not in (ours, None)}
                for other in (b.replace(OTHERS, label) for label in sorted(labels)):
                    yield Bound(a, other, low, line.get("by_less_than", inf), min(low, 0.0))


def name_of(term: str) -> str:
    return term.partition(" of ")[0]


def range_of(term: str) -> tuple[float, float, float]:
    name = name_of(term)
    return RELABELLED if re.match("given_|true_", name) else RANGES[name.rpartition("_")[2]]


def solve(claim: Claim, wrong: Bound | None = None, above: bool = False) -> dict[str, float] | None:
    """Return values of a claim's terms by which it holds, or by which one line of it fails.

    A failing value lies as far below what the line allows as values of that name go, or above.
    """
    required = list(bounds(claim.requires, claim))
    stated = list(bounds(claim.predicate, claim))
    terms = list(dict.fromkeys(t for each in required + stated for t in (each.a, each.b) if t))
    matrix, ends, goal = [], [], np.zeros(len(terms))

    def vector(each: Bound) -> np.ndarray:
        return np.array([(t == each.a) - (t == each.b) for t in terms], float)

    for each in required + (stated if wrong is None else []):
        gap = range_of(each.a)[2]
        for sign, end in ((-1, -each.low - gap), (1, each.high - gap)):
            if math.isfinite(end):
                matrix.append(sign * vector(each))
                ends.append(end)
    if wrong is not None:
        goal = -vector(wrong) if above else vector(wrong)
    found = linprog(goal, matrix or None, ends or None, bounds=[range_of(t)[:2] for t in terms])
    assert found.success, found.message
    values = dict(zip(terms, found.x, strict=True))
    if wrong is not None:
        value = vector(wrong) @ found.x
        gap = range_of(wrong.a)[2] or 0.1
        if not (value > wrong.high + gap if above else value < wrong.wrong - gap):
            return None
    return values


def journal(run: str, seed: int, told: Mapping[str, float]) -> Iterator[dict[str, Any]]:
    """Yield the lines of a run whose statistics are as told."""
    fall, spread = told.get("dense_flops_fall", 0.0), told.get("sparse_flops_range", 0.0)
    change = {1.0: lambda k: k + 1.0, -1.0: lambda k: PHASES - k + 0.0}
    spent, accuracy = 0.0, 0.5
    for epoch in range(EPOCHS):
        phase, at = divmod(epoch, LENGTH)
        kind, k = ("dense", "sparse")[phase % 2], phase // 2
        if kind == "sparse" and at == 0:
            value = None
            if k:
                value = change[math.copysign(1, told.get("mask_change_trend", -1))](k)
                if k in (1, PHASES - 1) and "mask_change_left" in told:
                    value = 1.0 if k == 1 else told["mask_change_left"]
            yield {
                "run": run,
                "seed": seed,
                "epoch": epoch,
                "event": "prune",
                "mask_change_of_kept": value,
            }
        share = k / (PHASES - 1)
        flops = DENSE_FLOPS * (
            (1 - share * fall) if kind == "dense" else 0.2 * (1 + share * spread)
        )
        cost = 3 * flops if kind == "sparse" else 2 * flops + DENSE_FLOPS
        spent += IMAGES * cost * (1 + told.get("flops_rule_error", 0.0))
        accuracy = 0.5
        if kind == "sparse":
            dips = k < round(told.get("dips", 0) * PHASES / 100)
            recovers = k < round(told.get("recoveries", 0) * PHASES / 100)
            accuracy += (-0.1 if dips else 0.1) + (0.02 if recovers else -0.02) * (at > 0)
            if "peak_trend" in told:
                accuracy = 0.5 + math.copysign(0.01 * k, told["peak_trend"])
        line = {
            **{"run": run, "seed": seed, "epoch": epoch, "phase": kind, "val_accuracy": accuracy},
            **{"forward_flops": flops, "train_flops": spent},
            "learning_rate": 0.1 if epoch < DROP else 0.01,
        }
        for label in ("given", "true"):
            places = [f"in_{kind}"] if epoch >= DROP else ["before_drop"]
            places += ["last"] * (epoch == EPOCHS - 1)
            places += ["last_dense"] * (epoch == EPOCHS - LENGTH - 1)
            told_here = [told[f"{label}_{p}"] for p in places if f"{label}_{p}" in told]
            line[f"relabelled_{label}_accuracy"] = (told_here or [10.0])[-1] / 100
        yield line


def layers(told: Mapping[str, float]) -> tuple[CertifiedLayer, ...]:
    """Return ten layers, sparser with depth or the other way, of which some keep nothing."""
    kept = [100 - 5 * i if told.get("depth_trend", 1) > 0 else 50 + 5 * i for i in range(10)]
    kept[: round(told.get("emptied_layers", 0))] = [0] * round(told.get("emptied_layers", 0))
    return tuple(
        CertifiedLayer(name=f"{i}", weights=100, kept=k, nonzeros=k, flops=0)
        for i, k in enumerate(kept)
    )


def tables(claim: Claim, values: Mapping[str, float], **other: Any) -> Tables:
    """Return the tidy tables of runs whose terms have some values, with a little noise by seed.

    Args:
        claim: whose terms they are.
        values: by term.
        other: seeds: the seeds that have finished; chance: accuracy of the first seed of each
            row's own model; unpruned: whether fine-tuning started before the first pruning.
    """
    told: dict[Row, dict[str, float]] = {}
    for term, value in values.items():
        for row in rows_of(term, claim):
            told.setdefault(row, {})[name_of(term)] = value
    rows, lines, certified = [], [], {}
    for row, mine in told.items():
        for i, (run, tuned) in enumerate(zip(row.runs, row.fine_tuned, strict=True)):
            draw, seed = random.Random(run), SEEDS[i]
            noisy = {
                name: value + range_of(name + " of ")[2] * draw.uniform(-0.1, 0.1)
                for name, value in mine.items()
            }
            rows += records(row, run, tuned, seed, noisy, other)
            lines += journal(run, seed, noisy)
            certified[run] = layers(noisy)
    return Tables(tuple(rows), tuple(lines), (), certified)


def records(
    row: Row, run: str, tuned: str, seed: int, told: Mapping[str, float], other: Mapping[str, Any]
) -> Iterator[RunRow]:
    """Yield the models of a run and of its fine-tuning."""
    whole = 3 * DENSE_FLOPS * IMAGES * EPOCHS
    per_ratio = whole / EPOCHS * row.task.epochs
    common = {
        **{"fingerprint": "", "model": "", "dataset": row.task.dataset, "method": str(row.method)},
        **{"sparsity_requested": row.sparsity, "seed": seed, "epochs": EPOCHS},
        "dense_inference_flops": DENSE_FLOPS,
        "inference_flops": told.get("inference_ratio", 0.5) * DENSE_FLOPS,
        "dense_training_flops": whole,
        "sparsity_achieved": told.get("zero_weights", 0.0) / 100,
    }
    if seed not in other.get("seeds", SEEDS):
        yield from (RunRow(run=name, status="missing", **common) for name in (run, tuned))
        return
    accuracies = {"sparse": "top1", "dense": "dense_top1", row.product: "top1"}
    perplexities = {"sparse": "sparse_ppl", "dense": "dense_ppl", row.product: "sparse_ppl"}
    for product in dict.fromkeys((row.product, "dense")):
        for which in ("last", "best"):
            accuracy = told.get(accuracies[product], 50.0) / 100
            perplexity = told.get(perplexities[product], 30.0)
            if product == row.product and seed == SEEDS[0] and "chance" in other:
                accuracy, perplexity = other["chance"], DATASETS[row.task.dataset].answers
            cost = {"training_flops": told.get("training_ratio", 0.5) * per_ratio}
            model = {"product": product, "which": which, "epoch": EPOCHS - 9}
            if product == "sparse":
                model["agreement"] = told.get("agreement", 90.0) / 100
                model["cross_entropy"] = told.get("cross_entropy", 0.5)
            yield RunRow(
                run=run, status="finished", test_accuracy=accuracy, certificate_holds=True,
                test_perplexity=perplexity, test_loss=math.log(perplexity),
                **common, **cost, **model,
            )  # fmt: skip
    tuned_ppl = told.get("dense_ft_ppl", 30.0)
    for which in ("last", "best"):
        yield RunRow(
            run=tuned, status="finished", product="dense", which=which, epoch=EPOCHS - 1,
            test_accuracy=told.get("dense_ft_top1", 50.0) / 100, certificate_holds=True,
            training_flops=told.get("co_training_ratio", 0.7) * per_ratio, **common,
            test_perplexity=tuned_ppl, test_loss=math.log(tuned_ppl),
            before_pruning=other.get("unpruned", False),
        )  # fmt: skip
