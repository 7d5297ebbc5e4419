"""The tracking server: MLflow with authentication on a PostgreSQL of its own, for several users.

Passwords are taken from the environment alone. They stand in no file and on no command line:
MLflow's programs read them from their environment, as PostgreSQL's client library does.
"""

from __future__ import annotations

import base64
import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

import click
from filelock import FileLock, Timeout

from acdc.console import main
from acdc.errors import ConfigError, SuiteError
from acdc.files import write_text

USER = "MLFLOW_TRACKING_USERNAME"
PASSWORD = "MLFLOW_TRACKING_PASSWORD"
DATABASE = "MLFLOW_BACKEND_STORE_URI"
SHORTEST_PASSWORD = 12  # of those that MLflow accepts
KNOWN_PASSWORD = "password1234"  # MLflow's own, until it had none
LOOPBACK = ("127.0.0.1", "::1", "localhost")
NAME = "mlflow"
"""Of the database and of the role that owns it."""
EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}
"""Where a server that listens everywhere can be reached from here."""

START_S = 180.0
STOP_S = 15.0

AUTHENTICATION = """\
[mlflow]
default_permission = READ
database_uri = {uri}
authorization_function = mlflow.server.auth:authenticate_request_basic_auth
auth_cache_ttl_seconds = 30
"""
"""What it says of passwords: that one which was right is not hashed again for half a minute, which
would take most of the time of each request."""


class ServerError(SuiteError):
    """A program of the tracking server cannot be started, or has ended by itself."""

    exit_status = 6


@dataclass(frozen=True)
class Program:
    """A program that runs until it is ended."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path

    def wait_until(self, ready: Callable[[], bool]) -> None:
        """Wait until it answers.

        Raises:
            ServerError: it has ended, or does not answer in time.
        """
        deadline = time.monotonic() + START_S
        while not ready():
            self.check()
            if time.monotonic() > deadline:
                raise ServerError(
                    f"{self.name} does not answer after {START_S:g} s; {self.log} says more"
                )
            time.sleep(0.1)

    def check(self) -> None:
        """Look whether it is still there.

        Raises:
            ServerError: it has ended.
        """
        status = self.process.poll()
        if status is not None:
            said = [line.strip() for line in self.log.read_text(errors="replace").splitlines()]
            last = next(filter(None, reversed(said)), "nothing")[:200]
            raise ServerError(
                f"{self.name} has ended with status {status}; its last words are {last!r}, "
                f"{self.log} has the others"
            )


@contextlib.contextmanager
def running(
    name: str, command: list[str], log: Path, stop: signal.Signals, **options: Any
) -> Iterator[Program]:
    """Run a program whose output goes to a file, and end it with a signal."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, **options
        )
    try:
        yield Program(name, process, log)
    finally:
        process.send_signal(stop)
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            click.echo(f"{name} does not end, it is killed", err=True)
            process.kill()
            process.wait()


@dataclass(frozen=True)
class Database:
    """A PostgreSQL that MLflow keeps its records in."""

    uri: str
    """Without the password."""
    environment: Mapping[str, str]
    """The password, where PostgreSQL's client library looks for it."""
    programs: tuple[Program, ...] = ()
    """Which run it, if it was started here."""


DEBIAN = Path("/usr/lib/postgresql")


def postgres_programs(data: Path) -> Path:
    """Return the folder of PostgreSQL's programs, of Debian or those in PATH.

    Where there is a database already, it is theirs that have made it; else the newest.

    Raises:
        ConfigError: there are none.
    """
    found = sorted(DEBIAN.glob("*/bin/postgres"), key=lambda path: float(path.parts[-3]))
    program = found[-1] if found else shutil.which("postgres")
    version = data / "PG_VERSION"
    if version.exists():
        wanted = version.read_text().strip()
        made = DEBIAN / wanted / "bin" / "postgres"
        if not made.exists() and found:
            raise ConfigError(
                f"{data} is a database of PostgreSQL {wanted}, which is not installed; apt-get "
                f"install postgresql-{wanted} installs it, and pg_upgrade converts the database"
            )
        program = made if found else program
    if program is None:
        raise ConfigError(
            "PostgreSQL is not installed; apt-get install postgresql installs it, and "
            f"{DATABASE}=postgresql://USER:PASSWORD@HOST/NAME names one that runs elsewhere"
        )
    return Path(program).parent


