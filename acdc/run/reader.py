"""A run's folder as typed values: the one reader for status, reports, tracking and cost.

Nothing here imports torch, and nothing raises because of a damaged file: it is reported in
``RunRecord.problems`` and read as missing.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import TypeAdapter, ValidationError

from acdc.data import DATASETS
from acdc.errors import RunDirectoryError, SuiteError
from acdc.frozen import fingerprint
from acdc.messages import shown
from acdc.metrics import Metric
from acdc.run.failures import FAILED, Failure
from acdc.run.result import (
    RESULT,
    Count,
    DivergedResult,
    FinishedResult,
    Fraction,
    Positive,
    Record,
    Result,
    read_result,
)

JOURNAL = "journal.jsonl"
PROVENANCE = "provenance.json"
CONFIG = "config.yaml"
STEP_TIME = "step_time.json"
AGREEMENT = "agreement"

T = TypeVar("T")


class Git(Record):
    """The revision of the source tree."""

    revision: str | None = None
    clean: bool | None = None
    """Whether the code that makes results was as it is at the revision."""


class Hardware(Record):
    """The machine of an attempt."""

    processor: str | None = None
    cores: Count | None = None
    device: str | None = None


class StepTime(Record):
    """Forward and backward passes with a run's last masks: medians, dense and sparse in turns."""

    dense_s: Positive
    sparse_s: Positive
    """With ``--kernels auto``."""
    speedup: Positive
    """The median ratio of neighbouring turns."""
    masked_layers: Count
    sparse_layers: Count
    """How many of them used sparse products."""
    threads: Count
    hardware: Hardware


class Agreement(Record):
    """How the outputs of a sparse model and of a dense one compare on the test images."""

    run: str
    """Of the sparse model, after the last epoch."""
    companion: str
    """The run of the dense one."""
    images: Count
    agreement: Fraction
    """Of the images, those that both put into the same class."""
    cross_entropy: Positive
    """Mean of -sum p log q over the classes, p of the dense model, q of the sparse one."""
    cross_entropy_of_sparse: Positive
    """The same with the models exchanged."""
    both_right: Fraction
    sparse_right: Fraction
    """Only the sparse model."""
    dense_right: Fraction
    """Only the dense model."""
    by_class: tuple[Fraction, ...]
    """Agreement on the images of each class."""


_AGREEMENTS = TypeAdapter(tuple[Agreement, ...])


class Attempt(Record):
    """The code, versions, machine and job of one attempt; what was not recorded is None."""

    git: Git = Git()
    science: str | None = None
    """Digest of the code that determines results, see ``acdc.run.sources``."""
    python: str | None = None
    packages: dict[str, str] = {}
    hardware: Hardware = Hardware()
    ranks: Count = 1
    threads: Count = 1
    compile: str | None = None
    """The mode of torch.compile."""
    kernels: str | None = None
    """How masked layers were multiplied."""
    deterministic: bool | None = None
    system: str | None = None
    host: str | None = None
    job: str | None = None
    """SLURM's job id."""


@dataclass(frozen=True)
class JournalRecords:
    """The lines of a journal: ``event`` lines and epochs, in the order in which they were written.

    After a kill the last line can be cut short; it is left out.
    """

    lines: tuple[dict[str, Any], ...]
    problem: str | None = None
    """Why the journal is not whole; ``lines`` are those before the first that is damaged."""

    @property
    def epochs(self) -> list[dict[str, Any]]:
        """The records of epochs."""
        return [line for line in self.lines if "event" not in line]

    @property
    def events(self) -> list[dict[str, Any]]:
        """The records of prunings, restorations, updates and resumptions."""
        return [line for line in self.lines if "event" in line]

    @property
    def length(self) -> int:
        """The number of lines, resumptions left out, as a result records it."""
        return sum(line.get("event") != "resume" for line in self.lines)


@dataclass(frozen=True)
class RunRecord:
    """What a run has left in its folder."""

    folder: Path
    config: dict[str, Any] | None
    """The resolved configuration as plain data: the result's, else that of ``config.yaml``."""
    result: Result | None
    """None if the run has not ended, or the file is damaged."""
    failure: Failure | None
    """The error that ended the last attempt, if it ended with one."""
    provenance: tuple[Attempt, ...]
    """One entry an attempt, oldest first."""
    step_time: StepTime | None
    """None where it was not measured."""
    problems: tuple[str, ...]
    """Why files that are there cannot be used, one sentence each, beginning with the path."""

    @cached_property
    def journal(self) -> JournalRecords:
        """The journal, read when it is first asked for, and compared with the result."""
        path = self.folder / JOURNAL
        spec = DATASETS.get(str(self.config and self.config.get("dataset")))
        found = read_lines(path, spec.metric if spec else None)
        if found.problem or not isinstance(self.result, FinishedResult | DivergedResult):
            return found
        expected, epochs = self.result.journal_lines, self.result.config.get("epochs")
        if expected not in (None, found.length):
            return replace(found, problem=f"{path}: {found.length} of {expected} lines")
        # A run may begin at a later epoch than the first, or train none.
        last = found.epochs[-1]["epoch"] + 1 if found.epochs else epochs
        if self.result.status == "finished" and last != epochs:
            return replace(found, problem=f"{path}: ends after {last} of {epochs} epochs")
        return found

    @property
    def source_digest(self) -> str | None:
        """Twelve digits of all the code that made the result; None where it is not recorded."""
        found = dict.fromkeys(attempt.science for attempt in self.provenance)
        return "+".join(map(str, found)) if found and None not in found else None


