"""MLflow with accounts on PostgreSQL, started by the commands of docs/tracking.md."""

import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import requests
import yaml

import tracking
from tests.tracking.support import assert_synced, finished, only, stored, sync, syncing, writers
from tests.tracking.test_follow import await_

ROOM = Path(tracking.__file__).parent
DOCS = ROOM.parent / "docs" / "tracking.md"
USER, PASSWORD, DATABASE_PASSWORD = "someone", "correct horse battery", "staple"


def documented(program: str) -> str:
    """The command of the docs that begins with a program."""
    (line,) = re.findall(rf"^    ({program} .*)$", DOCS.read_text(), re.MULTILINE)
    return line


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Server:
    """PostgreSQL and MLflow in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.address = f"http://127.0.0.1:{free_port()}"
        (programs,) = sorted(Path("/usr/lib/postgresql").glob("*/bin"))[-1:]
        self.environment = {
            "PATH": f"{programs}:{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PGHOST": "127.0.0.1", "PGPORT": str(free_port()), "PGUSER": "mlflow",
            "PGPASSWORD": DATABASE_PASSWORD, "DATABASE": str(folder / "database"),
            "MLFLOW_AUTH_ADMIN_USERNAME": USER, "MLFLOW_AUTH_ADMIN_PASSWORD": PASSWORD,
            "MLFLOW_FLASK_SERVER_SECRET_KEY": "a secret of the tests",
            "MLFLOW_AUTH_CONFIG_PATH": str(ROOM / "basic_auth.ini"),
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"
        }  # fmt: skip
        self.bash(documented("initdb"))
        self.bash(documented("pg_ctl"))
        self.start()

    def bash(self, command: str) -> None:
        user = "postgres" if os.geteuid() == 0 else None
        subprocess.run(
            ["bash", "-c", command],
            env=self.environment,
            cwd=self.folder,
            user=user,
            group=user,
            stdout=subprocess.DEVNULL,
            check=True,
        )

    def start(self) -> None:
        """Start MLflow, and wait until it answers."""
        port = self.address.rpartition(":")[2]
        command = documented(".venv/bin/mlflow").removeprefix(".venv/bin/").replace("5002", port)
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                ["bash", "-c", f"exec {command}"],
                env=self.environment,
                cwd=self.folder,
                stdout=log,
                stderr=log,
            )
        while not self.answers():
            assert self.process.poll() is None, (self.folder / "server.log").read_text()
            time.sleep(0.2)

    def answers(self) -> bool:
        try:
            return requests.get(f"{self.address}/health", timeout=30).ok
        except requests.ConnectionError:
            return False

    def kill(self) -> None:
        main = psutil.Process(self.process.pid)
        for program in (*main.children(recursive=True), main):
            program.kill()
        self.process.wait()

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait()
        self.bash('pg_ctl --pgdata="$DATABASE" --mode=immediate stop')

    @property
    def store(self) -> str:
        """The database, for looking into it."""
        port = self.environment["PGPORT"]
        return f"postgresql://mlflow:{DATABASE_PASSWORD}@127.0.0.1:{port}/mlflow"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    # Not in pytest's folder, which the user postgres cannot enter.
    folder = Path(tempfile.mkdtemp(prefix="acdc-server-"))
    if os.geteuid() == 0:
        os.chown(folder, pwd.getpwnam("postgres").pw_uid, -1)
    running = Server(folder)
    yield running
    running.stop()
    shutil.rmtree(folder)


@pytest.fixture
def study(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Path:
    """An empty study, named after the test, and so its experiment; the server is the store."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.address)
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", USER)
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORD)
    study = tmp_path / "results" / request.node.name
    (study / "runs").mkdir(parents=True)
    (study / "study.json").touch()
    return study


@pytest.mark.server
def test_accounts(server: Server) -> None:
    page = f"{server.address}/api/2.0/mlflow/experiments/search?max_results=5"
    for login in (None, (USER, "password1234"), ("admin", "password1234")):
        assert requests.get(page, auth=login, timeout=60).status_code == 401
    assert requests.get(page, auth=(USER, PASSWORD), timeout=60).ok


@pytest.mark.server
def test_loopback_only(server: Server) -> None:
    database = int((server.folder / "database" / "postmaster.pid").read_text().split()[0])
    mlflow = psutil.Process(server.process.pid)
    addresses = {
        connection.laddr.ip
        for program in (psutil.Process(database), mlflow, *mlflow.children(recursive=True))
        for connection in program.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    }
    assert addresses == {"127.0.0.1"}


@pytest.mark.server
def test_wrong_password(
    study: Path, trained: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(trained["acdc"], study / "runs" / trained["acdc"].name)
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "not this one")
    process = syncing(str(study))
    out, err = process.communicate()
    assert (process.returncode, out, err.count("\n")) == (9, "", 1)
    assert "MLFLOW_TRACKING_PASSWORD" in err
    assert "not this one" not in err


def check(server: Server, study: Path, *folders: Path) -> dict[str, str]:
    return assert_synced(*folders, uri=server.store, experiment=f"acdc-{study.name}")


@pytest.mark.server
def test_artifacts(server: Server, study: Path, trained: dict[str, Path], tmp_path: Path) -> None:
    from mlflow import MlflowClient

    run = Path(shutil.copytree(trained["acdc"], study / "runs" / trained["acdc"].name))
    (study / "report.html").write_text("<p>report</p>")
    sync(study)
    (run_id,) = check(server, study, run).values()
    shown = only(server.store, "study", f"acdc-{study.name}")
    client = MlflowClient(server.address)
    for identity, original in ((run_id, run / "result.json"), (shown, study / "report.html")):
        copy = client.download_artifacts(identity, original.name, str(tmp_path))
        assert Path(copy).read_bytes() == original.read_bytes()


@pytest.mark.server
def test_killed_server(server: Server, study: Path, trained: dict[str, Path]) -> None:
    folders = writers(trained["acdc"], study / "runs", 16, pause_s=0.0)

    def arrived() -> int:
        return len(stored(server.store, "run", f"acdc-{study.name}"))

    sending = syncing(str(study))
    await_(lambda: arrived() >= 3, sending)
    server.kill()
    _, err = sending.communicate()
    assert (sending.returncode, err.count("\n")) == (9, 1)
    server.start()
    assert arrived() < 16
    sync(study)
    check(server, study, *folders)


@pytest.mark.server
def test_two_hosts(server: Server, study: Path, trained: dict[str, Path]) -> None:
    """Two that follow the same runs through a server share no lock; each value arrives once."""
    hosts = [syncing(str(study), "--follow", "0.5") for _ in range(2)]
    folders = writers(trained["acdc"], study / "runs", 16, pause_s=2.0)
    for host in hosts:
        await_(lambda: finished(server.store, f"acdc-{study.name}") == 16, host)
        host.send_signal(signal.SIGTERM)
        out, err = host.communicate()
        assert (host.returncode, err) == (0, ""), out
    sync(study)
    check(server, study, *folders)


def test_compose() -> None:
    """Every published port is on loopback, and no secret has a default."""
    services = yaml.safe_load((ROOM / "compose.yaml").read_text())["services"]
    ports = [port for service in services.values() for port in service.get("ports", [])]
    assert [port for port in ports if not port.startswith("127.0.0.1:")] == []
    for service in services.values():
        for key, value in service["environment"].items():
            if re.search("PASSWORD|SECRET", key):
                assert re.fullmatch(r"\$\{\w+:\?[^}]+\}", value), key
