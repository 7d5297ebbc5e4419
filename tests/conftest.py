"""Fixtures of all tests: one thread, so that results and times do not depend on the machine."""

import signal
import sys
import threading
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import torch

from acdc.config.run import RunConfig
from tests.support import Silent, Uninterrupted, train
from workflow.cli import main

# A shell has Ctrl-C ignored in what it starts in the background; what tests start must not inherit
# that.
if threading.current_thread() is threading.main_thread():
    signal.signal(signal.SIGINT, signal.default_int_handler)

# No deadlines: the time of an example depends on what else the machine does.
hypothesis.settings.register_profile("suite", deadline=None, max_examples=60)
hypothesis.settings.load_profile("suite")


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def acdc(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Call the command line as a user does; return exit status, output and errors."""

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["acdc", *map(str, arguments)])
        status = 0
        try:
            main()
        except SystemExit as stop:
            status = int(stop.code or 0)
        output = capsys.readouterr()
        return status, output.out, output.err

    return call


@pytest.fixture
def silent() -> Silent:
    return Silent()


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """Return a folder that all workers of a test session share."""
    root = tmp_path_factory.getbasetemp()
    return root if worker_id == "master" else root.parent


@pytest.fixture(scope="session")
def uninterrupted(shared: Path) -> Uninterrupted:
    """Return the folder and the result of an undisturbed run, trained once for all workers."""
    runs = shared / "uninterrupted"

    def get(config: RunConfig) -> tuple[Path, dict[str, Any]]:
        # The lease on the run's folder has another worker wait, and find the result.
        result = train(config, runs, wait_s=600.0)
        return runs / config.run_name, result

    return get
