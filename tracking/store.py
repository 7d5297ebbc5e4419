"""Open an MLflow store, and report its errors in one sentence without passwords.

Importing this module does not import MLflow, which takes seconds.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, quote, quote_plus, unquote, urlsplit

from filelock import FileLock

from acdc.errors import SuiteError
from acdc.messages import config_error

if TYPE_CHECKING:
    from mlflow import MlflowClient

SCHEMES = ("sqlite", "http", "https", "postgresql", "mysql", "mssql")
VARIABLE = "MLFLOW_TRACKING_URI"
LOCK_WAIT_S = 3600.0
SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "GIT_PYTHON_REFRESH": "quiet",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    # A server that is down is reported after seconds, not minutes: sync can be run again.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    # A pool would keep writing to an SQLite file that was deleted while sync follows.
    "MLFLOW_SQLALCHEMYSTORE_POOLCLASS": "NullPool",
}


class TrackingError(SuiteError):
    """The tracking store is down, locked or refuses access; the results folder is unaffected."""

    exit_status = 9


def tracking_uri(option: str | None, study: Path) -> str:
    """Return the store: the option, else MLFLOW_TRACKING_URI, else mlflow.db in the study.

    Raises:
        ConfigError: MLflow 3 does not write there, for example to a plain folder such as mlruns.
    """
    given = option or os.environ.get(VARIABLE)
    uri = given or f"sqlite:///{study.absolute() / 'mlflow.db'}"
    try:
        _ = urlsplit(uri).port, uri.encode()
        scheme = uri.partition("://")[0].partition("+")[0] if "://" in uri else ""
    except ValueError:
        scheme = ""
    if scheme in SCHEMES and not (scheme == "sqlite" and "?" in uri):
        return uri
    if not given:
        allowed = "a path of Unicode without question marks, or another store by --uri"
        raise config_error("FOLDER", study, "MLflow cannot write there", allowed)
    value = None if set("@?") & set(uri) else uri  # which may hold a password
    allowed = "sqlite:///FILE, http://HOST:PORT, https://HOST or a database server"
    raise config_error("--uri" if option else VARIABLE, value, "not a tracking store", allowed)


def without_password(text: str, uri: str) -> str:
    """Return a text with the passwords of an address replaced by ``***``."""
    parts = urlsplit(uri)
    secrets = [value for key, value in parse_qsl(parts.query) if "pass" in key.lower()]
    for secret in filter(None, [unquote(parts.password or ""), parts.password, *secrets]):
        for form in (secret, quote(secret, safe=""), quote_plus(secret)):
            text = text.replace(form, "***")
    return text


def load_mlflow() -> None:
    """Import MLflow so that it contacts no host except its server and logs nothing.

    Raises:
        TrackingError: it is not installed.
    """
    for key, value in SETTINGS.items():
        os.environ.setdefault(key, value)
    try:
        import mlflow
        import sqlalchemy  # noqa: F401

        _ = mlflow.MlflowClient  # imports what sets the levels of MLflow's loggers
    except ModuleNotFoundError as error:
        raise TrackingError(
            f"the package {error.name} is missing. Install it: pip install 'acdc-suite[suite]'"
        ) from None
    for name in ("mlflow", "alembic", "urllib3", "git"):
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)  # open_store reports errors


@contextlib.contextmanager
def open_store(uri: str) -> Iterator[MlflowClient]:
    """Yield a client of a store; an SQLite file is created, and locked for other syncs.

    Raises:
        TrackingError: any error of MLflow, of the database or of the network, in one sentence.
    """
    load_mlflow()
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    file = Path(uri.removeprefix("sqlite:///")) if uri.startswith("sqlite:") else None
    try:
        with contextlib.ExitStack() as stack:
            if file:
                file.parent.mkdir(parents=True, exist_ok=True)
                lock = FileLock(file.with_name(f"{file.name}.lock"), timeout=LOCK_WAIT_S)
                stack.enter_context(lock)
                create_store(file)
            yield MlflowClient(uri, uri)
    except (MlflowException, SQLAlchemyError, sqlite3.Error, OSError, ImportError) as error:
        text = f"tracking store {uri}: {reason(error)}"
        raise TrackingError(without_password(text, uri)) from error


def create_store(file: Path) -> None:
    """Create an SQLite store, completely or not at all, or check that the one there is writable.

    Raises:
        sqlite3.Error: it is locked, read-only or not a database.
    """
    if file.exists():
        # MLflow would retry for two minutes.
        with contextlib.closing(sqlite3.connect(file)) as connection:
            connection.execute("BEGIN IMMEDIATE")
        return
    from mlflow import MlflowClient

    # Artifacts of MLflow's own experiment, Default; without this it creates ./mlruns for them.
    os.environ["_MLFLOW_SERVER_ARTIFACT_ROOT"] = str(file.with_name("mlartifacts"))
    temporary = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    try:
        MlflowClient(f"sqlite:///{temporary}").search_experiments()
        temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)


def is_down(error: Exception) -> bool:
    """Return whether an error means that no server answers."""
    return any(text in str(error) for text in ("Max retries exceeded", "Connection aborted"))


def reason(error: Exception) -> str:
    """Return what is wrong with a store and what to do, in a few words."""
    text = " ".join(str(error).split())
    if "database is locked" in text:
        return "locked by another program. Sync again later"
    if is_down(error):
        return "no server answers. Sync again later: nothing is lost"
    if "out-of-date database schema" in text or "Can't locate revision" in text:
        return "written by another version of MLflow. Delete it with mlartifacts and sync again"
    if "error code 401" in text or "not authenticated" in text:
        return "access denied. Set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
    if "error code 403" in text or "403 Client Error" in text:
        user = os.environ.get("MLFLOW_TRACKING_USERNAME", "this user")
        return (
            f"{user} may not write there. Ask the owner of the experiment for the permission EDIT, "
            "or choose another name with --experiment"
        )
    return f"{text[:300]}. Nothing is lost: sync again later"
