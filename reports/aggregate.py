"""The runs of a study as tidy tables: runs, epochs and events."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from acdc.data import DATASETS
from acdc.errors import RunDirectoryError
from acdc.metrics import PERPLEXITY
from acdc.run.reader import (
    AGREEMENT,
    Agreement,
    Attempt,
    RunRecord,
    read_agreements,
    read_run,
)
from acdc.run.result import CertifiedLayer, DivergedResult, Evaluation, FailedResult, FinishedResult
from acdc.sparsity.certificate import objections
from study.model import Run

if TYPE_CHECKING:
    import pandas as pd

Status = Literal["finished", "diverged", "refused", "failed", "missing"]
"""How a run ended. ``refused``: finished, but a sparsity certificate does not hold. ``missing``: no
result, or one that cannot be read."""

_DTYPES = {
    "str": "str",
    "Status": "str",
    "str | None": "str",
    "int": "int64",
    "int | None": "Int64",
    "float": "float64",
    "float | None": "float64",
    "bool | None": "boolean",
}


@dataclass(frozen=True, kw_only=True)
class RunRow:
    """One line of tables/runs.csv: an evaluated model of a run, or a run without any.

    Accuracies are fractions; FLOPs are those of one image (inference) or of the whole run
    (training), ratios those to dense training of the same model for as many epochs.
    """

    run: str
    fingerprint: str
    status: Status
    """Never ``refused``, which is the state of one model: see ``certificate_holds``."""
    model: str
    dataset: str
    method: str
    variant: str | None = None
    label: str | None = None
    sparsity_requested: float
    seed: int
    epochs: int
    product: str | None = None
    which: str | None = None
    """``last`` or ``best``."""
    epoch: int | None = None
    diverged_at: int | None = None
    error: str | None = None
    """Why the run failed, or why the result of a missing one cannot be read."""
    sparsity_achieved: float | None = None
    """Over all prunable weights."""
    sparsity_pruned: float | None = None
    """Over the layers that are not exempt."""
    exempt: str | None = None
    """Layers, separated by spaces."""
    sparsity_is_outcome: bool | None = None
    """Whether the method has no target for it, so that the requested one is but expected."""
    before_pruning: bool | None = None
    """Whether it is a dense model of before the run's first pruning, or was fine-tuned from one."""
    certificate_holds: bool | None = None
    certificate_failures: str | None = None
    """Separated by ``FAILURES``."""
    dead_filters: int | None = None
    mask_change_epoch: int | None = None
    """``mask_change``: at the last pruning that had one before it; ``before``: one earlier."""
    mask_change_relative: float | None = None
    mask_change_of_kept: float | None = None
    mask_change_jaccard: float | None = None
    mask_change_of_kept_before: float | None = None
    val_accuracy: float | None = None
    val_loss: float | None = None
    test_accuracy: float | None = None
    test_loss: float | None = None
    test_perplexity: float | None = None
    """Of data sets that are judged by it."""
    inference_flops: float | None = None
    dense_inference_flops: float | None = None
    inference_ratio: float | None = None
    training_flops: float | None = None
    training_flops_published: float | None = None
    published_formula: str | None = None
    dense_training_flops: float | None = None
    training_ratio: float | None = None
    prunable_weights: int | None = None
    step_speedup: float | None = None
    """Time of a dense training step over that of a sparse one, measured with the run's masks."""
    training_time: float | None = None
    """In epochs of dense training: steps are sparse in sparse phases, else dense."""
    agreement: float | None = None
    """Of test images, those that the sparse model and its dense companion put into one class."""
    cross_entropy: float | None = None
    """Mean over the test images, of the companion's outputs with those of the sparse model."""
    both_right: float | None = None
    sparse_right: float | None = None
    dense_right: float | None = None
    """Of test images, those that only the companion classifies correctly."""
    train_s: float | None = None
    wall_s: float | None = None
    attempts: int | None = None
    git_revision: str | None = None
    git_clean: bool | None = None
    source_digest: str | None = None
    processor: str | None = None
    cores: int | None = None
    device: str | None = None
    engine: str | None = None
    """Device, precision and compilation; those of all attempts, separated by ``, then ``."""
    torch: str | None = None


