"""A tracking server starts only with passwords of the environment that nobody can guess."""

from __future__ import annotations

import socket
import stat
from pathlib import Path

import pytest

from acdc.cli import main
from acdc.errors import ConfigError
from acdc.tracking.server import given_database, secret_key, serve

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
