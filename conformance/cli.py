"""``acdc conformance``: check that the methods compute what their originals compute."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click
import torch

from conformance.replay import FORMATS, ConformanceError, Replay, replay_file, summary

VECTORS = Path(__file__).resolve().parent / "golden"


@click.command()
@click.argument(
    "folder",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    default=VECTORS,
    metavar="[DIR]",
)
@click.option("--quiet", is_flag=True, help="One line a file, and the cases that do not agree.")
def conformance(folder: Path, quiet: bool) -> None:
    """Replay figures printed by the methods' original code, and compare.

    DIR holds JSON files in the formats of conformance/golden, the default. Every case is printed
    with the largest difference and what is allowed. The exit status is 1 if any does not agree.
    """
    torch.set_num_threads(1)
    replays = []
    for path in sorted(folder.glob("*.json")):
        replay = replay_file(path)
        if replay is None:
            click.echo(f"{path.name}: unknown format, skipped")
            continue
        replays.append(replay)
        for line in lines(replay, quiet):
            click.echo(line)
    if not replays:
        raise ConformanceError(f"folder={folder}: no file to replay. Allowed: {', '.join(FORMATS)}")
    click.echo(summary(replays))
    if not all(replay.agrees for replay in replays):
        raise ConformanceError("a method does not agree with its original; see DIFFERS above")


def lines(replay: Replay, quiet: bool) -> Iterator[str]:
    """Yield a line for the file and one for each case, or for each that does not agree."""
    bad = sum(not case.agrees for case in replay.cases)
    verdict = "agrees" if replay.agrees else f"{bad} of {len(replay.cases)} DIFFER"
    yield f"{replay.file}  ({replay.format}, {len(replay.cases)} cases): {verdict}"
    for section in replay.left_out:
        yield f"  skipped  {section}: unknown section"
    for case in replay.cases:
        if not (quiet and case.agrees):
            yield (
                f"  {'agrees' if case.agrees else 'DIFFERS'}  {case.name}: "
                f"largest difference {case.difference:.3g}, allowed {case.tolerance:.3g}"
                + (f" ({case.note})" if case.note else "")
            )