RUN_COLUMNS = {field.name: _DTYPES[str(field.type)] for field in fields(RunRow)}
"""The type of each column of the table of runs."""

FAILURES = "; "
"""Separates the reasons for which a certificate does not hold."""

_COMPARED = ("agreement", "cross_entropy", "both_right", "sparse_right", "dense_right")
"""Fields of a comparison with a dense model, by their names in ``Agreement``."""
_FIRST_EPOCH_COLUMNS = ("run", "seed", "epoch")


@dataclass(frozen=True)
class Tables:
    """The tidy tables of some runs of a study, in its order."""

    rows: tuple[RunRow, ...]
    """One row per run, product and which; a run that has not finished has one row."""
    journal: tuple[Mapping[str, Any], ...] = ()
    """The lines of all journals: epochs, and events (prune, restore, update, resume)."""
    problems: tuple[str, ...] = ()
    """Files that cannot be read, one sentence each."""
    layers: Mapping[str, tuple[CertifiedLayer, ...]] = field(default_factory=dict)
    """The layers of each run's own product after the last epoch, from its certificate."""

    @functools.cached_property
    def by_run(self) -> dict[str, list[RunRow]]:
        """The rows of each run."""
        found: dict[str, list[RunRow]] = {}
        for row in self.rows:
            found.setdefault(row.run, []).append(row)
        return found

    @functools.cached_property
    def runs(self) -> pd.DataFrame:
        """The rows as a frame."""
        import pandas as pd

        rows = [vars(row) for row in self.rows]
        return pd.DataFrame(rows, columns=list(RUN_COLUMNS)).astype(RUN_COLUMNS)

    @functools.cached_property
    def epochs(self) -> pd.DataFrame:
        """One row per run and epoch: the numbers of the journal."""
        lines = (line for line in self.journal if "event" not in line)
        return _leading(lines, _FIRST_EPOCH_COLUMNS)

    @functools.cached_property
    def events(self) -> pd.DataFrame:
        """One row per run and event."""
        lines = (line for line in self.journal if "event" in line)
        return _leading(lines, (*_FIRST_EPOCH_COLUMNS, "event"))

    def progress(self, names: Iterable[str]) -> str:
        """Return how many of some runs exist, such as ``12 of 15 runs so far``; empty if all do."""
        named = set(names)
        missing = {row.run for row in self.rows if row.status == "missing" and row.run in named}
        return f"{len(named) - len(missing)} of {len(named)} runs so far" if missing else ""

    def mixture(self, names: Iterable[str]) -> list[str]:
        """Return a sentence on runs that were computed in several ways; none if in one."""
        ways = Counter(self.by_run[name][0].engine for name in dict.fromkeys(names))
        ways.pop(None, None)
        if len(ways) < 2:
            return []
        listed = "; ".join(f"{way} ({count})" for way, count in ways.items())
        return [f"Mixed: runs computed in ways whose rounding differs as seeds do: {listed}."]


