"""The command that sends results to MLflow, once or repeatedly while runs are trained."""

from __future__ import annotations

import contextlib
import shlex
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import click

from acdc.console import Seconds
from acdc.errors import RunDirectoryError, SuiteError
from acdc.messages import config_error
from tracking.content import run_content, run_folders, study_content
from tracking.store import TrackingError, open_store, tracking_uri, without_password


def studies(folders: tuple[Path, ...]) -> dict[Path, list[Path]]:
    """Return the runs in the folders, by the study or else the folder that they belong to."""
    found: dict[Path, list[Path]] = {folder: [] for folder in folders if is_study(folder)}
    for run in dict.fromkeys(run for folder in folders for run in run_folders(folder)):
        study = next((parent for parent in run.parents if is_study(parent)), run.parent)
        found.setdefault(study, []).append(run)
    return found


def is_study(folder: Path) -> bool:
    """Return whether a folder holds a study's runs."""
    return (folder / "runs").is_dir()


def check(folder: Path) -> None:
    """Check that there are runs in a folder, or will be.

    Raises:
        ConfigError: there is neither a run nor a study.
    """
    if not (
        any((place / "study.json").exists() for place in (folder, folder.parent))
        or run_folders(folder)
    ):
        raise config_error(
            "FOLDER", folder, "no runs", "a study such as results/smoke, a folder of runs, or a run"
        )


def sync(study: Path, runs: list[Path], uri: str, name: str | None, quiet: bool) -> None:
    """Send what MLflow lacks of a study and of these of its runs, and print what that was.

    Args:
        study: the folder that the runs belong to.
        runs: their folders.
        uri: of the store.
        name: of the experiment; None for ``acdc-SCALE``, or ``acdc`` for runs outside of a study.
        quiet: print nothing if nothing was sent.

    Raises:
        TrackingError: the store is down, locked or refuses access.
        RunDirectoryError: runs could not be read; all others were sent.
    """
    counts: Counter[str] = Counter()
    damaged = []
    with open_store(uri) as client:
        from tracking.sync import Experiment  # here, since it imports MLflow

        artifacts = None
        if uri.startswith("sqlite:"):
            file = Path(uri.removeprefix("sqlite:///")).absolute()
            artifacts = file.with_name("mlartifacts").as_uri()
        name = name or (f"acdc-{study.name}" if is_study(study) else "acdc")
        there = Experiment(client, name, study, artifacts)
        for run in runs:
            try:
                content = run_content(run)
            except RunDirectoryError as error:
                damaged.append(str(error))
            else:
                if content:
                    counts[there.send(content)] += 1
        shown = study_content(study)
        tables = there.send(shown) if shown else "unchanged"
    if not quiet or {tables, *counts} != {"unchanged"}:
        each = ", ".join(f"{counts[key]} {key}" for key in ("new", "updated", "unchanged"))
        text = f"synced to {uri}: {counts.total()} runs: {each}; tables and figures {tables}"
        click.echo(without_password(text, uri))
    if damaged:
        raise RunDirectoryError("; ".join(damaged))


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
@click.option(
    "--follow",
    "seconds",
    metavar="SECONDS",
    type=Seconds(positive=True),
    help="Sync repeatedly, with this pause in between, until Ctrl-C.",
)
@click.option("--lenient", is_flag=True, help="Print errors and exit with status 0.")
def sync_command(
    folders: tuple[Path, ...],
    uri: str | None,
    experiment: str | None,
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

    def sync_all(quiet: bool) -> list[SuiteError]:
        failed: list[SuiteError] = []
        for study, runs in studies(folders).items():
            try:
                sync(study, runs, tracking_uri(uri, study), experiment, quiet)
            except (TrackingError, RunDirectoryError) as error:
                failed.append(error)
        return failed

    for folder in folders:
        check(folder)
    try:
        if seconds is not None:
            follow(sync_all, seconds)
            return
        failed = sync_all(quiet=False)
        if failed:
            raise type(failed[0])("; ".join(map(str, failed)))
    except SuiteError as error:
        if not lenient:
            raise
        retry = shlex.join(["acdc", "sync", *map(str, folders)])
        click.echo(f"not synced: {error}. Retry: {retry}")


def follow(sync_all: Callable[[bool], list[SuiteError]], seconds: float) -> None:
    """Sync repeatedly until SIGTERM or Ctrl-C; print an error once, until it changes."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    printed: list[str] = []
    with contextlib.suppress(KeyboardInterrupt):
        while True:
            failed = [str(error) for error in sync_all(True)]
            for text in failed:
                if text not in printed:
                    click.echo(f"{time.strftime('%H:%M:%S')} {text}", err=True)
            printed = failed
            time.sleep(seconds)
