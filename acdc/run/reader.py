"""A run's folder as typed values: the one reader for status, reports, tracking and cost.

Nothing here imports torch, and nothing raises because of a damaged file: it is reported in
``RunRecord.problems`` and read as missing.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict

from acdc.errors import SuiteError
from acdc.run.failures import FAILED, Failure
from acdc.run.result import RESULT, Result, read_result

JOURNAL = "journal.jsonl"
PROVENANCE = "provenance.json"
CONFIG = "config.yaml"

T = TypeVar("T")


class _Tolerant(BaseModel):
    """What older or newer versions did not record is None."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Git(_Tolerant):
    """The revision of the source tree."""

    revision: str | None = None
    clean: bool | None = None
    """Whether the code that makes results was as it is at the revision."""


class Hardware(_Tolerant):
    """The machine of an attempt."""

    processor: str | None = None
    cores: int | None = None
    device: str | None = None


class Attempt(_Tolerant):
    """The code, versions, machine and job of one attempt at a run."""

    git: Git = Git()
    science: str | None = None
    """Digest of the code that determines results, see ``acdc.run.sources``."""
    python: str | None = None
    packages: dict[str, str] = {}
    hardware: Hardware = Hardware()
    ranks: int = 1
    threads: int = 1
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
    """Set if a line before the last cannot be read; it and those after it are left out."""

    @property
    def epochs(self) -> list[dict[str, Any]]:
        """The records of epochs."""
        return [line for line in self.lines if "event" not in line]

    @property
    def events(self) -> list[dict[str, Any]]:
        """The records of prunings, restorations, updates and resumptions."""
        return [line for line in self.lines if "event" in line]


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
    problems: tuple[str, ...]
    """Why files that are there cannot be used, one sentence each, beginning with the path."""

    @cached_property
    def journal(self) -> JournalRecords:
        """The journal, read when it is first asked for."""
        return read_lines(self.folder / JOURNAL)

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
        except (OSError, ValueError, TypeError, KeyError, AttributeError, yaml.YAMLError) as error:
            words = " ".join(str(error).split())
            problems.append(f"{path}: damaged ({type(error).__name__}: {words})")
        return None

    result = attempt(folder / RESULT, lambda path: read_result(path.parent))
    return RunRecord(
        folder,
        config=result.config if result else attempt(folder / CONFIG, _read_config),
        result=result,
        failure=attempt(folder / FAILED, lambda p: Failure.model_validate_json(p.read_bytes())),
        provenance=attempt(folder / PROVENANCE, _read_provenance) or (),
        problems=tuple(problems),
    )


def _read_config(path: Path) -> dict[str, Any]:
    data = yaml.load(path.read_bytes(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    if not isinstance(data, dict):
        raise ValueError("no mapping of keys to values")
    return data


def _read_provenance(path: Path) -> tuple[Attempt, ...]:
    data = json.loads(path.read_bytes())
    attempts = (data, *data.get("resumed", ()))
    return tuple(Attempt.model_validate(attempt) for attempt in attempts)


def read_lines(path: Path) -> JournalRecords:
    """Return the records of a journal, which need not exist."""
    try:
        lines = path.read_bytes().splitlines()
    except OSError:
        return JournalRecords(())
    records: list[dict[str, Any]] = []
    for number, line in enumerate(lines, 1):
        try:
            records.append(dict(json.loads(line)))
        except (ValueError, TypeError):
            problem = f"{path}: line {number} is damaged" if number < len(lines) else None
            return JournalRecords(tuple(records), problem)
    return JournalRecords(tuple(records))
