"""Real runs, trained once, and an empty store, made once, for copies."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from acdc.config.run import parse_run
from acdc.run.lifecycle import Options, run
from tests.support import Silent
from tests.tracking.support import DESCRIPTIONS
from tracking.store import load_mlflow, prepare_store


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Three real runs: two finished, one diverged."""
    runs = tmp_path_factory.mktemp("trained")
    configs = {name: parse_run(data) for name, data in DESCRIPTIONS.items()}
    for config in configs.values():
        run(config, Options(runs), Silent())
    return {name: runs / config.run_name for name, config in configs.items()}


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new store, which takes seconds to make, for copies."""
    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    load_mlflow()
    prepare_store(path)
    return path


@pytest.fixture
def runs(
    trained: dict[str, Path], empty_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """Copies of the runs at the scale ``tiny``, beside an empty store."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    runs = tmp_path / "results" / "tiny" / "runs"
    for folder in trained.values():
        shutil.copytree(folder, runs / folder.name)
    shutil.copy(empty_store, runs.parent / "mlflow.db")
    return runs


@pytest.fixture
def one(runs: Path, trained: dict[str, Path]) -> Path:
    """The directory of the AC/DC run, with no other run beside it."""
    for folder in trained.values():
        if folder != trained["acdc"]:
            shutil.rmtree(runs / folder.name)
    return runs / trained["acdc"].name


@pytest.fixture
def without_settings() -> dict[str, str]:
    """The environment of a user's shell, without what this process has set for MLflow."""
    ours = ("MLFLOW", "_MLFLOW", "PYTEST", "DO_NOT_TRACK", "CI")
    return {key: value for key, value in os.environ.items() if not key.startswith(ours)}
