"""The command that mirrors results into MLflow, once or for as long as runs are trained.

Training never calls MLflow: it writes its journal, which stays the truth. This command sends what
the store does not have yet and can be run again at any time.
"""

from __future__ import annotations

import shlex
import signal
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

import click

from acdc.tracking.snapshots import ARTIFACTS, DamagedRunError, Snapshot, key_of, run_folders
from acdc.tracking.store import TrackingError, open_store, tracking_uri, without_password
from acdc.tracking.study import Exhibits

if TYPE_CHECKING:
    from acdc.tracking.mirror import Mirror

State = dict[str, tuple[int, int]]
"""Size and time of the last change of each file of a run directory that the mirror reads."""


def study_of(folder: Path) -> Path:
    """Return the study that a folder is, lies in, or holds the runs of."""
    if (folder / "runs").is_dir():
        return folder
    return next((path.parent for path in (folder, *folder.parents) if path.name == "runs"), folder)


def scale_of(study: Path) -> str:
    """Return the scale of a study, as in ``results/<scale>``, else nothing."""
    return study.name if (study / "runs").is_dir() and study.name != "results" else ""


def state_of(run: Path) -> State:
    """Return what tells whether a run has changed."""
    # A new checkpoint, which changes its folder, makes more of the journal count.
    paths = [path for path in (run / name for name in (*ARTIFACTS, "checkpoint")) if path.exists()]
    return {path.name: (path.stat().st_size, path.stat().st_mtime_ns) for path in paths}


@dataclass
class Sent:
    """What one pass has sent."""

    runs: Counter[str] = field(default_factory=Counter)
    exhibits: int = 0

    @property
    def anything(self) -> bool:
        """Whether the store had not everything already."""
        return bool(self.runs["new"] or self.runs["updated"] or self.exhibits)

    def __str__(self) -> str:
        counts = ", ".join(f"{self.runs[key]} {key}" for key in ("new", "updated", "unchanged"))
        return f"{self.runs.total()} runs: {counts}; {self.exhibits} tables and figures"


@dataclass
class Task:
    """What one call of the command is to mirror."""

    folders: Sequence[Path]
    experiment: str | None
    scale: str | None
    seen: dict[Path, State] = field(default_factory=dict)
    """Runs that have been mirrored by this process, as they were then."""

    def carry_out(self, mirror: Mirror) -> Sent:
        """Send what is new; return what it was.

        Raises:
            DamagedRunError: runs cannot be read; the others have been sent.
        """
        sent = Sent()
        damaged = []
        studies: dict[Path, str] = {}
        for run in sorted({path for folder in self.folders for path in run_folders(folder)}):
            study = study_of(run)
            scale = scale_of(study) if self.scale is None else self.scale
            name = self.experiment or (f"acdc-{scale}" if scale else "acdc")
            studies[study] = name
            try:
                sent.runs[self.send(mirror, run, scale, name)] += 1
            except DamagedRunError as error:
                damaged.append(str(error))
        for name in dict.fromkeys(studies.values()):
            mirror.send_cells(name)
        for study, name in studies.items():
            exhibits = Exhibits.read(study, scale_of(study) if self.scale is None else self.scale)
            if exhibits.digests:
                sent.exhibits += mirror.send_exhibits(exhibits, name)
        if damaged:
            raise DamagedRunError(f"{len(damaged)} runs cannot be read: {'; '.join(damaged)}")
        return sent

    def send(self, mirror: Mirror, run: Path, scale: str, name: str) -> str:
        """Send what is new of a run; one that is as this process has sent it is not read again."""
        state = state_of(run)
        if self.seen.get(run) == state and key_of(run, scale) in mirror.experiment(name).runs:
            return "unchanged"
        outcome = mirror.send(Snapshot.read(run, scale), name)
        self.seen[run] = state
        return outcome


def follow(task: Task, uri: str, weights: bool, seconds: float) -> NoReturn:
    """Mirror again and again; a store that is away is told of once, and when it is back."""
    told = ""
    while True:
        try:
            with open_store(uri, weights) as mirror:
                done = task.carry_out(mirror)
            if told or done.anything:
                click.echo(f"{time.strftime('%H:%M:%S')} {done}")
            told = ""
        except (TrackingError, DamagedRunError) as error:
            if not told:
                click.echo(f"{time.strftime('%H:%M:%S')} {error}", err=True)
            told = str(error)
        time.sleep(seconds)


@click.command("sync")
@click.argument(
    "folders",
    metavar="FOLDER...",
    nargs=-1,
    required=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
)
@click.option(
    "--uri", help="The store.  [default: $MLFLOW_TRACKING_URI, else mlflow.db in the study]"
)
@click.option("--experiment", help="MLflow's experiment.  [default: acdc-SCALE, or acdc]")
@click.option("--scale", help="Scale of the runs.  [default: as in results/SCALE]")
@click.option("--weights", is_flag=True, help="Send the weights of finished runs, too.")
@click.option(
    "--follow",
    "seconds",
    metavar="SECONDS",
    type=click.FloatRange(0, min_open=True),
    help="Go on mirroring, with this pause in between, until Ctrl-C.",
)
@click.option(
    "--lenient", is_flag=True, help="Where the store is away, say so and end with status 0."
)
def sync_command(
    folders: tuple[Path, ...],
    uri: str | None,
    experiment: str | None,
    scale: str | None,
    weights: bool,
    seconds: float | None,
    lenient: bool,
) -> None:
    """Mirror a study, its runs folder or single runs into MLflow; only what is new is sent.

    It can be run at any time, as often as you like, and while runs are being trained.

    \b
    Examples:
      acdc sync results/smoke
      acdc sync results/small --uri https://your-server --follow 60
    """  # noqa: D301
    folders = tuple(folder.resolve() for folder in folders)
    named = uri
    uri = tracking_uri(uri, study_of(folders[0]))
    task = Task(folders, experiment, scale)
    if seconds is not None:
        signal.signal(signal.SIGTERM, stop)
        try:
            click.echo(without_password(f"mirroring to {uri} every {seconds:g} s", uri))
            follow(task, uri, weights, seconds)
        except KeyboardInterrupt:
            click.echo("mirroring has ended")
            return
    try:
        with open_store(uri, weights) as mirror:
            done = task.carry_out(mirror)
        click.echo(without_password(f"mirrored to {uri}: {done}", uri))
    except TrackingError as error:
        if not lenient:
            raise
        options = ["--uri", named] if named else []
        again = shlex.join(["acdc", "sync", *map(str, folders), *options])
        click.echo(without_password(f"not mirrored: {error}: {again}", uri))


def stop(number: int, frame: FrameType | None) -> NoReturn:
    """End as Ctrl-C does."""
    raise KeyboardInterrupt