def read_runs(folder: Path, runs: Mapping[str, Run]) -> Tables:
    """Read what some runs of a study have left; a run without a readable result is missing.

    Args:
        folder: of the study.
        runs: of the study, by name.
    """
    rows: list[RunRow] = []
    journal: list[dict[str, Any]] = []
    problems: list[str] = []
    layers = {}
    records = {name: read_run(folder / "runs" / name) for name in runs}
    agreements: dict[str, Agreement] = {}
    for path in sorted((folder / AGREEMENT).glob("*.json")):
        try:
            agreements |= {each.run: each for each in read_agreements(path)}
        except RunDirectoryError as error:
            problems.append(str(error).replace(f"{folder}/", ""))
    for name, run in runs.items():
        record = records[name]
        # Without the path of the study, so that a copy of it makes the same tables.
        found = [problem.replace(f"{folder}/", "") for problem in record.problems]
        cut = record.journal.problem if record.result else None
        if cut:
            found.append(cut.replace(f"{folder}/", ""))
        parent = None
        if run.parent:
            parent = records.get(run.parent) or read_run(folder / "runs" / run.parent)
        mine = list(_rows(record, run.config, found, parent, agreements.get(name)))
        rows += mine
        problems += found
        # Of a journal that is not whole nothing is shown: a series cut short looks like a result.
        if mine[0].status != "missing" and not cut:
            identity = {"run": name, "seed": run.config["seed"]}
            journal += [identity | _flat(line) for line in record.journal.lines]
        if isinstance(record.result, FinishedResult):
            certificate = record.result.products[record.result.primary].last.certificate
            layers[name] = certificate.layers if certificate else ()
    return Tables(tuple(rows), tuple(journal), tuple(problems), layers)


def _rows(
    record: RunRecord,
    config: Mapping[str, Any],
    problems: list[str],
    parent: RunRecord | None,
    agreement: Agreement | None,
) -> Iterator[RunRow]:
    """Yield the rows of a run."""
    name, result = record.folder.name, record.result
    row = RunRow(
        run=name,
        fingerprint=name.rpartition("-")[2],
        status="missing",
        sparsity_requested=config["sparsity"],
        **{key: config[key] for key in ("model", "dataset", "method", "seed", "epochs")},
    )
    if result is None and not (record.failure and record.failure.final):
        yield replace(row, error=FAILURES.join(problems) or None)
        return
    row = replace(row, **_origin(record))
    if result is None:
        assert record.failure is not None
        yield replace(row, status="failed", error=" ".join(record.failure.error.split()))
        return
    row = replace(row, status=result.status, variant=result.variant, label=result.label)
    if isinstance(result, FailedResult):
        yield replace(row, error=" ".join(result.error.split()))
        return
    row = replace(row, **_trained(result), **_timed(record, parent, config))
    if isinstance(result, DivergedResult):
        # The FLOPs until then are the cost of no model.
        row = replace(row, training_flops=None, training_flops_published=None, training_ratio=None)
        yield replace(row, diverged_at=result.diverged_at)
        return
    unpruned = parent is not None and _is_unpruned(parent)
    for product, evaluations in result.products.items():
        requested = row.sparsity_requested if product == "sparse" else 0.0
        for which in ("last", "best"):
            evaluation: Evaluation = getattr(evaluations, which)
            values = _evaluated(evaluation, result, requested)
            if agreement is not None and (product, which) == ("sparse", "last"):
                values |= {name: getattr(agreement, name) for name in _COMPARED}
            early = product == "dense" and evaluation.epoch < _first_pruning(record)
            row = replace(row, product=product, which=which, **values)
            yield replace(row, before_pruning=unpruned or early)


def _first_pruning(record: RunRecord) -> int:
    """Return the epoch of a run's first pruning; 0 if it has none."""
    prunings = (line["epoch"] for line in record.journal.lines if line.get("event") == "prune")
    return min(prunings, default=0)


def _is_unpruned(record: RunRecord) -> bool:
    """Return whether fine-tuning would start from a model of before a run's first pruning."""
    products = record.result.products if isinstance(record.result, FinishedResult) else {}
    return "dense" in products and products["dense"].best.epoch < _first_pruning(record)


def _origin(record: RunRecord) -> dict[str, Any]:
    """Return where and by which code the first attempt at a run was made, where recorded."""
    if not record.provenance:
        return {}
    attempts = record.provenance
    first = attempts[0]
    return {
        "git_revision": first.git.revision,
        "git_clean": first.git.clean,
        "source_digest": record.source_digest,
        "processor": first.hardware.processor,
        "cores": first.hardware.cores,
        "device": first.hardware.device,
        "engine": ", then ".join(dict.fromkeys(_engine(each, record) for each in attempts)),
        "torch": first.packages.get("torch"),
    }


