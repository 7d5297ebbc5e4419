"""The command that sends results to MLflow, once or repeatedly while runs are trained."""

from __future__ import annotations

import shlex
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from acdc.errors import SuiteError
from tracking.content import DamagedRunError, run_folders
from tracking.store import TrackingError, open_store, tracking_uri, without_password

if TYPE_CHECKING:
    from tracking.sync import Report


@dataclass(frozen=True)
class Request:
    """What one call of the command is to send, and where."""

    folders: tuple[Path, ...]
    uri: str | None
    experiment: str | None
    scale: str | None

    def studies(self) -> dict[Path, list[Path]]:
        """Return the runs in the folders, by the study that they belong to."""
        found: dict[Path, list[Path]] = {folder: [] for folder in self.folders if is_study(folder)}
        for run in dict.fromkeys(run for folder in self.folders for run in run_folders(folder)):
            study = next((parent for parent in run.parents if is_study(parent)), run.parent)
            found.setdefault(study, []).append(run)
        return found

    def sync(self, study: Path, runs: list[Path]) -> Report:
        """Send what MLflow lacks of a study.

        Raises:
            ConfigError: the store's address is wrong.
            TrackingError: the store is down, locked or refuses access.
        """
        uri = tracking_uri(self.uri, study)
        scale = self.scale if self.scale is not None else study.name if is_study(study) else ""
        name = self.experiment or (f"acdc-{scale}" if scale else "acdc")
        with open_store(uri) as client:
            from tracking.sync import Experiment, sync_study  # here, since it imports MLflow

            artifacts = None
            if uri.startswith("sqlite:"):
                file = Path(uri.removeprefix("sqlite:///")).absolute()
                artifacts = file.with_name("mlartifacts").as_uri()
            experiment = Experiment(client, name, scale, str(study), artifacts)
            return sync_study(experiment, study, runs)

    def sync_all(self, quiet: bool = False) -> list[SuiteError]:
        """Send what MLflow lacks of each study, print what that was, and return what failed.

        Args:
            quiet: print nothing of a study of which nothing was sent.
        """
        failed: list[SuiteError] = []
        for study, runs in self.studies().items():
            try:
                report = self.sync(study, runs)
            except TrackingError as error:
                failed.append(error)
                continue
            if report.changed or not quiet:
                uri = tracking_uri(self.uri, study)
                click.echo(without_password(f"synced to {uri}: {report}", uri))
            if report.damaged:
                failed.append(DamagedRunError("; ".join(report.damaged)))
        return failed


def is_study(folder: Path) -> bool:
    """Return whether a folder holds a study's runs."""
    return (folder / "runs").is_dir()


def follow(request: Request, seconds: float) -> NoReturn:
    """Sync again and again; an error is printed once, until it changes."""
    printed: list[str] = []
    while True:
        failed = [str(error) for error in request.sync_all(quiet=True)]
        for text in failed:
            if text not in printed:
                click.echo(f"{time.strftime('%H:%M:%S')} {text}", err=True)
        printed = failed
        time.sleep(seconds)


@click.command("sync")
@click.argument(
    "folders",
    metavar="FOLDER...",
    nargs=-1,
    required=True,
    type=click.Path(exists=True, file_okay=False, resolve_path=True, path_type=Path),
)
@click.option(
    "--uri", help="MLflow store.  [default: $MLFLOW_TRACKING_URI, else mlflow.db in each study]"
)
@click.option("--experiment", help="MLflow experiment.  [default: acdc-SCALE, or acdc]")
@click.option("--scale", help="Scale of the runs.  [default: as in results/SCALE]")
@click.option(
    "--follow",
    "seconds",
    metavar="SECONDS",
    type=click.FloatRange(0, min_open=True),
    help="Sync repeatedly, with this pause in between, until Ctrl-C.",
)
@click.option("--lenient", is_flag=True, help="Print errors and exit with status 0.")
def sync_command(
    folders: tuple[Path, ...],
    uri: str | None,
    experiment: str | None,
    scale: str | None,
    seconds: float | None,
    lenient: bool,
) -> None:
    """Send results to MLflow: studies, folders of runs, or single runs. Only changes are sent.

    Run it at any time, also while runs are trained.

    \b
    Examples:
      acdc sync results/smoke
      acdc sync results/small --uri https://your-server --follow 60
    """  # noqa: D301
    request = Request(folders, uri, experiment, scale)
    if seconds is not None:
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            follow(request, seconds)
        except KeyboardInterrupt:
            return
    try:
        failed = request.sync_all()
        if len(failed) > 1:
            raise type(failed[0])("; ".join(map(str, failed)))
        if failed:
            raise failed[0]
    except SuiteError as error:
        if not lenient:
            raise
        again = ["acdc", "sync", *map(str, folders), *(["--scale", scale] if scale else [])]
        click.echo(f"not synced: {error}. Retry: {shlex.join(again)}")
