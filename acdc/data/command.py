"""The command ``acdc data``: which data sets are present, and whether they are intact."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from acdc.console import table
from acdc.data import DATASETS, DatasetSpec
from acdc.errors import DataError
from acdc.files import write_json
from acdc.messages import config_error

if TYPE_CHECKING:
    from acdc.data.loader import Dataset


@dataclass(frozen=True)
class Finding:
    """The state of a data set on this machine."""

    state: Literal["there", "incomplete", "missing"]
    folder: Path | None
    problem: str = ""
    """What is wrong and how to fix it, or else what there is to remark."""
    loaded: Dataset[Any] | None = None
    """The data set, if it is there."""


def examine(spec: DatasetSpec) -> Finding:
    """Locate a data set, and load it if no file is missing."""
    place = spec.locate()
    if place.folder is None and place.missing:
        return Finding("missing", None, place.missing)
    try:
        loaded = spec.load()
    except DataError as error:
        return Finding("incomplete", place.folder, str(error))
    return Finding("there", place.folder, loaded.remark, loaded)


@click.group("data")
def data_command() -> None:
    """Locate and verify the data sets."""


@data_command.command()
@click.argument("names", nargs=-1)
@click.option(
    "--manifest",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the number of images or tokens of each set as JSON, if all are usable.",
)
def check(names: tuple[str, ...], manifest: Path | None) -> None:
    """Show which data sets (default: all) are present and intact, and how to get the others.

    Verifies the checksums of sets held in memory and counts the files of image folders. Exit status
    3: a named set is missing, or any set is incomplete.
    """
    for name in names:
        if name not in DATASETS:
            raise config_error("dataset", name, "unknown dataset", DATASETS)
    findings = {name: examine(DATASETS[name]) for name in names or DATASETS}
    rows, sizes = [], {}
    for name, found in findings.items():
        counts, verified = "", ""
        if found.loaded is not None:
            spec = DATASETS[name]
            sizes[name] = {"title": spec.title, spec.samples: found.loaded.sizes}
            counts = " + ".join(f"{count:,}" for count in found.loaded.sizes.values())
            verified = found.loaded.verified
        rows.append([name, found.state, counts, verified, str(found.folder or "")])
    counted = "images or tokens: training + validation + test"
    headings = ["data set", "", counted, "verified", "where"]
    click.echo(table(headings, rows, [28, 10, 24, 15, 44]))
    # Sets that share files share problems.
    for problem in dict.fromkeys(finding.problem for finding in findings.values()):
        if problem:
            click.echo(f"\n{problem}")
    unusable = {
        name: found
        for name, found in findings.items()
        if found.state == "incomplete" or (names and found.state == "missing")
    }
    if unusable:
        what = ", ".join(f"{name} is {found.state}" for name, found in unusable.items())
        # On one line, the one that a study shows of a failed job.
        problems = dict.fromkeys(found.problem for found in unusable.values() if found.problem)
        raise DataError(" ".join([f"data sets: {what}.", *problems]))
    if manifest is not None:
        write_json(manifest, sizes)
