"""The command that mirrors run directories into MLflow, and the stores that it mirrors into.

Training never calls MLflow: it writes its journal, which stays the truth. This command sends what
the store does not have yet and can be run again at any time.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import click
from filelock import FileLock

from acdc.errors import ConfigError, SuiteError
from acdc.snapshots import DamagedRunError, Snapshot, digest

if TYPE_CHECKING:
    from acdc.mirror import Mirror

RUN_NAME = re.compile(r".+-[0-9a-f]{12}")
SCHEMES = ("sqlite", "http", "https", "postgresql", "mysql", "mssql")
STORE_WAIT_S = 20.0  # as long as MLflow itself waits for a locked SQLite file
MIRROR_WAIT_S = 3600.0


class TrackingError(SuiteError):
    """The tracking store is away, locked or refuses; nothing is lost, since the journals remain."""

    exit_status = 6


def tracking_uri(option: str | None, folder: Path) -> str:
    """Return the store: the option, else MLFLOW_TRACKING_URI, else mlflow.db beside the runs.

    Raises:
        ConfigError: MLflow 3 does not write there; plain folders such as mlruns are refused.
    """
    beside = f"sqlite:///{folder.absolute().parent / 'mlflow.db'}"
    uri = option or os.environ.get("MLFLOW_TRACKING_URI") or beside
    if uri.partition(":")[0].partition("+")[0] not in SCHEMES or "://" not in uri:
        raise ConfigError(
            f"--uri: {uri!r} is no tracking store; sqlite:///FILE, http://HOST:PORT, https://HOST "
            "and the URI of a database server are accepted"
        )
    return uri


def without_password(text: str, uri: str) -> str:
    """Return a text that can be shown although it may name a store with its password."""
    password = urlsplit(uri).password
    return text.replace(password, "***") if password else text


def load_mlflow() -> None:
    """Import MLflow so that it reaches no host but its server and says nothing.

    Raises:
        TrackingError: it is not installed.
    """
    for key, value in {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "true",
        "GIT_PYTHON_REFRESH": "quiet",
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
        # That a server is away is told after seconds, not minutes: the command can be run again.
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
        "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    }.items():
        os.environ.setdefault(key, value)
    try:
        import sqlalchemy  # noqa: F401

        import acdc.mirror  # noqa: F401  and with it MLflow, which sets the levels of its loggers
    except ModuleNotFoundError as error:
        raise TrackingError(
            f"tracking needs the package {error.name}; pip install 'acdc-suite[suite]' installs it"
        ) from None
    for name in ("mlflow", "alembic", "urllib3", "git"):
        # Its errors are told in one sentence by open_store.
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)


def prepare_store(path: Path) -> None:
    """Make an SQLite store, whole or not at all, or make sure that the one there can be written.

    Raises:
        sqlite3.Error: it is locked, read-only or no database.
    """
    if path.exists():
        with contextlib.closing(sqlite3.connect(path, timeout=STORE_WAIT_S)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            connection.rollback()
        return
    from mlflow import MlflowClient

    # Where MLflow's own Default experiment would keep its artifacts; ./mlruns otherwise.
    os.environ.setdefault("_MLFLOW_SERVER_ARTIFACT_ROOT", str(path.with_name("mlartifacts")))
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        MlflowClient(f"sqlite:///{temporary}", f"sqlite:///{temporary}").search_experiments()
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def open_store(uri: str, weights: bool) -> Iterator[Mirror]:
    """Yield the mirror in a store, to one process of this host at a time.

    Raises:
        TrackingError: one sentence for whatever MLflow and what lies below it raise.
    """
    load_mlflow()
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    from acdc.mirror import Mirror

    file = Path(uri.removeprefix("sqlite:///")).absolute() if uri.startswith("sqlite:") else None
    shared = f"acdc-{os.getuid()}-{digest(uri.encode())}.lock"
    lock = file.with_name(f"{file.name}.lock") if file else Path(tempfile.gettempdir(), shared)
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(lock, timeout=MIRROR_WAIT_S):
            if file:
                prepare_store(file)
            artifacts = file.with_name("mlartifacts").as_uri() if file else None
            yield Mirror(MlflowClient(uri, uri), artifacts, weights)
    except (MlflowException, SQLAlchemyError, sqlite3.Error, OSError, ImportError) as error:
        reason = " ".join(str(error).split())
        if "database is locked" in reason:
            reason = "it is locked by another program"
        elif "Max retries exceeded" in reason:
            reason = "no server answers there"
        raise TrackingError(
            without_password(f"tracking store {uri}: {reason[:300]}", uri)
            + "; nothing is lost: run the command again once that is mended"
        ) from error


def scale_of(run: Path) -> str:
    """Return the scale of a run, as in ``results/<scale>/runs/<run>``, else nothing."""
    runs = run.parent
    return runs.parent.name if runs.name == "runs" and runs.parent.name != "results" else ""


@click.command("track")
@click.argument(
    "folders",
    metavar="RUNS_FOLDER...",
    nargs=-1,
    required=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
)
@click.option(
    "--uri", help="The store.  [default: $MLFLOW_TRACKING_URI, else mlflow.db beside RUNS_FOLDER]"
)
@click.option("--experiment", help="MLflow's experiment.  [default: acdc-SCALE, or acdc]")
@click.option("--scale", help="Scale of the runs.  [default: as in results/SCALE/runs]")
@click.option("--weights", is_flag=True, help="Send the weights of finished runs, too.")
def track_command(
    folders: tuple[Path, ...],
    uri: str | None,
    experiment: str | None,
    scale: str | None,
    weights: bool,
) -> None:
    """Mirror all runs below RUNS_FOLDER into MLflow; only what is new is sent.

    It can be run at any time, as often as you like, and while runs are being trained.
    """
    uri = tracking_uri(uri, folders[0])
    found = {path.parent.resolve() for folder in folders for path in folder.rglob("config.yaml")}
    outcomes: Counter[str] = Counter()
    damaged = []
    with open_store(uri, weights) as mirror:
        for folder in sorted(path for path in found if RUN_NAME.fullmatch(path.name)):
            at = scale_of(folder) if scale is None else scale
            try:
                run = Snapshot.read(folder, at)
            except DamagedRunError as error:
                damaged.append(str(error))
                continue
            name = experiment or (f"acdc-{at}" if at else "acdc")
            outcomes[mirror.send(run, name)] += 1
    counts = ", ".join(f"{outcomes[key]} {key}" for key in ("new", "updated", "unchanged"))
    click.echo(without_password(f"{outcomes.total()} runs mirrored to {uri}: {counts}", uri))
    if damaged:
        raise DamagedRunError(f"{len(damaged)} runs cannot be read: {'; '.join(damaged)}")
