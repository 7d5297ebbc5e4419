"""The stores that results are mirrored into, and how one of them is opened."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, unquote_plus, urlsplit

from filelock import FileLock

from acdc.errors import ConfigError, SuiteError
from tracking.snapshots import digest

if TYPE_CHECKING:
    from tracking.mirror import Mirror

# Up to the last @, since what is misspelt may hold any character.
LOGIN = re.compile(r"[^:]*://[^:/@]*:(.+)@|(?![^:]*://)(?:\w+:/?(?=[^@]*:)|\w+//)?[^:/@]*:(.+)@")
SECRET = re.compile(r"(?<=[?&])\w*(?:passw|pwd|secret|token)\w*=([^&#]*)", re.IGNORECASE)
SCHEMES = ("sqlite", "http", "https", "postgresql", "mysql", "mssql")
STORE_WAIT_S = 20.0  # as long as MLflow itself waits for a locked SQLite file
MIRROR_WAIT_S = 3600.0


class TrackingError(SuiteError):
    """The tracking store is away, locked or refuses; nothing is lost, since the journals remain."""

    exit_status = 6


def tracking_uri(option: str | None, study: Path) -> str:
    """Return the store: the option, else MLFLOW_TRACKING_URI, else mlflow.db in the study.

    Raises:
        ConfigError: MLflow 3 does not write there; plain folders such as mlruns are refused.
    """
    beside = f"sqlite:///{study.absolute() / 'mlflow.db'}"
    uri = option or os.environ.get("MLFLOW_TRACKING_URI") or beside
    try:
        _ = urlsplit(uri).port
        scheme = uri.partition("://")[0] if "://" in uri else ""
    except ValueError:
        scheme = ""
    if scheme.partition("+")[0] not in SCHEMES:
        shown = without_password(repr(uri), uri)
        raise ConfigError(
            f"--uri: {shown} is no tracking store; sqlite:///FILE, http://HOST:PORT, https://HOST "
            "and the URI of a database server are accepted"
        )
    return uri


def without_password(text: str, uri: str) -> str:
    """Return a text that can be shown although it may name a store with its password."""
    for secret in passwords(uri):
        for form in (secret, unquote(secret), unquote_plus(secret)):
            text = text.replace(form, "***")
    return text


def passwords(uri: str) -> list[str]:
    """Return the passwords in an address, which may be misspelt, as they stand there."""
    if uri.startswith("sqlite:"):
        return []
    secrets = (LOGIN.match(uri), *SECRET.finditer(uri))
    found = [match[match.lastindex or 0] for match in secrets if match]
    with contextlib.suppress(ValueError):
        found.append(urlsplit(uri).password or "")
    return sorted(filter(None, found), key=len, reverse=True)


def passwordless(uri: str) -> str:
    """Return an address without its passwords, for where it is stored or repeated."""
    if uri.startswith("sqlite:"):
        return uri
    parts = urlsplit(uri)
    login, at, place = parts.netloc.rpartition("@")
    query = [part for part in parts.query.split("&") if not SECRET.fullmatch(f"?{part}", 1)]
    netloc = f"{login.partition(':')[0]}{at}{place}"
    return parts._replace(netloc=netloc, query="&".join(query)).geturl()


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
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        # That a server is away is told after seconds, not minutes: the command can be run again.
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
        "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    }.items():
        os.environ.setdefault(key, value)
    try:
        import sqlalchemy  # noqa: F401

        # And with it MLflow, which sets the levels of its loggers.
        import tracking.mirror  # noqa: F401
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
    os.environ["_MLFLOW_SERVER_ARTIFACT_ROOT"] = str(path.with_name("mlartifacts"))
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        MlflowClient(f"sqlite:///{temporary}", f"sqlite:///{temporary}").search_experiments()
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def is_away(error: Exception) -> bool:
    """Return whether an error means that no server answers."""
    return any(text in str(error) for text in ("Max retries exceeded", "Connection aborted"))


def reason(error: Exception) -> str:
    """Return what is wrong with a store, in a few words."""
    text = " ".join(str(error).split())
    if "database is locked" in text:
        return "it is locked by another program"
    if is_away(error):
        return "no server answers there"
    if "error 401" in text or "not authenticated" in text:
        return (
            "it wants a user and a password, and MLFLOW_TRACKING_USERNAME and "
            "MLFLOW_TRACKING_PASSWORD are not set or not right"
        )
    if "error code 403" in text or "403 Client Error" in text:
        user = os.environ.get("MLFLOW_TRACKING_USERNAME")
        return (
            f"{f'the user {user}' if user else 'this user'} may not write there; whoever made the "
            "experiment can allow it, and another one can be named with --experiment"
        )
    return text[:300]


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

    from tracking.mirror import Mirror

    file = Path(uri.removeprefix("sqlite:///")).absolute() if uri.startswith("sqlite:") else None
    shared = f"acdc-{os.getuid()}-{digest(passwordless(uri).encode())}.lock"
    lock = file.with_name(f"{file.name}.lock") if file else Path(tempfile.gettempdir(), shared)
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(lock, timeout=MIRROR_WAIT_S):
            if file:
                # Each connection opens the file anew, which may be another one by then.
                os.environ.setdefault("MLFLOW_SQLALCHEMYSTORE_POOLCLASS", "NullPool")
                prepare_store(file)
            artifacts = file.with_name("mlartifacts").as_uri() if file else None
            yield Mirror(MlflowClient(uri, uri), artifacts, weights)
    except (MlflowException, SQLAlchemyError, sqlite3.Error, OSError, ImportError) as error:
        raise TrackingError(
            without_password(f"tracking store {uri}: {reason(error)}", uri)
            + "; nothing is lost: run the command again once that is mended"
        ) from error
