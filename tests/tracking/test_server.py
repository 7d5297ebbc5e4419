"""The tracking server on a real PostgreSQL, and what becomes of the mirror when it fails."""

from __future__ import annotations

import base64
import configparser
import contextlib
import functools
import http.server
import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from acdc.config.run import parse_run
from acdc.run.journal import read_journal
from tests.tracking.support import (
    DESCRIPTIONS,
    acdc,
    active,
    assert_cell_of,
    assert_mirrors,
    names,
    query,
    seeds_of_the_cell,
    slug_of,
    sync,
    writers,
)
from tracking.server import status

pytestmark = pytest.mark.server

USER, PASSWORD, DATABASE_PASSWORD = "someone", "correct horse battery", "staple of a database"
SEARCH = "api/2.0/mlflow/experiments/search?max_results=5"


class Server:
    """``python -m tracking.server`` in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.address = f"http://127.0.0.1:{self.port}"
        self.start()

    def command(self, *options: str) -> subprocess.Popen[str]:
        module = [sys.executable, "-m", "tracking.server", "--folder", str(self.folder)]
        secrets = {
            "MLFLOW_TRACKING_USERNAME": USER,
            "MLFLOW_TRACKING_PASSWORD": PASSWORD,
            "PGPASSWORD": DATABASE_PASSWORD,
        }
        return subprocess.Popen(
            [*module, "--port", str(self.port), *options],
            env=os.environ | secrets,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def start(self) -> None:
        self.process = self.command()
        assert self.process.stdout is not None
        first = self.process.stdout.readline()
        assert self.address in first, self.process.communicate()
        self.said = first + self.process.stdout.readline() + self.process.stdout.readline()

    @property
    def programs(self) -> list[psutil.Process]:
        supervisor = psutil.Process(self.process.pid)
        return [supervisor, *supervisor.children(recursive=True)]

    @property
    def store(self) -> str:
        """The database, for looking into it."""
        config = configparser.ConfigParser()
        config.read(self.folder / "basic_auth.ini")
        secret = urllib.parse.quote(DATABASE_PASSWORD)
        return config["mlflow"]["database_uri"].replace("mlflow@", f"mlflow:{secret}@")

    def signal(self, number: signal.Signals) -> None:
        for program in self.programs:
            with contextlib.suppress(psutil.NoSuchProcess):  # ended with its parent
                program.send_signal(number)

    def kill(self) -> None:
        self.signal(signal.SIGKILL)
        self.process.communicate()

    def stop(self) -> tuple[str, str]:
        self.process.send_signal(signal.SIGINT)
        return self.process.communicate()


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    # The user postgres has to be able to enter it, unlike pytest's folders.
    folder = Path(tempfile.mkdtemp(prefix="acdc-server-"))
    folder.chmod(0o755)
    running = Server(folder)
    yield running
    if running.process.poll() is None:
        running.stop()
    shutil.rmtree(folder)


@pytest.fixture
def study(
    server: Server,
    trained: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> Path:
    """An empty study, named after the test, and so its experiment; the server is the store."""
    for key, value in {
        "MLFLOW_TRACKING_URI": server.address,
        "MLFLOW_TRACKING_USERNAME": USER,
        "MLFLOW_TRACKING_PASSWORD": PASSWORD,
    }.items():
        monkeypatch.setenv(key, value)
    study = tmp_path / "results" / request.node.name[5:]
    (study / "runs").mkdir(parents=True)
    return study


Mirrored = Callable[..., dict[str, str]]


def experiment(study: Path) -> str:
    return f"acdc-{study.name}"


@pytest.fixture
def mirrored(server: Server, study: Path, monkeypatch: pytest.MonkeyPatch) -> Mirrored:
    """Make sure that the server holds what run directories do."""
    monkeypatch.setattr(
        "tests.tracking.support.active", functools.partial(active, experiment=experiment(study))
    )
    return lambda *folders: assert_mirrors(study / "runs", *folders, uri=server.store)


def copied(run: Path, study: Path) -> Path:
    return Path(shutil.copytree(run, study / "runs" / run.name))


def await_(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 240
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.2)


def test_nobody_gets_in_without_the_password(server: Server) -> None:
    pages = (SEARCH, "", "api/2.0/mlflow-artifacts/artifacts?path=", "ajax-api/2.0/mlflow/users")
    for page in pages:
        for login in ("", f"{USER}:password1234", "admin:password1234"):
            assert status(f"{server.address}/{page}", login) == 401
    assert status(f"{server.address}/{SEARCH}", f"{USER}:{PASSWORD}") == 200


def test_it_says_what_a_client_needs_and_no_password(server: Server) -> None:
    assert f"export MLFLOW_TRACKING_URI={server.address}" in server.said
    assert f"export MLFLOW_TRACKING_USERNAME={USER}" in server.said
    assert PASSWORD not in server.said


def test_no_password_lies_in_a_file_or_on_a_command_line(server: Server) -> None:
    secrets = [PASSWORD, DATABASE_PASSWORD, urllib.parse.quote(DATABASE_PASSWORD)]
    files = [path for path in server.folder.rglob("*") if path.is_file()]
    assert server.folder / "basic_auth.ini" in files
    for path in files:
        content = path.read_bytes()
        assert not [secret for secret in secrets if secret.encode() in content], path
    for program in server.programs:
        assert not [secret for secret in secrets if secret in " ".join(program.cmdline())]
    for name in ("basic_auth.ini", "secret_key"):
        assert stat.S_IMODE((server.folder / name).stat().st_mode) == 0o600


def test_everything_listens_on_loopback_only(server: Server) -> None:
    listening = {
        connection.laddr
        for program in server.programs
        for connection in program.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    }
    assert {address.ip for address in listening} == {"127.0.0.1"}
    ports = {address.port for address in listening}
    assert server.port in ports
    assert len(ports) == 2  # PostgreSQL's is the other


def test_the_database_wants_the_password(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    import sqlalchemy

    assert query(server.store, "SELECT 1") == [(1,)]
    monkeypatch.delenv("PGPASSWORD", raising=False)
    secret = urllib.parse.quote(DATABASE_PASSWORD)
    for wrong in (server.store.replace(f":{secret}@", "@"), server.store.replace(secret, "other")):
        with pytest.raises(sqlalchemy.exc.OperationalError, match="password"):
            query(wrong, "SELECT 1")


def test_a_second_server_in_the_folder_is_refused(server: Server) -> None:
    out, err = server.command("--port", str(server.port + 1)).communicate()
    assert (out, err.count("\n")) == ("", 1)
    assert "runs in" in err


def test_a_wrong_password_is_one_sentence(
    server: Server, study: Path, trained: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    copied(trained["acdc"], study)
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "not this one")
    process = acdc("sync", str(study))
    out, err = process.communicate()
    assert (process.returncode, out, err.count("\n")) == (6, "", 1)
    assert "MLFLOW_TRACKING_PASSWORD" in err
    assert "not this one" not in err


def test_tables_and_runs_are_artifacts_that_the_server_hands_out(
    server: Server, study: Path, trained: dict[str, Path], mirrored: Mirrored
) -> None:
    from mlflow import MlflowClient

    (study / "tables").mkdir()
    (study / "tables" / "table01.csv").write_text("a,b\n")
    (study / "report.html").write_text("<p>report</p>")
    ids = mirrored_after_sync(study, mirrored, copied(trained["acdc"], study))
    client = MlflowClient(server.address)
    (shown,) = active(server.store, "study", experiment(study)).values()
    for run_id, name, original in (
        (shown, "tables/table01.csv", study / "tables" / "table01.csv"),
        (shown, "report.html", study / "report.html"),
        (*ids.values(), "result.json", trained["acdc"] / "result.json"),
    ):
        assert client.get_run(run_id).info.artifact_uri.startswith("mlflow-artifacts:")
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(client.download_artifacts(run_id, name, folder))
            assert copy.read_bytes() == original.read_bytes()


def mirrored_after_sync(study: Path, mirrored: Mirrored, *folders: Path) -> dict[str, str]:
    sync(study)
    return mirrored(*folders)


def test_64_runs_at_once_from_two_hosts(
    server: Server, study: Path, trained: dict[str, Path], tmp_path: Path, mirrored: Mirrored
) -> None:
    hosts = []
    for name in ("one", "two"):
        # Which have no folder in common, and so no lock.
        (tmp_path / name).mkdir()
        own = os.environ | {"TMPDIR": str(tmp_path / name)}
        hosts.append(acdc("sync", str(study), "--follow", "1", env=own))
    folders = writers(trained["acdc"], study / "runs", 64, pause_s=5.0)
    name = experiment(study)
    await_(lambda: seeds_of_the_cell(server.store, name) == 64, "not all runs have arrived")
    for host in hosts:
        host.terminate()
    for host in hosts:
        out, err = host.communicate()
        assert (host.returncode, err) == (0, ""), out
    sync(study)
    mirrored(*folders)
    assert_cell_of(server.store, folders)


def test_a_server_killed_while_runs_are_sent_loses_and_doubles_nothing(
    server: Server, study: Path, trained: dict[str, Path], mirrored: Mirrored
) -> None:
    folders = writers(trained["acdc"], study / "runs", 24, pause_s=0.0)
    sending = acdc("sync", str(study))
    name = experiment(study)
    await_(lambda: len(names(server.store, "run", name)) >= 3, "nothing arrives")
    server.kill()
    _, err = sending.communicate()
    assert (sending.returncode, err.count("\n")) == (6, 1)
    assert "no server answers there; nothing is lost" in err
    server.start()
    assert len(names(server.store, "run", name)) < 24
    sync(study)
    mirrored(*folders)
    assert_cell_of(server.store, folders)


def test_a_server_that_hangs_delays_no_training_and_loses_nothing(
    server: Server, study: Path, mirrored: Mirrored, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "5")
    config = parse_run(DESCRIPTIONS["acdc"])
    folder = study / "runs" / config.run_name
    follower = acdc("sync", str(study), "--follow", "1")
    server.signal(signal.SIGSTOP)
    try:
        text = json.dumps(config.model_dump(mode="json"))
        training = acdc("train", "--json", text, "--runs", str(study / "runs"))
        training.communicate()
        assert training.returncode == 0
        epochs = [r for r in read_journal(folder / "journal.jsonl") if "event" not in r]
        assert len(epochs) == config.epochs
        assert follower.stderr is not None
        assert "nothing is lost" in follower.stderr.readline()
    finally:
        server.signal(signal.SIGCONT)
    name = experiment(study)
    text = "SELECT COUNT(*) FROM runs WHERE name = :n AND status = 'FINISHED'"
    await_(
        lambda: (
            slug_of(folder) in names(server.store, "run", name)
            and query(server.store, text, n=slug_of(folder))[0][0] > 0
        ),
        "the follower does not catch up",
    )
    follower.terminate()
    _, err = follower.communicate()
    assert (follower.returncode, err) == (0, "")
    sync(study)
    mirrored(folder)


def test_a_run_resumed_after_the_server_was_away_continues_its_mirrored_run(
    server: Server, study: Path, mirrored: Mirrored
) -> None:
    config = parse_run({**DESCRIPTIONS["dense"], "epochs": 40})
    folder = study / "runs" / config.run_name
    text = json.dumps(config.model_dump(mode="json"))
    command = ("train", "--json", text, "--runs", str(study / "runs"))
    training = acdc(*command)
    await_(lambda: bool(list(folder.glob("checkpoint/step-*.pt"))), "no checkpoint is written")
    training.terminate()
    training.communicate()
    assert training.returncode == 75
    first = mirrored_after_sync(study, mirrored, folder)
    server.kill()
    again = acdc(*command)
    again.communicate()
    assert again.returncode == 0
    server.start()
    assert mirrored_after_sync(study, mirrored, folder) == first


def test_an_emptied_server_is_rebuilt_from_the_results(
    server: Server, study: Path, trained: dict[str, Path], mirrored: Mirrored
) -> None:
    folders = [copied(run, study) for run in trained.values()]
    first = mirrored_after_sync(study, mirrored, *folders)
    server.stop()
    for name in ("database", "artifacts"):
        shutil.rmtree(server.folder / name)
    server.start()
    second = mirrored_after_sync(study, mirrored, *folders)
    assert not set(first.values()) & set(second.values())


@contextlib.contextmanager
def logged_in(server: Server) -> Iterator[str]:
    """Yield an address that hands requests on with the password.

    A headless browser cannot be asked for it, and MLflow's interface fetches nothing from a page
    whose address holds it.
    """
    login = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()

    class Handler(http.server.BaseHTTPRequestHandler):
        def forward(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            kind = self.headers.get("Content-Type", "application/json")
            request = urllib.request.Request(
                server.address + self.path,
                body or None,
                {"Authorization": f"Basic {login}", "Content-Type": kind},
                method=self.command,
            )
            try:
                answer = urllib.request.urlopen(request)
            except urllib.error.HTTPError as error:
                answer = error
            content = answer.read()
            self.send_response(answer.status)
            self.send_header("Content-Type", answer.headers.get("Content-Type", "text/plain"))
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = forward

        def log_message(self, *arguments: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as proxy:
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{proxy.server_port}"
        proxy.shutdown()


def test_the_interface_shows_studies_cells_and_runs(
    server: Server, study: Path, trained: dict[str, Path], tmp_path: Path
) -> None:
    run = copied(trained["acdc"], study)
    sync(study)
    name = experiment(study)
    # Names between tags, since that of the cell is the beginning of the run's.
    slug = slug_of(run)
    cell = slug.rpartition("_seed")[0]
    run_id = active(server.store, "run", name)[slug]
    text = "SELECT experiment_id FROM experiments WHERE name = :n"
    ((identity,),) = query(server.store, text, n=name)
    with logged_in(server) as address:
        for page, shown in (
            ("#/experiments", {name}),
            (f"#/experiments/{identity}/runs", {f">{cell}<"}),
            (f"#/experiments/{identity}/runs/{run_id}", {f">{cell}<", f">{slug}<"}),
        ):
            done = subprocess.run(
                [
                    *("chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic"),
                    *("--no-first-run", "--disable-background-networking", "--disable-sync"),
                    f"--user-data-dir={tmp_path / 'profile'}",
                    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
                    *("--virtual-time-budget=60000", "--dump-dom", f"{address}/{page}"),
                ],
                capture_output=True,
                text=True,
                check=False,
            )
            assert [text for text in shown if text not in done.stdout] == [], page


def test_ctrl_c_ends_server_and_database(server: Server) -> None:
    programs = server.programs
    out, err = server.stop()
    assert (server.process.returncode, err) == (0, "")
    assert out.endswith("the tracking server has ended\n")
    # One that has ended stays a zombie where nothing in a container takes note of it.
    _, alive = psutil.wait_procs(programs, timeout=10)
    assert [program for program in alive if program.status() != psutil.STATUS_ZOMBIE] == []
