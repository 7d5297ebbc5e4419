"""The command ``acdc data``: which data sets are there, and whether they are whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from acdc.console import table
from acdc.data import DATASETS, DatasetSpec
from acdc.errors import ConfigError, DataError
from acdc.files import write_json

if TYPE_CHECKING:
    from acdc.data.loader import Split


@dataclass(frozen=True)
class Finding:
    """What has been found of a data set."""

    state: Literal["there", "incomplete", "missing"]
    folder: Path | None
    sizes: Mapping[Split, int]
    """Images of each split, empty unless the set is there."""
    complaint: str = ""
    """What is wrong and how to mend it."""


def examine(spec: DatasetSpec) -> Finding:
    """Look for a data set, and read it where all its files are."""
    place = spec.locate()
    if place.missing is not None:
        return Finding("incomplete" if place.folder else "missing", place.folder, {}, place.missing)
    try:
        sizes = spec.load().sizes
    except DataError as error:
        return Finding("incomplete", place.folder, {}, str(error))
    return Finding("there", place.folder, sizes)


def known(names: Sequence[str]) -> None:
    """Refuse names of no data set.

    Raises:
        ConfigError: one is unknown.
    """
    unknown = [name for name in names if name not in DATASETS]
    if unknown:
        raise ConfigError(f"dataset: {unknown[0]!r} is unknown; {', '.join(DATASETS)} are accepted")


@click.group("data")
def data_command() -> None:
    """Look for the data sets and verify them."""


@data_command.command()
@click.argument("names", nargs=-1)
def check(names: tuple[str, ...]) -> None:
    """Say which data sets are there and whole, by default of all, and how to get the others.

    Reads every file of the sets in memory and compares its checksum; counts the files of sets in
    folders. Ends with status 3 if a set that is named is not there, or any set is there in part.
    """
    known(names)
    findings = {name: examine(DATASETS[name]) for name in names or DATASETS}
    rows = [
        [
            name,
            finding.state,
            " + ".join(f"{count:,}" for count in finding.sizes.values()),
            DATASETS[name].verified if finding.sizes else "",
            str(finding.folder or ""),
        ]
        for name, finding in findings.items()
    ]
    images = "images: training + validation + test"
    headings = ["data set", "", images, "verified", "where"]
    click.echo(table(headings, rows, [28, 10, 24, 15, 44]))
    # Sets that share files share complaints.
    for complaint in dict.fromkeys(finding.complaint for finding in findings.values()):
        if complaint:
            click.echo(f"\n{complaint}")
    wanting = [
        f"{name} is {finding.state}"
        for name, finding in findings.items()
        if finding.state == "incomplete" or (names and finding.state == "missing")
    ]
    if wanting:
        raise DataError(f"data sets: {', '.join(wanting)}; see above for what to do")


@data_command.command()
@click.argument("name")
@click.option(
    "--manifest",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write what was found as JSON.",
)
def verify(name: str, manifest: Path | None) -> None:
    """Verify one data set, which has to be there."""
    known([name])
    spec = DATASETS[name]
    sizes = spec.load().sizes
    counts = ", ".join(f"{count} {split}" for split, count in sizes.items())
    click.echo(f"{name}: {spec.title}: {counts} images, {spec.verified}")
    if manifest is not None:
        write_json(manifest, {name: {"title": spec.title, "images": dict(sizes)}})
