"""``python -m workflow``: make a study, or write down what it consists of."""

from __future__ import annotations

from pathlib import Path

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
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), required=True)
def plan(scale: str, out: Path) -> None:
    """Write the resolved study of SCALE as JSON."""
    write_json(out, load(scale).plan())


if __name__ == "__main__":
    main(cli)
