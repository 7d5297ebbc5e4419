"""``python -m tests.cluster up|down``: the test cluster by hand, to try things on."""

from __future__ import annotations

from pathlib import Path

import click

from tests.cluster.slurm import Cluster, missing_programs


@click.command()
@click.argument("what", type=click.Choice(["up", "down"]))
@click.option("--root", type=click.Path(path_type=Path), default=Path("/tmp/acdc-test-cluster"))
def main(what: str, root: Path) -> None:
    """Start the test cluster, or end it."""
    if missing := missing_programs():
        raise click.ClickException(f"not installed: {', '.join(missing)}")
    cluster = Cluster(root)
    if what == "down":
        cluster.down()
        return
    cluster.up()
    click.echo(cluster.run("sinfo"))
    click.echo(f"export SLURM_CONF={cluster.configuration}")


if __name__ == "__main__":
    main()
