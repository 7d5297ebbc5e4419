"""The columns of tables and the plots of figures, by the names that experiments use.

A new column is one entry here. Plain data without slow imports: a study is validated against it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Form = Literal["percent", "ratio", "number", "perplexity", "nats"]
Source = Literal["row", "dense", "fine_tuned"]

_LATENCY = "timing inference in a sparse engine"


@dataclass(frozen=True)
class PaperFlops:
    """How the paper prints the absolute FLOPs of its dense row."""

    metric: str
    """Name in paper/tables.csv."""
    prefix: str
    unit: float
    """FLOPs of one unit with the prefix."""


@dataclass(frozen=True)
class Column:
    """One column of a table: what it shows, of which model, and how that is measured."""

    heading: str
    source: Source
    """The model that is measured: the row's own product, the dense one of the same runs, or that of
    the dense fine-tuning that continues them."""
    form: Form
    """``percent`` of a fraction and ``perplexity`` with two decimals; ``ratio`` and ``nats`` with
    three; ``number`` with one."""
    metrics: tuple[str, ...] = ()
    """Names of the paper's value in paper/tables.csv; the first that exists is shown."""
    field: str | None = None
    """Field of a run's record (``reports.aggregate.RunRow``) that is averaged over seeds; None for
    what cannot be measured yet."""
    over: str | None = None
    """Field by which it is divided; that of a whole training is scaled to the task's epochs."""
    paper_flops: PaperFlops | None = None
    optional: bool = False
    """Whether a run may lack it, and is then left out of the mean."""
    awaits: str | None = None
    """The missing part without which this cannot be measured; None for what is measured."""

    @property
    def absolute(self) -> str | None:
        """The field of the absolute FLOPs of which the column is the ratio, of the row's model."""
        is_flops = self.over and self.source == "row" and not self.optional
        return self.field if is_flops else None


_TOP1 = "test_accuracy"
_PPL = "test_perplexity"
_ZEROS = "sparsity_achieved"
_INFERENCE = ("inference_flops", "dense_inference_flops")
_DENSE = "dense_training_flops"

COLUMNS: dict[str, Column] = {
    "top1": Column("top-1 (%)", "row", "percent", ("top1", "sparse_top1"), _TOP1),
    "dense_top1": Column("dense model's top-1 (%)", "dense", "percent", ("dense_top1",), _TOP1),
    "dense_ft_top1": Column(
        "fine-tuned dense model's top-1 (%)", "fine_tuned", "percent", ("dense_ft_top1",), _TOP1
    ),
    "companion_top1": Column(
        "dense companion's top-1 (%)",
        "fine_tuned",
        "percent",
        ("dense_ft_top1", "dense_top1"),
        _TOP1,
    ),
    "inference_ratio": Column(
        "inference FLOPs",
        "row",
        "ratio",
        ("inference_flops_ratio",),
        *_INFERENCE,
        paper_flops=PaperFlops("inference_gflops", "G", 1e9),
    ),
    "training_ratio": Column(
        "training FLOPs",
        "row",
        "ratio",
        ("train_flops_ratio",),
        "training_flops",
        _DENSE,
        paper_flops=PaperFlops("train_eflops", "E", 1e18),
    ),
    "time_ratio": Column(
        "measured time", "row", "ratio", (), "training_time", "epochs", optional=True
    ),
    "published_ratio": Column(
        "training FLOPs, as published", "row", "ratio", (), "training_flops_published", _DENSE
    ),
    "zero_weights": Column(
        "dense model's zeros (%)", "dense", "percent", ("zero_weights_pct",), _ZEROS
    ),
    "zero_weights_ft": Column("after fine-tuning (%)", "fine_tuned", "percent", (), _ZEROS),
    "dense_dead_filters": Column(
        "dense model's dead filters", "dense", "number", (), "dead_filters"
    ),
    "dense_inference_ratio": Column(
        "dense model's inference FLOPs", "dense", "ratio", (), *_INFERENCE
    ),
    "sparse_ppl": Column("perplexity", "row", "perplexity", ("sparse_ppl", "dense_ppl"), _PPL),
    "dense_ppl": Column("dense model's perplexity", "dense", "perplexity", ("dense_ppl",), _PPL),
    "dense_ft_ppl": Column(
        "fine-tuned dense model's perplexity", "fine_tuned", "perplexity", ("dense_ft_ppl",), _PPL
    ),
    "latency_batch1": Column(
        "ms, batch 1, 4 cores", "row", "number", ("latency_ms_bs1_4cores",), awaits=_LATENCY
    ),
    "latency_batch64": Column(
        "ms, batch 64, 16 cores", "row", "number", ("latency_ms_bs64_16cores",), awaits=_LATENCY
    ),
    "agreement": Column(
        "same class (%)", "row", "percent", ("agreement",), "agreement", optional=True
    ),
    "cross_entropy": Column(
        "cross entropy", "row", "nats", ("cross_entropy",), "cross_entropy", optional=True
    ),
}

SCORES = {"top1", "sparse_ppl"}
"""The columns of the metric by which rows are compared."""

Plot = Literal[
    "schedule",
    "accuracy_by_epoch",
    "accuracy_by_flops",
    "step_speedup",
    "flips",
    "mask_change",
    "sparse_flops",
    "dense_flops",
    "relabelled_true",
    "relabelled_given",
]
"""``schedule``: accuracy above sparsity, phases shaded; ``step_speedup``: of a training step,
measured and by FLOPs; ``flips``: images that the sparse and the dense model get right;
``mask_change``: between consecutive masks; ``sparse_flops`` and
``dense_flops``: of inference at the end of each sparse or dense phase; ``relabelled``: accuracy on
relabelled training images against their true or their given label."""
