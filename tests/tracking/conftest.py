"""Real runs and an empty store, made once for all processes of a test session."""

import shutil
from pathlib import Path

import pytest
from filelock import FileLock

from acdc.config.run import parse_run
from tests.support import Uninterrupted
from tests.tracking.support import DESCRIPTIONS
from tracking.store import create_store, load_mlflow


@pytest.fixture(scope="session")
def trained(uninterrupted: Uninterrupted) -> dict[str, Path]:
    """Three real runs: two finished, one diverged."""
    return {name: uninterrupted(parse_run(data))[0] for name, data in DESCRIPTIONS.items()}


@pytest.fixture(scope="session")
def empty_store(shared: Path) -> Path:
    """A new store, which takes seconds to create, for copies."""
    load_mlflow()
    with FileLock(shared / "store.lock"):
        create_store(shared / "mlflow.db")
    return shared / "mlflow.db"


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
    """The folder of the AC/DC run, with no other run beside it."""
    for folder in trained.values():
        if folder != trained["acdc"]:
            shutil.rmtree(runs / folder.name)
    return runs / trained["acdc"].name
