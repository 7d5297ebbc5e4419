"""From the runs of a study to tidy tables: runs, epochs and events."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from acdc.errors import RunDirectoryError
from acdc.files import write_atomically
from acdc.run.failures import remembered
from acdc.run.journal import read_journal
from acdc.run.results import REMEDY, RESULT, read_result, read_spare
from acdc.run.sources import source_digest
from study.model import ReportError, Study

RUN_COLUMNS: dict[str, str] = {
    "run": "str",
    "fingerprint": "str",
    "status": "str",
    "model": "str",
    "dataset": "str",
    "method": "str",
    "variant": "str",
    "label": "str",
    "sparsity_requested": "float64",
    "seed": "int64",
    "epochs": "int64",
    "product": "str",
    "which": "str",
    "epoch": "Int64",
    "diverged_at": "Int64",
    "error": "str",
    "sparsity_achieved": "float64",
    "sparsity_pruned": "float64",
    "exempt": "str",
    "certificate_holds": "boolean",
    "certificate_failures": "str",
    "dead_filters": "Int64",
    "mask_change_epoch": "Int64",
    "mask_change_relative": "float64",
    "mask_change_of_kept": "float64",
    "mask_change_jaccard": "float64",
    "mask_change_of_kept_before": "float64",
    "val_accuracy": "float64",
    "val_loss": "float64",
    "test_accuracy": "float64",
    "test_loss": "float64",
    "inference_flops": "float64",
    "dense_inference_flops": "float64",
    "inference_ratio": "float64",
    "training_flops": "float64",
    "training_flops_published": "float64",
    "published_formula": "str",
    "dense_training_flops": "float64",
    "training_ratio": "float64",
    "prunable_weights": "Int64",
    "train_s": "float64",
    "wall_s": "float64",
    "attempts": "Int64",
    "git_revision": "str",
    "git_clean": "boolean",
    "source_digest": "str",
    "processor": "str",
    "cores": "Int64",
    "device": "str",
    "torch": "str",
}
"""Columns of the table of runs. Accuracies are fractions; FLOPs are those of one image (inference)
or of the whole run (training), ratios those to dense training of the same model for as many epochs.
``sparsity_achieved`` counts over all prunable weights, ``sparsity_pruned`` over the layers that are
not exempt. ``mask_change``: at the last pruning that had one before it; ``before``: one earlier.
``status`` is finished, diverged or failed, and with ``read_so_far`` missing too; ``error`` is what
a run has failed by, or why the result of a missing one cannot be used.
"""

ENDINGS = ("finished", "diverged", "failed")
"""How a run can have ended, as its result says."""
MISSING = "missing"

FAILURES = "; "
"""What stands between the reasons for which a certificate is not to be trusted."""

_FIRST_EPOCH_COLUMNS = ("run", "seed", "epoch")
_NESTED = "nonzeros"


@dataclass(frozen=True)
class Tables:
    """The tidy tables of a study.

    - ``runs``: one row a run, product and which (last, best); a run that has not finished has one
      row, without product and metrics.
    - ``epochs``: one row a run and epoch, the numbers of the journal.
    - ``events``: one row a run and event (prune, restore, update, resume).
    """

    runs: pd.DataFrame
    epochs: pd.DataFrame
    events: pd.DataFrame
    warnings: tuple[str, ...] = ()
    """What the tables lack beside results, a sentence each."""


def aggregate(study: Path, plan: Study) -> Tables:
    """Read the results and journals of the runs that the plan names, and of no others.

    Raises:
        ReportError: a run has no result yet, or its result is not the run's.
        RunDirectoryError: a result is damaged, or of another version of the suite.
    """
    return read_runs(study, plan.runs)


def read_runs(study: Path, runs: Iterable[str]) -> Tables:
    """Read the results and journals of some runs.

    Raises:
        ReportError: a run has no result yet, or its result is not the run's.
        RunDirectoryError: a result is damaged, or of another version of the suite.
    """
    folders = {run: study / "runs" / run for run in runs}
    found = {run: _read_run(folder) for run, folder in folders.items()}
    missing = [run for run, records in found.items() if records is None]
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise ReportError(
            f"{len(missing)} of {len(found)} runs in {study / 'runs'} have no {RESULT}: "
            f"{', '.join(missing[:3])}{more}; train them first"
        )
    return _tables(records for records in found.values() if records is not None)


def read_so_far(study: Path, plan: Study) -> Tables:
    """Read the results and journals of the plan's runs as far as there are any.

    A result that is gone for the moment, for Snakemake makes it again, is read from its copy; of a
    failed run, its last error is. A run without any of these, or with a
    result that cannot be used, has one row of status ``missing``.
    """
    return _tables(_read_if_there(study, name, run.config) for name, run in plan.runs.items())


def so_far(names: Iterable[str], runs: pd.DataFrame) -> str:
    """Return how many of some runs are there, such as ``12 of 15 runs so far``, if not all are."""
    named = set(names)
    missing = named.intersection(runs.loc[runs["status"] == MISSING, "run"])
    return f"{len(named) - len(missing)} of {len(named)} runs so far" if missing else ""


@dataclass(frozen=True)
class _Records:
    """What the tables hold of one run."""

    runs: tuple[dict[str, Any], ...]
    journal: tuple[dict[str, Any], ...] = ()
    warnings: tuple[str, ...] = ()


def _tables(records: Iterable[_Records]) -> Tables:
    runs: list[dict[str, Any]] = []
    epochs: list[dict[str, Any]] = []
    events: list[dict[str, Any]] = []
    warnings: list[str] = []
    for each in records:
        runs += each.runs
        warnings += each.warnings
        for line in each.journal:
            (events if "event" in line else epochs).append(line)
    return Tables(
        runs=pd.DataFrame(runs, columns=list(RUN_COLUMNS)).astype(RUN_COLUMNS),
        epochs=_leading(pd.DataFrame(epochs), _FIRST_EPOCH_COLUMNS),
        events=_leading(pd.DataFrame(events), (*_FIRST_EPOCH_COLUMNS, "event")),
        warnings=tuple(warnings),
    )


def _read_run(folder: Path) -> _Records | None:
    """Read a run; return none if it has no result.

    Raises:
        ReportError: a file of it cannot be used, or is of another run.
        RunDirectoryError: the result is damaged, or of another version of the suite.
    """
    result = read_result(folder)
    return None if result is None else _ended(folder, result)


def _ended(folder: Path, result: Mapping[str, Any]) -> _Records:
    path = folder / RESULT
    try:
        if result["run"] != folder.name:
            raise ReportError(f"{path} describes run {result['run']}; {REMEDY}")
        if result["status"] not in ENDINGS:
            raise ReportError(
                f"{path} has the status {result['status']!r}; {', '.join(ENDINGS)} are accepted"
            )
        origin, warnings = _origin(folder)
        rows = tuple(_run_rows(result, origin))
        return _Records(rows, _journal(folder, result["config"]), warnings)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ReportError(
            f"{path} or the journal beside it cannot be used ({error!r}); if the result is "
            f"damaged, {REMEDY}"
        ) from None


def _read_if_there(study: Path, run: str, description: Mapping[str, Any]) -> _Records:
    folder, reason = study / "runs" / run, None
    about = {"run": run, "fingerprint": run.rpartition("-")[2], **_described(description)}
    try:
        result = read_result(folder)
        if result is None:
            failure = remembered(folder)
            if failure is not None and failure.final:
                origin, warnings = _origin(folder)
                row = {**about, **origin, "status": "failed", "error": _line(failure.error)}
                return _Records((row,), _journal(folder, description), warnings)
            result = read_spare(folder)
        if result is not None:
            return _ended(folder, result)
    except (ReportError, RunDirectoryError, OSError) as error:
        # Without the place of the study, so that a copy of it makes the same tables.
        reason = str(error).replace(f"{study}/", "")
    return _Records(({**about, "status": MISSING, "error": reason},))


def _journal(folder: Path, config: Mapping[str, Any]) -> tuple[dict[str, Any], ...]:
    identity = {"run": folder.name, "seed": config["seed"]}
    return tuple(identity | _flat(record) for record in read_journal(folder / "journal.jsonl"))


def _line(error: str) -> str:
    return " ".join(error.split())


def _origin(folder: Path) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return where a run was made, as far as it was recorded, and a warning if that is damaged."""
    path = folder / "provenance.json"
    warnings: tuple[str, ...] = ()
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        data = {}
    except ValueError:
        said = f"runs/{folder.name}/{path.name} is damaged; where and by what code the run was made"
        data, warnings = {}, (f"{said} is unknown",)
    git, hardware = data.get("git", {}), data.get("hardware", {})
    origin = {
        "git_revision": git.get("revision"),
        "git_clean": git.get("clean"),
        "source_digest": source_digest(data),
        "processor": hardware.get("processor"),
        "cores": hardware.get("cores"),
        "device": hardware.get("device"),
        "torch": data.get("packages", {}).get("torch"),
    }
    return origin, warnings


