"""``acdc study``: write the resolved study of a scale, for the reports to read."""

from __future__ import annotations

from pathlib import Path

import click

from acdc.files import write_json
from study.model import load


@click.command()
@click.argument("scale")
@click.option("--seeds", type=click.IntRange(1), help="Number of seeds per row (1..N).")
@click.option("--experiments", help="Folder of the experiments, instead of the suite's.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), required=True)
def study_command(scale: str, seeds: int | None, experiments: str | None, out: Path) -> None:
    """Write the resolved study of SCALE as JSON."""
    write_json(out, load(scale, seeds, experiments).plan())
