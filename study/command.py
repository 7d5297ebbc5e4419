"""``acdc study``: write the resolved study of a scale as JSON."""

from __future__ import annotations

from pathlib import Path

import click

from study.model import STUDY, write_study
from study.resolve import load


@click.command()
@click.argument("scale")
@click.option("--seeds", type=click.IntRange(1), help="Number of seeds per row (1..N).")
@click.option("--experiments", help="Folder of the experiments, instead of the suite's.")
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    help="File to write.  [default: results/SCALE/study.json]",
)
def study_command(scale: str, seeds: int | None, experiments: str | None, out: Path | None) -> None:
    """Write the resolved study of SCALE as JSON: its experiments, rows and runs."""
    study = load(scale, seeds, experiments)
    path = out or Path("results", study.scale.name, STUDY)
    write_study(study, path)
    click.echo(path)
