"""``acdc conformance``: check that the methods compute what their originals compute."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import click
import torch

from acdc.errors import DataError, SuiteError
from acdc.messages import config_error
from conformance.replay import FORMATS, Replay, replay_file, summary

VECTORS = Path(__file__).resolve().parent / "golden"


class ConformanceError(SuiteError):
    """A method does not agree with its original."""


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
    with the largest difference and what is allowed, and every number that is not used. The exit
    status is 1 if a case does not agree, and 3 if a file is damaged.
    """
    torch.set_num_threads(1)
    replays = [replay_file(path) for path in sorted(folder.glob("*.json"))]
    for replay in replays:
        for line in lines(replay, quiet):
            click.echo(line)
    known = [replay for replay in replays if replay.format]
    problems = [replay.problem for replay in replays if replay.problem]
    if not known and not problems:
        raise config_error("folder", folder, "no file to replay", FORMATS)
    click.echo(summary(known))
    if not all(case.agrees for replay in known for case in replay.cases):
        raise ConformanceError("a method does not agree with its original; see DIFFERS above")
    if problems:
        raise DataError("; ".join(problems))


def lines(replay: Replay, quiet: bool) -> Iterator[str]:
    """Yield a line for the file and one for each case, or for each that does not agree."""
    bad = sum(not case.agrees for case in replay.cases)
    verdict = f"{bad} of {len(replay.cases)} DIFFER" if bad else "agrees"
    if replay.problem:
        yield replay.problem
    elif replay.format is None:
        yield f"{replay.file}: unknown format, skipped"
        return
    else:
        yield f"{replay.file}  ({replay.format}, {len(replay.cases)} cases): {verdict}"
    # What many objects have in common is printed once.
    names = [[key for key in keys if isinstance(key, str)] for keys in replay.left_out]
    for name, count in Counter(": ".join(dict.fromkeys((n[0], n[-1]))) for n in names).items():
        yield f"  skipped  {name}" + (f" ({count} times)" if count > 1 else "")
    for case in replay.cases:
        if not (quiet and case.agrees):
            yield (
                f"  {'agrees' if case.agrees else 'DIFFERS'}  {case.name}: "
                f"largest difference {case.difference:.3g}, allowed {case.tolerance:.3g}"
                + (f" ({case.note})" if case.note else "")
            )
