"""What a table can show and a figure can plot, by the names that experiments use.

Plain data without imports that take time: a study is checked against it before anything runs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Form = Literal["percent", "ratio", "number"]
Source = Literal["row", "dense", "fine_tuned"]


@dataclass(frozen=True)
class Column:
    """One column of a table."""

    heading: str
    source: Source
    """Which model it is of: the row's own product, the dense one of the same runs, or that of the
    dense fine-tuning that goes on from them."""
    metrics: tuple[str, ...]
    """What the paper's value is called in paper/tables.csv; the first that is there is meant."""
    form: Form
    """``percent`` with two decimals, ``ratio`` to dense training or inference with three."""
    awaits: str | None = None
    """What has to exist before this can be measured; nothing for what is measured."""


_TRANSFORMER = "Transformer-XL and WikiText-103"
_PAIRS = "comparing the outputs of two models"
_LATENCY = "timing inference in a sparse engine"

COLUMNS: dict[str, Column] = {
    "top1": Column("top-1 (%)", "row", ("top1", "sparse_top1"), "percent"),
    "dense_top1": Column("dense model's top-1 (%)", "dense", ("dense_top1",), "percent"),
    "dense_ft_top1": Column(
        "fine-tuned dense model's top-1 (%)", "fine_tuned", ("dense_ft_top1",), "percent"
    ),
    "companion_top1": Column(
        "dense companion's top-1 (%)", "fine_tuned", ("dense_ft_top1", "dense_top1"), "percent"
    ),
    "inference_ratio": Column("inference FLOPs", "row", ("inference_flops_ratio",), "ratio"),
    "training_ratio": Column("training FLOPs", "row", ("train_flops_ratio",), "ratio"),
    "published_ratio": Column("training FLOPs, as published", "row", (), "ratio"),
    "zero_weights": Column("dense model's zeros (%)", "dense", ("zero_weights_pct",), "percent"),
    "zero_weights_ft": Column("after fine-tuning (%)", "fine_tuned", (), "percent"),
    "dead_filters": Column("dense model's dead filters", "dense", (), "number"),
    "dense_inference_ratio": Column("dense model's inference FLOPs", "dense", (), "ratio"),
    "sparse_ppl": Column("perplexity, sparse", "row", ("sparse_ppl",), "number", _TRANSFORMER),
    "dense_ppl": Column("perplexity, dense", "dense", ("dense_ppl",), "number", _TRANSFORMER),
    "dense_ft_ppl": Column(
        "perplexity, fine-tuned", "fine_tuned", ("dense_ft_ppl",), "number", _TRANSFORMER
    ),
    "latency_batch1": Column(
        "ms, batch 1, 4 cores", "row", ("latency_ms_bs1_4cores",), "number", _LATENCY
    ),
    "latency_batch64": Column(
        "ms, batch 64, 16 cores", "row", ("latency_ms_bs64_16cores",), "number", _LATENCY
    ),
    "agreement": Column("same top-1 (%)", "fine_tuned", ("agreement",), "percent", _PAIRS),
    "cross_entropy": Column("cross entropy", "fine_tuned", ("cross_entropy",), "number", _PAIRS),
}

Plot = Literal[
    "schedule",
    "accuracy_by_epoch",
    "accuracy_by_flops",
    "mask_change",
    "sparse_flops",
    "dense_flops",
    "relabelled_true",
    "relabelled_given",
]
"""``schedule``: accuracy above sparsity, phases shaded; ``mask_change``: between consecutive masks;
``sparse_flops`` and ``dense_flops``: of inference at the end of each sparse or dense phase;
``relabelled``: accuracy on relabelled training images against their true or their given label."""
