"""``python -m workflow``: make a study, or write down what it consists of."""

from __future__ import annotations

import os
import signal
from pathlib import Path

# Imports take seconds, and an interrupt in the middle of one can get lost in it. Nothing has been
# started yet, so leaving at once is right; reproduce takes the signal over when something has.
signal.signal(signal.SIGINT, lambda *_: os._exit(130))

import click

from acdc.cli import CONTEXT, main
from acdc.files import write_json
from workflow.reference import reference
from workflow.reproduce import reproduce
from workflow.study import load


@click.group(context_settings=CONTEXT)
def cli() -> None:
    """Studies: the paper's experiments at a scale."""


cli.add_command(reproduce)
cli.add_command(reference)


@cli.command()
@click.argument("scale")
@click.option("--seeds", type=click.IntRange(1), help="So many for each row, from 1 on.")
@click.option("--experiments", help="Folder of the experiments, instead of the suite's.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), required=True)
def plan(scale: str, seeds: int | None, experiments: str | None, out: Path) -> None:
    """Write the resolved study of SCALE as JSON."""
    write_json(out, load(scale, seeds, experiments).plan())


if __name__ == "__main__":
    main(cli)