def _described(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a run's configuration says of it."""
    return {
        **{key: config[key] for key in ("model", "dataset", "method", "seed", "epochs")},
        "sparsity_requested": config["sparsity"],
    }


def _run_rows(result: Mapping[str, Any], origin: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    config = result["config"]
    common = {
        **{key: result[key] for key in ("run", "fingerprint", "status", "variant", "label")},
        **_described(config),
        **origin,
    }
    if result["status"] == "failed":
        yield {**common, "error": _line(result["error"])}
        return
    flops, timings = result["flops"], result["timings"]
    common |= {
        "diverged_at": result.get("diverged_at"),
        "dense_inference_flops": flops["dense_inference"],
        "training_flops": flops["training"],
        "training_flops_published": flops["training_published"],
        "published_formula": flops["published_formula"],
        "dense_training_flops": flops["dense_training"],
        "training_ratio": flops["training"] / flops["dense_training"],
        "prunable_weights": result["prunable_weights"],
        **_mask_changes(result["mask_changes"]),
        **{key: timings[key] for key in ("train_s", "wall_s", "attempts")},
    }
    if result["status"] == "diverged":
        # What it spent until it broke off is the cost of no model.
        unspent = ("training_flops", "training_flops_published", "training_ratio")
        yield {**common, **dict.fromkeys(unspent)}
        return
    for product, records in result["products"].items():
        requested = config["sparsity"] if product == "sparse" else 0.0
        for which, record in records.items():
            yield {
                **common,
                "product": product,
                "which": which,
                **_certified(record.get("certificate"), requested, result["prunable_weights"]),
                "inference_ratio": record["inference_flops"] / flops["dense_inference"],
                **{
                    key: record[key]
                    for key in (
                        "epoch",
                        "val_accuracy",
                        "val_loss",
                        "test_accuracy",
                        "test_loss",
                        "inference_flops",
                    )
                },
            }


def _certified(
    certificate: Mapping[str, Any] | None, requested: float, weights: int
) -> dict[str, Any]:
    """Return what a stored certificate says, and whether it is to be trusted."""
    # Imports torch; the tables and figures are made without it.
    from acdc.sparsity.certificate import objections

    found = objections(certificate, requested, weights)
    said = certificate or {}
    return {
        "sparsity_achieved": said.get("achieved"),
        "sparsity_pruned": said.get("pruned"),
        "exempt": " ".join(said.get("exempt", ())),
        "dead_filters": said.get("dead_filters"),
        "certificate_holds": not found,
        "certificate_failures": FAILURES.join(found),
    }


def _mask_changes(changes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the last change of the masks, and the share of new weights at the one before."""
    row: dict[str, Any] = {}
    if changes:
        row = {f"mask_change_{key}": value for key, value in changes[-1].items()}
    if len(changes) > 1:
        row["mask_change_of_kept_before"] = changes[-2]["of_kept"]
    return row


def _flat(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return a journal record with one level: per-layer counts summed, other groups spelled out."""
    flat: dict[str, Any] = {}
    for key, value in record.items():
        if key == _NESTED and isinstance(value, dict):
            flat[key] = sum(value.values())
        elif isinstance(value, dict):
            flat |= {f"{key}_{inner}": item for inner, item in value.items()}
        elif not isinstance(value, list):
            flat[key] = value
    return flat


def _leading(table: pd.DataFrame, first: tuple[str, ...]) -> pd.DataFrame:
    """Return a table with some columns first; those that no record had are added, empty."""
    # A column without any value has no type of its own, and parquet would call it null.
    empty = [name for name in table.columns if table[name].isna().all()]
    table = table.astype(dict.fromkeys(empty, "float64"))
    return table.reindex(columns=[*first, *(name for name in table.columns if name not in first)])


def write_tables(place: Path, tables: Tables) -> list[Path]:
    """Write each table as parquet and CSV into the folder "tables" of a place; return the paths."""
    folder = place / "tables"
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name in ("runs", "epochs", "events"):
        table: pd.DataFrame = getattr(tables, name)
        csv, parquet = folder / f"{name}.csv", folder / f"{name}.parquet"
        text = table.to_csv(index=False, lineterminator="\n").encode()
        write_atomically(csv, lambda file, text=text: file.write(text))  # type: ignore[misc]
        buffer = io.BytesIO()
        table.to_parquet(buffer, index=False)
        content = buffer.getvalue()
        write_atomically(parquet, lambda file, content=content: file.write(content))  # type: ignore[misc]
        written += [parquet, csv]
    return written


def read_tables(study: Path) -> Tables:
    """Return the tables that ``aggregate`` wrote.

    Raises:
        ReportError: they are not there yet, or were made of what there was so far.
    """
    folder = study / "tables"
    paths = [folder / f"{name}.parquet" for name in ("runs", "epochs", "events")]
    for path in paths:
        if not path.exists():
            raise ReportError(f"{path} is missing; run 'aggregate' first")
    runs, epochs, events = (pd.read_parquet(path) for path in paths)
    tables = Tables(runs, epochs, events)
    count = so_far(tables.runs["run"], tables.runs)
    if count:
        raise ReportError(f"{paths[0]} has {count}; run 'aggregate' when the others are there too")
    return tables
