"""A tracking server starts only with passwords of the environment that nobody can guess."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
from pathlib import Path

import pytest

import acdc
from acdc.console import main
from acdc.errors import ConfigError
from tracking.server import given_database, postgres_programs, secret_key, serve

LOGIN = {"MLFLOW_TRACKING_USERNAME": "admin", "MLFLOW_TRACKING_PASSWORD": "long and of my own"}


def refusal(
    environment: dict[str, str],
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    *options: str,
) -> str:
    for key in (*LOGIN, "PGPASSWORD", "MLFLOW_BACKEND_STORE_URI"):
        monkeypatch.delenv(key, raising=False)
    for key, value in environment.items():
        monkeypatch.setenv(key, value)
    with pytest.raises(SystemExit) as end:
        main(lambda standalone_mode: serve.main(["--folder", str(folder), *options], "serve"))
    assert end.value.code == 2
    text = capsys.readouterr().err
    assert text.count("\n") == 1
    return text


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({}, "MLFLOW_TRACKING_USERNAME: not set"),
        ({"MLFLOW_TRACKING_USERNAME": "admin"}, "MLFLOW_TRACKING_PASSWORD: not set"),
        ({**LOGIN, "MLFLOW_TRACKING_PASSWORD": "short"}, "too easily guessed"),
        ({**LOGIN, "MLFLOW_TRACKING_PASSWORD": "password1234"}, "too easily guessed"),
        (LOGIN, "PGPASSWORD: not set"),
        ({**LOGIN, "MLFLOW_BACKEND_STORE_URI": "mysql://h/n"}, "MLFLOW_BACKEND_STORE_URI"),
    ],
)
def test_a_server_without_passwords_does_not_start(
    environment: dict[str, str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert message in refusal(environment, tmp_path, monkeypatch, capsys)
    assert {path.name for path in tmp_path.iterdir()} <= {".lock"}


def test_a_port_that_is_taken_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        text = refusal(LOGIN, tmp_path, monkeypatch, capsys, "--port", port)
    assert f"127.0.0.1:{port} cannot be listened on" in text


def test_the_password_of_a_given_database_stands_in_no_address() -> None:
    with given_database("postgresql://me:s%40cret@db.example:5433/runs?sslmode=require") as found:
        assert found.uri == "postgresql://me@db.example:5433/runs?sslmode=require"
        assert found.environment == {"PGPASSWORD": "s@cret"}
    query = "postgresql://me@db.example/runs?sslmode=require&password=s%40cret"
    with given_database(query) as found:
        assert found.uri == "postgresql://me@db.example/runs?sslmode=require"
        assert found.environment == {"PGPASSWORD": "s@cret"}
    with pytest.raises(ConfigError, match="no PostgreSQL"), given_database("sqlite:///x.db"):
        pass


def test_each_installation_signs_with_a_key_of_its_own(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("a", "b")]
    for folder in folders:
        folder.mkdir()
    first, other = map(secret_key, folders)
    assert first != other
    assert secret_key(folders[0]) == first
    assert stat.S_IMODE((folders[0] / "secret_key").stat().st_mode) == 0o600


def test_a_database_is_run_by_the_programs_that_made_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tracking.server.DEBIAN", tmp_path / "debian")
    data = tmp_path / "database"
    data.mkdir()
    for version in ("13", "15"):
        (tmp_path / "debian" / version / "bin").mkdir(parents=True)
        (tmp_path / "debian" / version / "bin" / "postgres").touch()
    assert postgres_programs(data) == tmp_path / "debian" / "15" / "bin"
    (data / "PG_VERSION").write_text("13\n")
    assert postgres_programs(data) == tmp_path / "debian" / "13" / "bin"
    (data / "PG_VERSION").write_text("14\n")
    with pytest.raises(ConfigError, match="install postgresql-14"):
        postgres_programs(data)


@pytest.mark.parametrize(
    ("target", "options", "expected"),
    [
        ("tracking-server", (), "--host 127.0.0.1 --port 5002"),
        ("tracking-server", ("HOST=0.0.0.0", "PORT=7"), "--host 0.0.0.0 --port 7"),
        ("ui", (), "--host 127.0.0.1 --port 5001"),
    ],
)
def test_only_make_itself_is_told_where_to_listen(
    target: str, options: tuple[str, ...], expected: str
) -> None:
    done = subprocess.run(
        ["make", "-n", target, *options],
        cwd=Path(acdc.__file__).parent.parent,
        env=os.environ | {"HOST": "0.0.0.0", "PORT": "80"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert expected in done.stdout