def free_port() -> int:
    """Return a port of the loopback interface that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def own_database(folder: Path) -> Iterator[Database]:
    """Run a PostgreSQL on loopback, with its files in a folder.

    Raises:
        ConfigError: PGPASSWORD is not set, or is not that of the database.
        ServerError: it cannot be started.
    """
    password = os.environ.get("PGPASSWORD")
    if not password:
        raise ConfigError(
            f"PGPASSWORD: not set; the password of the database in {folder} is needed, any that "
            "you choose where there is none yet"
        )
    data, log = folder / "database", folder / "database.log"
    programs = postgres_programs(data)
    # PostgreSQL refuses to run as root.
    root = os.geteuid() == 0
    user = {"user": "postgres", "group": "postgres", "extra_groups": []} if root else {}
    if not (data / "PG_VERSION").exists():
        make_database(programs, data, password, user)
    port = free_port()
    settings = {
        "listen_addresses": "127.0.0.1",
        "unix_socket_directories": "",
        # MLflow looks for duplicates by inserting them.
        "log_min_error_statement": "fatal",
    }
    options = [part for key, value in settings.items() for part in ("-c", f"{key}={value}")]
    command = [str(programs / "postgres"), "-D", str(data), "-p", str(port), *options]
    client = {"PGHOST": "127.0.0.1", "PGPORT": str(port), "PGUSER": NAME, "PGPASSWORD": password}
    environment = {**os.environ, **client}

    def tool(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [programs / name, *arguments],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )

    with running("PostgreSQL", command, log, signal.SIGINT, cwd="/", **user) as program:
        program.wait_until(lambda: tool("pg_isready").returncode == 0)
        made = tool("createdb", NAME)
        if "password authentication failed" in made.stderr:
            raise ConfigError(
                f"PGPASSWORD: it is not the password of the database in {folder}; the one that it "
                "was made with is accepted"
            )
        if made.returncode and "already exists" not in made.stderr:
            raise ServerError(f"PostgreSQL: {' '.join(made.stderr.split())}")
        uri = f"postgresql://{NAME}@127.0.0.1:{port}/{NAME}"
        yield Database(uri, {"PGPASSWORD": password}, (program,))


def make_database(programs: Path, data: Path, password: str, user: Mapping[str, Any]) -> None:
    """Make the files of a PostgreSQL that wants a password of everybody, whole or not at all.

    Raises:
        ServerError: it cannot be done.
    """
    with tempfile.TemporaryDirectory(prefix=f".{data.name}.", dir=data.parent) as made:
        secret = Path(made, "password")
        secret.touch(0o600)
        secret.write_text(password)
        if user:
            for path in (Path(made), secret):
                shutil.chown(path, "postgres", "postgres")
        new = Path(made, data.name)
        options = ["--auth=scram-sha-256", f"--pwfile={secret}", f"--username={NAME}"]
        done = subprocess.run(
            [programs / "initdb", "-D", new, *options, "--encoding=UTF8", "--locale=C"],
            cwd="/",
            capture_output=True,
            text=True,
            check=False,
            **user,
        )
        if done.returncode:
            who = " as the user postgres, who has to be able to enter the folder" if user else ""
            raise ServerError(
                f"initdb cannot make {data}{who}: {' '.join(done.stderr.split())[-300:]}"
            )
        new.rename(data)


@contextlib.contextmanager
def given_database(uri: str) -> Iterator[Database]:
    """Yield a database that runs elsewhere.

    Raises:
        ConfigError: it is no PostgreSQL.
    """
    parts = urlsplit(uri)
    if parts.scheme.partition("+")[0] != "postgresql" or not parts.hostname:
        raise ConfigError(
            f"{DATABASE}: it names no PostgreSQL; postgresql://USER:PASSWORD@HOST/NAME is accepted"
        )
    query = parse_qsl(parts.query, keep_blank_values=True)
    given = [unquote(parts.password)] if parts.password else []
    given += [value for key, value in query if key == "password"]
    password = {"PGPASSWORD": given[-1]} if given else {}
    kept = urlencode([(key, value) for key, value in query if key != "password"])
    place = parts.netloc.rpartition("@")[2]
    user = f"{parts.username}@" if parts.username else ""
    yield Database(parts._replace(netloc=f"{user}{place}", query=kept).geturl(), password)


def secret_key(folder: Path) -> str:
    """Return the key that MLflow signs its cookies with, random for each installation."""
    path = folder / "secret_key"
    if not path.exists():
        path.touch(0o600)
        path.write_text(secrets.token_hex(32))
    return path.read_text()


def credentials() -> tuple[str, str]:
    """Return the user and the password that clients log in with.

    Raises:
        ConfigError: they are not set, or everybody can guess them.
    """
    for key in (USER, PASSWORD):
        if not os.environ.get(key):
            raise ConfigError(
                f"{key}: not set; the server starts only with {USER} and {PASSWORD} in the "
                "environment"
            )
    user, password = os.environ[USER], os.environ[PASSWORD]
    if password in (KNOWN_PASSWORD, user) or len(password) < SHORTEST_PASSWORD:
        raise ConfigError(
            f"{PASSWORD}: too easily guessed; {SHORTEST_PASSWORD} characters or more that are "
            "neither the user's name nor MLflow's former default are accepted"
        )
    return user, password


def server_environment(
    folder: Path, database: Database, user: str, password: str
) -> dict[str, str]:
    """Return what MLflow is told by its environment; nothing of it is secret on a command line."""
    authentication = folder / "basic_auth.ini"
    write_text(authentication, AUTHENTICATION.format(uri=database.uri.replace("%", "%%")))
    authentication.chmod(0o600)
    clients = (USER, PASSWORD, "MLFLOW_TRACKING_URI")
    return {key: value for key, value in os.environ.items() if key not in clients} | {
        **database.environment,
        DATABASE: database.uri,
        "MLFLOW_AUTH_CONFIG_PATH": str(authentication),
        "MLFLOW_AUTH_ADMIN_USERNAME": user,
        "MLFLOW_AUTH_ADMIN_PASSWORD": password,
        "MLFLOW_FLASK_SERVER_SECRET_KEY": secret_key(folder),
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "true",
    }


def check_port(host: str, port: int) -> None:
    """Look whether an address can be listened on.

    Raises:
        ConfigError: it cannot.
    """
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ConfigError(
                f"--port: {host}:{port} cannot be listened on ({error.strerror}); another port, "
                "or ending what listens there, is accepted"
            ) from None


@contextlib.contextmanager
def serving(folder: Path, host: str, port: int) -> Iterator[tuple[Program, ...]]:
    """Run the database and the server; yield their programs once clients can log in.

    Raises:
        ConfigError: an environment variable is missing or wrong, or the port is taken.
        ServerError: one of them cannot be started.
    """
    user, password = credentials()
    check_port(host, port)
    elsewhere = os.environ.get(DATABASE)
    command = [
        *(sys.executable, "-m", "mlflow", "server", "--app-name", "basic-auth"),
        *("--host", host, "--port", str(port), "--workers", "2"),
        *("--serve-artifacts", "--artifacts-destination", str(folder / "artifacts")),
    ]
    with given_database(elsewhere) if elsewhere else own_database(folder) as database:
        environment = server_environment(folder, database, user, password)
        log = folder / "server.log"
        with running(
            "MLflow", command, log, signal.SIGTERM, env=environment, cwd=folder
        ) as program:
            address = url(EVERYWHERE.get(host, host), port)
            program.wait_until(lambda: status(f"{address}/health") == 200)
            page = f"{address}/api/2.0/mlflow/experiments/search?max_results=1"
            if status(page, f"{user}:{password}") == 401:
                raise ConfigError(
                    f"{PASSWORD}: it is not the password that {user} has in the database; that "
                    f"one, or another {USER}, is accepted"
                )
            yield *database.programs, program


def url(host: str, port: int) -> str:
    """Return the address of a server."""
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def status(page: str, login: str = "") -> int:
    """Return the HTTP status of a page, 0 where nothing answers."""
    request = urllib.request.Request(page)
    if login:
        request.add_header("Authorization", f"Basic {base64.b64encode(login.encode()).decode()}")
    # Without the proxy of the environment, which does not reach this machine's own addresses.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=30) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


@click.command()
@click.option(
    "--folder",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("results/tracking"),
    show_default=True,
    help="Where database, artifacts and logs lie.",
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=click.IntRange(1, 65535), default=5002, show_default=True)
def serve(folder: Path, host: str, port: int) -> None:
    """Run MLflow's tracking server on PostgreSQL until Ctrl-C.

    MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD in the environment are what clients log in
    with, PGPASSWORD is the password of the database, which is made in the folder.
    MLFLOW_BACKEND_STORE_URI names another PostgreSQL instead.
    """
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    folder = folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / ".lock", timeout=0), serving(folder, host, port) as programs:
            click.echo(f"MLflow tracking server: {url(host, port)}, Ctrl-C ends it; clients need")
            reachable = socket.getfqdn() if host in EVERYWHERE else host
            click.echo(f"  export MLFLOW_TRACKING_URI={url(reachable, port)}")
            click.echo(f"  export {USER}={os.environ[USER]} {PASSWORD}=...")
            if host not in LOOPBACK:
                click.echo("passwords cross the network in the clear: put TLS before it")
            while True:
                for program in programs:
                    program.check()
                time.sleep(0.5)
    except Timeout:
        raise ServerError(f"a tracking server runs in {folder} already") from None
    except KeyboardInterrupt:
        click.echo("the tracking server has ended")


if __name__ == "__main__":
    main(serve)
