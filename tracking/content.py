"""What MLflow shows of a run's folder and of a study: parameters, metrics, tags and files.

Nothing here imports MLflow.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from acdc.errors import RunDirectoryError
from acdc.messages import plain
from acdc.run.reader import CONFIG, JOURNAL, PROVENANCE, RunRecord, parse_lines, read_run
from acdc.run.result import RESULT, Result

RUN_NAME = re.compile(r"(.+)-([0-9a-f]{12})")
STUDY = "study"
"""Name and fingerprint of the run that holds a study's tables, figures and report."""
SHOWN = ("tables/*.csv", "tables/*.json", "tables/*.tex", "figures/*", "report.html")
TAG_LENGTH = 1000  # MLflow accepts 8000 characters


class Value(NamedTuple):
    """One value of a metric, in the order of MLflow's own class."""

    key: str
    value: float
    time_ms: int
    step: int


def digest(data: bytes) -> str:
    """Return 16 hexadecimal digits that identify the bytes."""
    return hashlib.sha256(data).hexdigest()[:16]


@dataclass(frozen=True)
class Content:
    """What one run in MLflow shows."""

    name: str
    fingerprint: str
    status: Literal["running", "finished", "diverged", "failed"]
    files: dict[str, Path]
    """By the artifact's name."""
    tags: dict[str, str] = field(default_factory=dict)
    params: dict[str, str] = field(default_factory=dict)
    journal: bytes = b""
    settled: int = 0
    """Bytes of the journal that a resumed run will not rewrite."""
    epochs: tuple[tuple[int, Value], ...] = ()
    """The metrics of the journal, each with the offset at which its line ends."""
    final: tuple[Value, ...] = ()
    """The metrics of the result."""
    result: str = ""
    """Digest of the result; empty if there is none, or one that a retry would replace."""
    began_ms: int | None = None
    ended_ms: int | None = None

    def claim(self, before: str) -> str:
        """Return what identifies the journal and the result to be sent: ``LENGTH:DIGEST:DIGEST``.

        Args:
            before: the claim of what was sent already, empty if nothing was. Its lines stay sent
                though another host's clock may call them unsettled, and so does a deleted result.
        """
        sent, _, result = before.split(":") if before else ("0", "", "")
        length = max(int(sent), self.settled)
        return f"{length}:{digest(self.journal[:length])}:{self.result or result}"

    def holds(self, claim: str) -> bool:
        """Return whether the folder still holds the journal and the result of a claim."""
        length, journal, result = claim.split(":")
        same = digest(self.journal[: int(length)]) == journal
        return same and (not result or self.result in ("", result))


def run_folders(folder: Path) -> list[Path]:
    """Return the runs in a folder or below it, or the folder itself if it is a run."""
    found = {path.parent.resolve() for path in folder.rglob(CONFIG)}
    return sorted(path for path in found if RUN_NAME.fullmatch(path.name))


def study_content(folder: Path) -> Content | None:
    """Return the tables, figures and report of a study; None if it has none yet."""
    found = sorted(path for pattern in SHOWN for path in folder.glob(pattern))
    files = {path.relative_to(folder).as_posix(): path for path in found}
    return Content(STUDY, STUDY, "finished", files) if files else None