def read_run(folder: Path) -> RunRecord:
    """Return what a run has left in its folder, which need not exist. Raises nothing."""
    problems: list[str] = []

    def attempt(path: Path, read: Callable[[Path], T]) -> T | None:
        try:
            return read(path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except SuiteError as error:
            problems.append(str(error))
        except OSError as error:
            problems.append(f"{path} cannot be read: {error.strerror}")
        except Exception as error:  # whatever json, yaml and pydantic raise of hostile content
            problems.append(f"{path}: damaged ({_reason(error)})")
        return None

    result = attempt(folder / RESULT, lambda path: read_result(path.parent))
    return RunRecord(
        folder,
        config=result.config if result else attempt(folder / CONFIG, _read_config),
        result=result,
        failure=attempt(folder / FAILED, lambda p: Failure.model_validate_json(p.read_bytes())),
        provenance=attempt(folder / PROVENANCE, _read_provenance) or (),
        step_time=attempt(
            folder / STEP_TIME, lambda path: StepTime.model_validate_json(path.read_bytes())
        ),
        problems=tuple(problems),
    )


def read_agreements(path: Path) -> tuple[Agreement, ...]:
    """Return what ``acdc agreement`` has written.

    Raises:
        RunDirectoryError: it is damaged.
    """
    try:
        return _AGREEMENTS.validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise RunDirectoryError(f"{path}: damaged ({_reason(error)})") from None


def _read_config(path: Path) -> dict[str, Any]:
    data = yaml.load(path.read_bytes(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    if not isinstance(data, dict):
        raise ValueError("no mapping of keys to values")
    if fingerprint(data) != path.parent.name.rpartition("-")[2]:
        raise ValueError("not the configuration that the folder is named after")
    return data


def _read_provenance(path: Path) -> tuple[Attempt, ...]:
    data = json.loads(path.read_bytes())
    attempts = (data, *data.get("resumed", ()))
    return tuple(Attempt.model_validate(attempt) for attempt in attempts)


class _Event(Record):
    """A line of a journal about what a method did, or about a resumption."""

    event: str
    epoch: Count
    time: Positive


class _Epoch(Record):
    """A line of a journal about an epoch."""

    epoch: Count
    time: Positive
    phase: str
    product: str | None
    learning_rate: Positive
    sparsity: Fraction
    train_loss: Positive
    train_accuracy: Fraction = math.nan
    val_loss: Positive
    val_accuracy: Fraction = math.nan
    """Needed, as ``train_accuracy``, where the metric is computed from it."""
    forward_flops: Positive
    train_flops: Positive
    train_flops_published: Positive
    nonzeros: dict[str, Count]
    train_s: Positive


def read_lines(path: Path, metric: Metric | None = None) -> JournalRecords:
    """Return the records of a journal, which need not exist; see ``parse_lines``."""
    try:
        return parse_lines(path.read_bytes(), path, metric)
    except FileNotFoundError:
        return JournalRecords(())
    except OSError as error:
        return JournalRecords((), f"{path} cannot be read: {error.strerror}")


def parse_lines(content: bytes, path: Path, metric: Metric | None = None) -> JournalRecords:
    """Return the records of a journal of this content.

    Epochs follow each other without a gap; the events of one are before its record.

    Args:
        content: what the file holds.
        path: names it in problems.
        metric: of the run; None if that is not known. An epoch needs what it is computed from.
    """
    records: list[dict[str, Any]] = []
    needed = metric.keys("train", "val") if metric else []
    epoch: int | None = None
    # What follows the last newline is being written, or was cut short by a kill.
    for number, line in enumerate(content.split(b"\n")[:-1], 1):
        try:
            record = json.loads(line)
            kind = _Event if "event" in record else _Epoch
            kind.model_validate(record)
            if kind is _Epoch and (missing := [key for key in needed if key not in record]):
                raise ValueError(f"no {', '.join(missing)}")
            if epoch is not None and record["epoch"] != epoch + 1:
                raise ValueError(f"epoch {record['epoch']} follows epoch {epoch}")
        except (ValueError, TypeError, RecursionError) as error:
            problem = f"{path}: line {number} is damaged ({_reason(error)})"
            return JournalRecords(tuple(records), problem)
        epoch = record["epoch"] if kind is _Epoch else epoch
        records.append(record)
    return JournalRecords(tuple(records))


def _reason(error: Exception) -> str:
    """Return what is wrong with a file, in a few words."""
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    return shown(f"{type(error).__name__}: {error}")
