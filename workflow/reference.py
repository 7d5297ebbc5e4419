"""Summaries of a finished study, small enough to be committed under results/reference."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import click

from acdc.errors import SuiteError
from acdc.files import write_json
from acdc.run.reader import PROVENANCE, Attempt, read_run
from study.model import read_study

KEPT = (
    "tables/*.csv",
    "tables/*.tex",
    "figures/*.png",
    "theory/*/series.csv",
    "theory/*/statements.json",
)
TOO_LARGE = {"epochs.csv", "events.csv"}


class NotReproducible(SuiteError):
    """The results do not come from one committed state of the source."""


@click.command()
@click.argument("scale")
@click.option("--results", type=click.Path(path_type=Path), default=Path("results"))
@click.option("--out", type=click.Path(path_type=Path), default=Path("results/reference"))
def reference(scale: str, results: Path, out: Path) -> None:
    """Copy the summaries of SCALE, made by one committed state of the source, to results/reference.

    They have the seeds that the study was made with. Refused where runs come from different
    revisions or from edited files.
    """
    source = results / scale
    study = read_study(source)
    about = one_provenance(
        [source / "runs" / run for run in study.runs],
        [source / "theory" / name for name in study.theory],
    )
    target = out / scale
    shutil.rmtree(target, ignore_errors=True)
    for pattern in KEPT:
        for path in sorted(source.glob(pattern)):
            if path.name not in TOO_LARGE:
                copy = target / path.relative_to(source)
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, copy)
    write_json(target / "provenance.json", about)
    click.echo(f"{target}: made by {about['git']['revision']} on {about['hardware']['processor']}")


def one_provenance(runs: list[Path], theory: list[Path]) -> dict[str, Any]:
    """Return what all runs have in common: revision, versions, hardware.

    The theory's experiments have to be of the same revision.

    Raises:
        NotReproducible: a run or an experiment is missing or damaged, or they do not come from one
            committed state.
    """
    records = [read_run(folder) for folder in (*runs, *theory)]
    attempts = [(record.folder, attempt) for record in records for attempt in record.provenance]
    first = next((attempt for _, attempt in attempts), Attempt())
    for record in records:
        if record.problems or not record.provenance:
            missing = f"{record.folder} has no {PROVENANCE}; make the study first"
            raise NotReproducible("; ".join(record.problems) or missing)
    for folder, attempt in attempts:
        if not attempt.git.clean:
            problem = "was made with edited files; commit them and reproduce it again"
            raise NotReproducible(f"{folder} {problem}")
        if attempt.git != first.git or (folder in runs and _common(attempt) != _common(first)):
            raise NotReproducible(
                f"{records[0].folder} and {folder} come from different revisions, versions or "
                "machines; reproduce the study on one"
            )
    return _common(first)


def _common(attempt: Attempt) -> dict[str, Any]:
    return attempt.model_dump(include={"git", "python", "packages", "hardware"})