def run_content(folder: Path) -> Content | None:
    """Return what MLflow shows of a run; None if it has not begun.

    Raises:
        RunDirectoryError: a file cannot be read.
    """
    newest = newest_checkpoint(folder)  # before the journal, which grows
    run, path = read_run(folder), folder / JOURNAL
    journal = path.read_bytes() if path.is_file() else b""
    problems = [*run.problems, *filter(None, [run.journal.problem])]
    if not (journal or run.result or run.failure or problems):
        return None
    if problems or run.config is None:
        raise RunDirectoryError("; ".join(problems) or f"{folder / CONFIG}: missing")
    status = run.result.status if run.result else "running"
    if run.result is None and run.failure is not None and run.failure.final:
        status = "failed"
    ended = status in ("finished", "diverged")
    records = parse_lines(journal, path).lines
    ends = list(itertools.accumulate(len(line) + 1 for line in journal.split(b"\n")[:-1]))
    kept = list(itertools.takewhile(lambda r: ended or r["time"] <= newest, records))
    times_ms = [round(1000 * record["time"]) for record in records]
    name, fingerprint = folder.name.rsplit("-", 1)
    files = (CONFIG, PROVENANCE, JOURNAL, RESULT)
    return Content(
        name,
        fingerprint,
        status,
        files={file: folder / file for file in files if (folder / file).exists()},
        tags=tags_of(run),
        params={
            key: plain(value if isinstance(value, str) else json.dumps(value))
            for key, value in flatten(run.config).items()
        },
        journal=journal,
        settled=([0, *ends])[len(kept)],
        epochs=tuple(
            (end, Value(key, number, time_ms, record["epoch"]))
            for end, time_ms, record in zip(ends, times_ms, records, strict=True)
            if "event" not in record
            for key, number in numbers(record).items()
            if key not in ("epoch", "time")
        ),
        final=tuple(final_metrics(run.result, max(times_ms, default=0))),
        result=digest((folder / RESULT).read_bytes()) if ended else "",
        began_ms=times_ms[0] if times_ms else None,
        ended_ms=times_ms[-1] if times_ms else None,
    )


def newest_checkpoint(folder: Path) -> float:
    """Return when the newest checkpoint was written, in seconds since 1970; infinity without one.

    A run is resumed from it; older lines of the journal stay.
    """
    times = []
    for path in folder.glob("checkpoint/step-*.pt"):
        with contextlib.suppress(FileNotFoundError):  # superseded just now
            times.append(path.stat().st_mtime)
    return max(times, default=math.inf)


def flatten(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested mappings as one, with keys such as ``recipe.lr``."""
    flat: dict[str, Any] = {}
    for key, item in value.items():
        nested = isinstance(item, Mapping)
        flat |= flatten(item, f"{prefix}{key}.") if nested else {f"{prefix}{key}": item}
    return flat


def numbers(value: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entries that are finite numbers."""
    return {
        key: number
        for key, number in value.items()
        if isinstance(number, int | float) and type(number) is not bool and math.isfinite(number)
    }


def final_metrics(result: Result | None, time_ms: int) -> Iterator[Value]:
    """Yield the metrics of a result, such as ``sparse_last/test_accuracy``."""
    if result is None or result.status == "failed":
        return
    groups = {"flops": result.flops.model_dump(), "timings": result.timings.model_dump()}
    for product, evaluations in result.products.items():
        for which, evaluation in evaluations.model_dump().items():
            groups[f"{product}_{which}"] = evaluation
    for group, values in groups.items():
        flat = numbers(flatten(values))
        step = flat.get("epoch", result.config["epochs"] - 1)
        for key, value in flat.items():
            yield Value(f"{group}/{key}", value, time_ms, step)


def tags_of(run: RunRecord) -> dict[str, str]:
    """Return what runs are searched and grouped by; what does not apply is empty."""
    result = run.result
    error = run.failure.error if run.failure and result is None else ""
    if result is not None and result.status != "finished":
        error = result.error if result.status == "failed" else result.diverged
    tags = {
        "cell": run.folder.name.rpartition("_seed")[0],
        "error": error,
        "attempts": len(run.provenance),
        "slurm_job_id": ", ".join(dict.fromkeys(a.job for a in run.provenance if a.job)),
        "git_revision": (run.provenance[-1].git.revision if run.provenance else None) or "",
        "certificate_failures": "; ".join(dict.fromkeys(certificate_failures(result))),
    }
    return {key: plain(str(value))[:TAG_LENGTH] for key, value in tags.items()}


def certificate_failures(result: Result | None) -> Iterator[str]:
    """Yield why sparsity certificates of a run do not hold."""
    for product, evaluations in (result.products if result else {}).items():
        for evaluation in (evaluations.last, evaluations.best):
            certificate = evaluation.certificate
            for failure in certificate.failures if certificate else ("no certificate",):
                yield f"{product}: {failure}"
