"""Summaries of a finished study, small enough to be committed under results/reference."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from acdc.console import RESULTS
from acdc.errors import SuiteError
from acdc.files import write_json
from acdc.run.reader import PROVENANCE, read_run
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
    """Some results are missing, or do not come from a committed state of the source."""


@click.command()
@click.argument("scale")
@RESULTS
@click.option("--out", type=click.Path(path_type=Path), default=Path("results/reference"))
def reference(scale: str, results: Path, out: Path) -> None:
    """Copy the summaries of SCALE to results/reference, with how many runs each revision made.

    They have the seeds that the study was made with. Refused where a run is missing, or comes from
    edited files.
    """
    source = results / scale
    study = read_study(source)
    runs = [source / "runs" / run for run in study.runs]
    made = origins([*runs, *(source / "theory" / name for name in study.theory)])
    target = out / scale
    shutil.rmtree(target, ignore_errors=True)
    for pattern in KEPT:
        for path in sorted(source.glob(pattern)):
            if path.name not in TOO_LARGE:
                copy = target / path.relative_to(source)
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, copy)
    write_json(target / "provenance.json", made)
    for each in made:
        where = f"{each['git']['revision']} on {each['hardware']['processor']}"
        click.echo(f"{target}: {len(each['made'])} runs and experiments by {where}")


def origins(folders: Sequence[Path]) -> list[dict[str, Any]]:
    """Return each revision, set of versions and machine, with what was made there, if in part.

    Raises:
        NotReproducible: a run or an experiment is missing or damaged, or comes from edited files.
    """
    found: list[dict[str, Any]] = []
    for folder in folders:
        record = read_run(folder)
        if record.problems or not record.provenance:
            missing = f"{folder} has no {PROVENANCE}; make the study first"
            raise NotReproducible("; ".join(record.problems) or missing)
        for attempt in record.provenance:
            if not attempt.git.clean:
                problem = "was made with edited files; commit them and reproduce it again"
                raise NotReproducible(f"{folder} {problem}")
            where = attempt.model_dump(include={"git", "python", "hardware"})
            # A run and an experiment of the theory name different packages.
            same = (
                each
                for each in found
                if where.items() <= each.items()
                and each["packages"] | attempt.packages == attempt.packages | each["packages"]
            )
            origin = next(same, None)
            if origin is None:
                origin = where | {"packages": {}, "made": []}
                found.append(origin)
            origin["packages"] |= attempt.packages
            if folder.name not in origin["made"]:
                origin["made"].append(folder.name)
    return found
