"""``acdc theory``: the experiments, one at a time."""

from __future__ import annotations

from pathlib import Path

import click

from acdc.config.yaml_io import assign
from acdc.console import PathName
from theory import experiment
from theory.layout import EXPERIMENTS


@click.group("theory")
def theory_command() -> None:
    """Check the paper's theorems on problems whose constants are known."""


@theory_command.command("list")
def list_command() -> None:
    """List the experiments and their settings with the defaults."""
    for name in EXPERIMENTS:
        module = experiment.load(name)
        click.echo(f"{name}: {(module.__doc__ or '').splitlines()[0]}")
        for key, field in module.Settings.model_fields.items():
            click.echo(f"    {key} = {field.default}  {field.description}")


@theory_command.command("run")
@click.argument("name", metavar="EXPERIMENT")
@click.option(
    "--out",
    type=PathName(file_okay=False, path_type=Path),
    required=True,
    help="Folder for trials.csv, series.csv and statements.json; made if missing.",
)
@click.option(
    "--set",
    "assignments",
    multiple=True,
    metavar="KEY=VALUE",
    help="A setting; repeat for several.",
)
def run_command(name: str, out: Path, assignments: tuple[str, ...]) -> None:
    """Carry out EXPERIMENT and print what its statements have come to."""
    settings = experiment.parse(name, assign({}, assignments))
    outcome = experiment.write(name, settings, out)
    for statement in outcome.statements:
        measured = statement.measured
        click.echo(
            f"{statement.verdict:14} {statement.source}, {statement.id}: {measured.value:.4g} "
            f"[{measured.low:.4g}, {measured.high:.4g}], {statement.relation} "
            f"{statement.predicted:.4g}"
        )
    click.echo(out)