def _engine(attempt: Attempt, record: RunRecord) -> str:
    precision = (record.config or {}).get("precision")
    compiled = attempt.compile and f"torch.compile {attempt.compile}"
    return ", ".join(filter(None, (attempt.hardware.device, precision, compiled)))


def _trained(result: FinishedResult | DivergedResult) -> dict[str, Any]:
    """Return what a run measured of its training."""
    flops, changes = result.flops, result.mask_changes
    values = {
        "dense_inference_flops": flops.dense_inference,
        "training_flops": flops.training,
        "training_flops_published": flops.training_published,
        "published_formula": flops.published_formula,
        "dense_training_flops": flops.dense_training,
        "training_ratio": flops.training / flops.dense_training,
        "prunable_weights": result.prunable_weights,
        "train_s": result.timings.train_s,
        "wall_s": result.timings.wall_s,
        "attempts": result.timings.attempts,
    }
    if changes:
        values |= {f"mask_change_{key}": value for key, value in changes[-1]}
    if len(changes) > 1:
        values["mask_change_of_kept_before"] = changes[-2].of_kept
    return values


def _timed(
    record: RunRecord, parent: RunRecord | None, config: Mapping[str, Any]
) -> dict[str, Any]:
    """Return by how much sparse products speed up a run's steps, and its time, if measured."""
    epochs = record.journal.epochs
    if record.step_time is None or not epochs:
        return {}
    speedup = record.step_time.speedup
    saved = sum(line["phase"] == "sparse" for line in epochs) * (1 - 1 / speedup)
    # A run that begins at epoch 0 with a trained network has cost its training, too.
    before = parent.config["epochs"] if parent and parent.config and not epochs[0]["epoch"] else 0
    return {"step_speedup": speedup, "training_time": before + config["epochs"] - saved}


def _evaluated(evaluation: Evaluation, result: FinishedResult, requested: float) -> dict[str, Any]:
    """Return what was measured of a model, and whether its certificate can be trusted."""
    certificate = evaluation.certificate
    plain = certificate.model_dump() if certificate else None
    failures = objections(plain, requested, result.prunable_weights)
    metric = DATASETS[result.config["dataset"]].metric
    judged = metric.of(evaluation.test_accuracy, evaluation.test_loss)
    return {
        **{key: value for key, value in evaluation if key != "certificate"},
        "test_perplexity": judged if metric is PERPLEXITY else None,
        "inference_ratio": evaluation.inference_flops / result.flops.dense_inference,
        "sparsity_achieved": certificate.achieved if certificate else None,
        "sparsity_pruned": certificate.pruned if certificate else None,
        "sparsity_is_outcome": certificate is not None and certificate.tolerance >= 1,
        "exempt": " ".join(certificate.exempt) if certificate else "",
        "dead_filters": certificate.dead_filters if certificate else None,
        "certificate_holds": not failures,
        "certificate_failures": FAILURES.join(failures),
    }


def _flat(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return a journal record with one level: counts of layers summed, other groups spelled out."""
    flat: dict[str, Any] = {}
    for key, value in record.items():
        if key == "nonzeros" and isinstance(value, dict):
            flat[key] = sum(value.values())
        elif isinstance(value, dict):
            flat |= {f"{key}_{inner}": item for inner, item in value.items()}
        elif not isinstance(value, list):
            flat[key] = value
    return flat


def _leading(lines: Iterable[Mapping[str, Any]], first: tuple[str, ...]) -> pd.DataFrame:
    """Return lines as a frame with some columns first; those that no line has are empty."""
    import pandas as pd

    table = pd.DataFrame(list(lines))
    # A column without any value has no type of its own, and parquet would call it null.
    empty = [name for name in table.columns if table[name].isna().all()]
    table = table.astype(dict.fromkeys(empty, "float64"))
    return table.reindex(columns=[*first, *(name for name in table.columns if name not in first)])
