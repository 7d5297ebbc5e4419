"""The folder of an experiment's results: what is written, and what is read back of it."""

from __future__ import annotations

import csv
import hashlib
import io
import math
import platform
import tempfile
import time
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from acdc.files import write_bytes, write_json
from acdc.frozen import Frozen
from acdc.run.provenance import git_revision, hardware
from theory.experiment import Settings, load
from theory.layout import SERIES, TRIAL
from theory.outcome import Outcome
from theory.statements import Stored

PACKAGES = ("torch", "numpy", "scipy", "scikit-learn")


class Series(Frozen):
    """What series.csv was when it was written."""

    rows: int
    sha256: str

    @classmethod
    def of(cls, content: bytes) -> Series:
        """Return what the bytes of a CSV file are, whose first line is not counted."""
        return cls(rows=content.count(b"\n") - 1, sha256=hashlib.sha256(content).hexdigest())


class Results(Frozen):
    """What statements.json holds, its verdicts following from the numbers."""

    experiment: str
    settings: dict[str, Any]
    series: Series
    statements: tuple[Stored, ...]


def write(name: str, settings: Settings, out: Path) -> Outcome:
    """Run an experiment, and write trials.csv, series.csv and statements.json into a folder.

    Floats have ten digits; a cell that does not apply is empty. provenance.json holds the software,
    the hardware and the time. Each file is replaced as a whole, statements.json last.

    Raises:
        OSError: the folder cannot be written; before the experiment runs.
    """
    started = time.perf_counter()
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=out) as probe:
        probe.write(bytes(4096))
    outcome = load(name).run(settings)
    series = _csv(outcome.series, SERIES)
    write_bytes(out / "trials.csv", _csv(outcome.trials, TRIAL))
    write_bytes(out / "series.csv", series)
    about = {
        "git": git_revision(),
        "python": platform.python_version(),
        "packages": {package: metadata.version(package) for package in PACKAGES},
        "hardware": hardware(torch.device("cpu")),
        "threads": torch.get_num_threads(),
        "wall_s": round(time.perf_counter() - started, 2),
    }
    write_json(out / "provenance.json", about)
    results = {
        "experiment": name,
        "settings": settings.model_dump(mode="json"),
        "series": Series.of(series).model_dump(),
        "statements": [statement.plain() for statement in outcome.statements],
    }
    write_json(out / "statements.json", results)
    return outcome


def _csv(found: Sequence[Mapping[str, Any]], first: Sequence[str]) -> bytes:
    columns = list(dict.fromkeys([*first, *(name for row in found[:1] for name in row)]))
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([_cell(row.get(name)) for name in columns] for row in found)
    return buffer.getvalue().encode()


def _cell(value: object) -> object:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.10g}"
    return value
