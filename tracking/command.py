"""The command that mirrors results into MLflow, once or for as long as runs are trained.

Training never calls MLflow: it writes its journal, which stays the truth. This command sends what
the store does not have yet and can be run again at any time.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import signal
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

import click

from acdc.errors import ConfigError, SuiteError
from acdc.run.failures import FAILED
from tracking.snapshots import ARTIFACTS, DamagedRunError, Snapshot, run_folders, study_of
from tracking.store import TrackingError, open_store, passwordless, tracking_uri, without_password
from tracking.study import Exhibits

if TYPE_CHECKING:
    from tracking.mirror import Delivery, Mirror, Outcome

State = dict[str, tuple[int, int]]
"""Size and time of the last change of each file of a run directory that the mirror reads."""


def scale_of(study: Path) -> str:
    """Return the scale of a study, as in ``results/<scale>``, else nothing."""
    return study.name if (study / "runs").is_dir() and study.name != "results" else ""


def state_of(run: Path) -> State:
    """Return what tells whether a run has changed."""
    # A new checkpoint, which changes its folder, makes more of the journal count.
    state = {}
    for name in (*ARTIFACTS, FAILED, "checkpoint"):
        with contextlib.suppress(FileNotFoundError):
            stat = (run / name).stat()
            state[name] = stat.st_size, stat.st_mtime_ns
    return state


@dataclass
class Sent:
    """What one pass has sent."""

    runs: Counter[str] = field(default_factory=Counter)
    exhibits: int = 0
    damaged: list[str] = field(default_factory=list)
    """What is wrong with runs that cannot be read."""

    @property
    def anything(self) -> bool:
        """Whether the store had not everything already."""
        return bool(self.runs["new"] or self.runs["updated"] or self.exhibits)

    @property
    def complaint(self) -> str:
        """What is wrong, nothing if all is well."""
        what = f"{len(self.damaged)} runs cannot be read: {'; '.join(self.damaged)}"
        return what if self.damaged else ""

    def __str__(self) -> str:
        counts = ", ".join(f"{self.runs[key]} {key}" for key in ("new", "updated", "unchanged"))
        return f"{self.runs.total()} runs: {counts}; {self.exhibits} tables and figures"


@dataclass
class Task:
    """What one call of the command is to mirror."""

    folders: Sequence[Path]
    uri: str | None
    experiment: str | None
    scale: str | None
    seen: dict[Path, tuple[State, Delivery]] = field(default_factory=dict)
    """Runs that have been mirrored by this process, as they and the store were then."""

    def stores(self) -> dict[str, list[Path]]:
        """Return the runs by the store that they are mirrored into."""
        found: dict[str, set[Path]] = {}
        for folder in self.folders:
            runs = run_folders(folder)
            for path in runs or {folder}:
                there = found.setdefault(tracking_uri(self.uri, study_of(path)), set())
                there |= {path} & runs
        return {uri: sorted(runs) for uri, runs in found.items()}

    def command(self, weights: bool) -> str:
        """Return the command that does the same later."""
        words = ["acdc", "sync", *map(str, self.folders)]
        given = self.uri or os.environ.get("MLFLOW_TRACKING_URI")
        with contextlib.suppress(ConfigError):  # which a store that is no store makes
            if given:
                words += ["--uri", passwordless(tracking_uri(given, self.folders[0]))]
        if self.experiment is not None:
            words += ["--experiment", self.experiment]
        if self.scale is not None:
            words += ["--scale", self.scale]
        return shlex.join([*words, *(["--weights"] if weights else [])])

    def carry_out(self, mirror: Mirror, runs: Iterable[Path]) -> Sent:
        """Send what is new of runs and of their studies; return what it was."""
        sent = Sent()
        studies: dict[Path, str] = {}
        for run in runs:
            study = study_of(run)
            scale = scale_of(study) if self.scale is None else self.scale
            name = self.experiment or (f"acdc-{scale}" if scale else "acdc")
            studies[study] = name
            try:
                sent.runs[self.send(mirror, run, scale, name)] += 1
            except DamagedRunError as error:
                sent.damaged.append(str(error))
        for name in dict.fromkeys(studies.values()):
            mirror.send_cells(name)
        for study, name in studies.items():
            exhibits = Exhibits.read(study, scale_of(study) if self.scale is None else self.scale)
            if exhibits.digests:
                sent.exhibits += mirror.send_exhibits(exhibits, name)
        return sent

    def send(self, mirror: Mirror, run: Path, scale: str, name: str) -> Outcome:
        """Send what is new of a run.

        One that is as this process has sent it, here and in the store, is not read again.
        """
        state = state_of(run)
        before, sent = self.seen.get(run, (None, None))
        if sent is not None and before == state and mirror.holds(sent, name):
            return "unchanged"
        sent = mirror.send(Snapshot.read(run, scale), name)
        self.seen[run] = state, sent
        return sent.outcome


def follow(task: Task, weights: bool, seconds: float) -> NoReturn:
    """Mirror again and again; what is wrong is told of once, and when it is mended."""
    told: dict[str, str] = {}
    while True:
        for uri, runs in task.stores().items():
            now, before = time.strftime("%H:%M:%S"), told.get(uri, "")
            done = None
            try:
                with open_store(uri, weights) as mirror:
                    done = task.carry_out(mirror, runs)
                complaint = done.complaint
            except SuiteError as error:
                complaint = str(error)
            # Addresses and counts may differ in what is the same error.
            told[uri] = re.sub(r"0x[0-9a-f]+|\d+", "", complaint)
            if done and (done.anything or told[uri] != before):
                click.echo(f"{now} {done}")
            if complaint and told[uri] != before:
                click.echo(f"{now} {complaint}", err=True)
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
    "--uri", help="The store.  [default: $MLFLOW_TRACKING_URI, else mlflow.db in each study]"
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
@click.option("--lenient", is_flag=True, help="Say what cannot be mirrored, and end with status 0.")
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
    task = Task(folders, uri, experiment, scale)
    if seconds is not None:
        signal.signal(signal.SIGTERM, stop)
        try:
            shown = ", ".join(without_password(uri, uri) for uri in task.stores())
            click.echo(f"mirroring to {shown} every {seconds:g} s")
            follow(task, weights, seconds)
        except KeyboardInterrupt:
            click.echo("mirroring has ended")
            return
    try:
        once(task, weights)
    except SuiteError as error:
        if not lenient:
            raise
        click.echo(f"not mirrored: {error}: {task.command(weights)}")


def once(task: Task, weights: bool) -> None:
    """Mirror what there is now, and say so.

    Raises:
        TrackingError: a store is away; the others have what there is.
        DamagedRunError: runs cannot be read; the others have been sent.
    """
    wrong: list[SuiteError] = []
    for uri, runs in task.stores().items():
        try:
            with open_store(uri, weights) as mirror:
                done = task.carry_out(mirror, runs)
        except TrackingError as error:
            wrong.append(error)
            continue
        click.echo(without_password(f"mirrored to {uri}: {done}", uri))
        if done.damaged:
            wrong.append(DamagedRunError(done.complaint))
    if len(wrong) > 1:
        raise type(wrong[0])("; ".join(map(str, wrong)))
    if wrong:
        raise wrong[0]


def stop(number: int, frame: FrameType | None) -> NoReturn:
    """End as Ctrl-C does."""
    raise KeyboardInterrupt
