"""``acdc merge``: join results of one scale that were trained in several folders."""

from __future__ import annotations

import contextlib
import hashlib
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from acdc.errors import Resumable, SuiteError
from acdc.files import flush
from acdc.messages import config_error
from acdc.run.lease import Lease, host_at_work
from acdc.run.reader import CONFIG, JOURNAL, PROVENANCE, RunRecord, read_run
from acdc.run.result import RESULT, DivergedResult, FinishedResult
from study.model import ReportError, read_study
from workflow.suite import SoleSuite

_STAGING = ".merge"
"""Folder of copies that are not complete; on the same disk as the runs, but not among them."""
_NO_NUMBERS = ("timings", "label", "variant", "published_formula")
"""Keys of a result that may differ: times and names."""


class NotMerged(SuiteError):
    """Some results are damaged, or conflict with those that are there."""


@click.command()
@click.argument(
    "sources",
    nargs=-1,
    required=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
)
@click.option(
    "--into",
    required=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of a study, such as results/laptop, which need not exist.",
)
def merge(sources: tuple[Path, ...], into: Path) -> None:
    """Copy runs that have ended from SOURCES, folders of studies, into another.

    Runs of the same configuration are the same run: one that has ended replaces one that has not.
    The numbers of two that have ended must be equal. If they are not, both stay as they are, and
    the exit status is 1. Damaged results are not copied, and a run in training is not replaced.
    """
    for source in sources:
        _check_source(source, into)
    counts: Counter[str] = Counter()
    suite = SoleSuite(into)
    suite.enter()
    try:
        for folder in sorted(path for source in sources for path in (source / "runs").iterdir()):
            outcome, *lines = merge_run(folder, into)
            counts[outcome] += 1
            if lines:
                click.echo(f"{outcome}: " + "\n  ".join(lines))
    finally:
        shutil.rmtree(into / _STAGING, ignore_errors=True)
        suite.leave()
    summary = f"{into}: " + ", ".join(f"{n} {outcome}" for outcome, n in sorted(counts.items()))
    if counts["conflicting"] or counts["damaged"]:
        raise NotMerged(f"{summary}; delete the folders of those that you do not want, and rerun")
    if counts["in training"]:
        raise Resumable(f"{summary}; rerun when the training has ended")
    click.echo(summary)


def _check_source(source: Path, into: Path) -> None:
    if not (source / "runs").is_dir():
        allowed = "the folder of a study, such as results/laptop"
        raise config_error("SOURCES", str(source), "there is no folder runs in it", allowed)
    with contextlib.suppress(ReportError):  # then the names of the runs have to do
        scale, other = (read_study(folder).scale.name for folder in (into, source))
        if scale != other:
            raise config_error("SOURCES", str(source), f"of scale {other}", f"scale {scale}")


def merge_run(source: Path, into: Path) -> tuple[str, ...]:
    """Copy a run, if it has ended and is missing, into the folder of a study.

    Returns:
        What became of it, in one or two words, and lines that say why.
    """
    target = into / "runs" / source.name
    ours, theirs = read_run(target), read_run(source)
    if not _ended(theirs):
        return ("damaged", *theirs.problems) if theirs.problems else ("not ended",)
    if _ended(ours):
        if found := tuple(_differences(ours, theirs)):
            return "conflicting", target.name, *found
        # A copy that is damaged, or has no weights, is replaced by one that lacks nothing of it.
        mine, others = ({path.name for path in _files(run)} for run in (ours, theirs))
        if not mine <= others or (mine == others and not damage(ours)):
            return ("equal",)
    if host := host_at_work(target):
        return "in training", f"{target.name} on {host}"
    # What a merge that was killed has left is removed first.
    shutil.rmtree(into / _STAGING, ignore_errors=True)
    copy = into / _STAGING / target.name
    copy.mkdir(parents=True)
    for path in _files(theirs):
        shutil.copyfile(path, copy / path.name)
        flush(copy / path.name)
    if problem := damage(read_run(copy)):
        return "damaged", problem.replace(str(copy), str(source))
    target.mkdir(parents=True, exist_ok=True)
    with Lease(target).held(wait_s=0):
        target.rename(into / _STAGING / "replaced")
        copy.rename(target)
    flush(target.parent)
    return ("copied",)


def _ended(run: RunRecord) -> bool:
    """Return whether a run finished or diverged; one that failed is trained again."""
    return isinstance(run.result, FinishedResult | DivergedResult)


def _files(run: RunRecord) -> dict[Path, str | None]:
    """Return the files of a run that has ended, and of weights the sha256 in the result."""
    weights = run.result.files if isinstance(run.result, FinishedResult) else {}
    files = dict.fromkeys((RESULT, JOURNAL, CONFIG, PROVENANCE)) | weights
    return {run.folder / name: sha for name, sha in files.items() if (run.folder / name).is_file()}


def damage(run: RunRecord) -> str | None:
    """Return what is wrong with a run that has ended, if anything; weights may be missing."""
    for path, sha256 in _files(run).items():
        if sha256 and hashlib.sha256(path.read_bytes()).hexdigest() != sha256:
            return f"{path}: damaged (not the file that the run wrote)"
    return next(iter(run.problems), run.journal.problem)


def _differences(ours: RunRecord, theirs: RunRecord) -> Iterator[str]:
    """Yield what differs between the numbers of two results, if anything, and who made them."""
    one, other = (dict(_leaves(run.result.model_dump())) for run in (ours, theirs) if run.result)
    differing = [key for key in one | other if repr(one.get(key)) != repr(other.get(key))]
    if differing:
        yield from (f"{key}: {one.get(key)}, not {other.get(key)}" for key in differing[:5])
        yield f"values that differ: {len(differing)}"
    for run in (ours, theirs) if differing else ():
        last = run.provenance[-1] if run.provenance else None
        made = f"revision {last.git.revision}, {last.hardware.processor}" if last else "unknown"
        yield f"{run.folder}: {made}"


def _leaves(value: Any, *keys: object) -> Iterator[tuple[str, Any]]:
    """Yield the plain values in nested ones with the keys that lead to each."""
    if isinstance(value, dict | list | tuple):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            if key not in _NO_NUMBERS:
                yield from _leaves(item, *keys, key)
    else:
        yield ".".join(map(str, keys)), value
