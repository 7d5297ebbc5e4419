"""The command ``acdc data``: which data sets are present, and whether they are intact."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from acdc.console import table
from acdc.data import DATASETS, DatasetSpec
from acdc.errors import DataError
from acdc.files import write_json
from acdc.messages import config_error

if TYPE_CHECKING:
    from acdc.data.loader import Split


@dataclass(frozen=True)
class Finding:
    """The state of a data set on this machine."""

    state: Literal["there", "incomplete", "missing"]
    folder: Path | None
    sizes: Mapping[Split, int] = field(default_factory=dict)
    """Images of each split; empty unless the set is there."""
    verified: str = ""
    remark: str = ""
    problem: str = ""
    """What is wrong and how to fix it."""


def examine(spec: DatasetSpec) -> Finding:
    """Locate a data set, and load it if no file is missing."""
    place = spec.locate()
    if place.missing is not None:
        return Finding(
            "incomplete" if place.folder else "missing", place.folder, problem=place.missing
        )
    try:
        images = spec.load()
    except DataError as error:
        return Finding("incomplete", place.folder, problem=str(error))
    return Finding("there", place.folder, images.sizes, images.verified, images.remark)


def require_known(names: Sequence[str]) -> None:
    """Raise ConfigError unless all names are those of data sets."""
    for name in names:
        if name not in DATASETS:
            raise config_error("dataset", name, "unknown dataset", DATASETS)


@click.group("data")
def data_command() -> None:
    """Locate and verify the data sets."""


@data_command.command()
@click.argument("names", nargs=-1)
def check(names: tuple[str, ...]) -> None:
    """Show which data sets (default: all) are present and intact, and how to get the others.

    Verifies the checksums of sets held in memory and counts the files of image folders. Exit status
    3: a named set is missing, or any set is incomplete.
    """
    require_known(names)
    findings = {name: examine(DATASETS[name]) for name in names or DATASETS}
    rows = [
        [
            name,
            finding.state,
            " + ".join(f"{count:,}" for count in finding.sizes.values()),
            finding.verified,
            str(finding.folder or ""),
        ]
        for name, finding in findings.items()
    ]
    images = "images: training + validation + test"
    headings = ["data set", "", images, "verified", "where"]
    click.echo(table(headings, rows, [28, 10, 24, 15, 44]))
    # Sets that share files share problems.
    for text in dict.fromkeys(f.problem or f.remark for f in findings.values()):
        if text:
            click.echo(f"\n{text}")
    unusable = [
        f"{name} is {finding.state}"
        for name, finding in findings.items()
        if finding.state == "incomplete" or (names and finding.state == "missing")
    ]
    if unusable:
        raise DataError(f"data sets: {', '.join(unusable)}; see above how to get them")


@data_command.command()
@click.argument("name")
@click.option(
    "--manifest",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the number of images as JSON.",
)
def verify(name: str, manifest: Path | None) -> None:
    """Verify one data set."""
    require_known([name])
    spec = DATASETS[name]
    images = spec.load()
    counts = ", ".join(f"{count} {split}" for split, count in images.sizes.items())
    click.echo(f"{name}: {spec.title}: {counts} images; verified: {images.verified}")
    if manifest is not None:
        write_json(manifest, {name: {"title": spec.title, "images": images.sizes}})
