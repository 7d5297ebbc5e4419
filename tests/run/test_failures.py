"""What the surroundings do to a run is one sentence that says what to do, and costs no work."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from acdc.config.run import RunConfig
from acdc.data import DATASETS
from acdc.errors import CheckpointError, DeviceMemoryError, Resumable, RunDirectoryError, SuiteError
from acdc.methods.registry import get_method
from acdc.run.checkpoints import Checkpoints
from acdc.run.failures import BEGUN, FAILED, KilledError, begin, remembered
from acdc.run.lease import LEASE
from acdc.run.lifecycle import Options, run
from acdc.run.progress import Reporter
from tests.run.test_stops import ended, spawn
from tests.support import (
    Silent,
    Uninterrupted,
    assert_same_run,
    tiny_config,
    train,
)


class After(Silent):
    """Does something after an epoch, before its checkpoint is written."""

    def __init__(self, epoch: int, act: Callable[[], None]) -> None:
        super().__init__()
        self.at = epoch
        self.act = act

    def epoch(self, record: dict[str, Any]) -> None:
        super().epoch(record)
        if record["epoch"] == self.at:
            self.act()


class AtStep(Silent):
    """Does something at every step."""

    def __init__(self, act: Callable[[], None]) -> None:
        super().__init__()
        self.act = act

    def step(self) -> None:
        self.act()


def contents(folder: Path) -> dict[str, bytes]:
    """Return the files of a run's folder, less the journal and links to elsewhere."""
    found = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in found
        if path.name not in ("journal.jsonl", BEGUN) and not path.name.startswith(".")
    }


def failed_for_good(folder: Path) -> bool:
    failure = remembered(folder)
    return failure is not None and failure.final


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
@pytest.mark.parametrize(
    ("name", "epoch", "left"),
    [
        ("checkpoint/step-0000000015.pt", 2, [2, 3]),
        ("checkpoint/sparse-000001.safetensors", 1, [1, 2, 3]),
        ("checkpoint/dense-000002.optimizer.pt", 2, [2, 3]),
        ("result.json", 3, []),
    ],
)
def test_a_full_disk_costs_nothing_that_was_saved(
    name: str, epoch: int, left: list[int], tmp_path: Path, uninterrupted: Uninterrupted
) -> None:
    config = tiny_config("acdc")
    folder = tmp_path / config.run_name
    target = folder / name
    before: dict[str, bytes] = {}

    def fill() -> None:
        before.update(contents(folder))
        target.with_name(f".{target.name}.{os.getpid()}.tmp").symlink_to("/dev/full")

    with pytest.raises(RunDirectoryError) as caught:
        train(config, tmp_path, After(epoch, fill))
    assert caught.value.exit_status == 4
    text = str(caught.value)
    assert f"run {config.run_name} cannot be written: {folder}" in text
    assert "No space left on device; free some space and start again, which goes on" in text
    assert "\n" not in text
    after = contents(folder)
    # After the last epoch its own checkpoint takes the place of the oldest.
    assert after.keys() >= before.keys() or name == "result.json"
    assert all(content == before[saved] for saved, content in after.items() if saved in before)
    assert not failed_for_good(folder)
    reporter = Silent()
    result = train(config, tmp_path, reporter)
    assert reporter.epochs == left
    assert_same_run(folder, result, *uninterrupted(config))


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that everybody may enter, unlike pytest's, so that only what is in it is refused."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.mark.parametrize("closed", ["", "checkpoint"])
def test_a_folder_that_is_no_longer_writable_costs_nothing_that_was_saved(
    closed: str, open_folder: Path, uninterrupted: Uninterrupted
) -> None:
    config = tiny_config("acdc")
    folder = open_folder / config.run_name
    user = os.geteuid()

    def close() -> None:
        (folder / closed).chmod(0o555)
        if user == 0:
            # Nothing is refused to root.
            os.seteuid(65534)

    try:
        with pytest.raises(RunDirectoryError) as caught:
            train(config, open_folder, After(2, close))
    finally:
        os.seteuid(user)
        (folder / closed).chmod(0o755)
        # This process, which is still there, could not give it back.
        (folder / LEASE).unlink(missing_ok=True)
    text = str(caught.value)
    assert f"run {config.run_name} cannot be written: {folder / closed}" in text
    assert "Permission denied; have it made writable or choose another folder with --runs" in text
    assert "\n" not in text
    assert not failed_for_good(folder)
    reporter = Silent()
    result = train(config, open_folder, reporter)
    assert reporter.epochs == [2, 3]
    assert_same_run(folder, result, *uninterrupted(config))


def allocate_too_much() -> None:
    torch.empty(2**50, dtype=torch.uint8)


def test_memory_that_cannot_be_had_is_one_sentence_and_is_not_tried_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uninterrupted: Uninterrupted
) -> None:
    config = tiny_config("acdc")
    expected, whole = uninterrupted(config)
    with pytest.raises(DeviceMemoryError) as caught:
        train(config, tmp_path, After(2, allocate_too_much))
    assert caught.value.exit_status == 7
    text = str(caught.value)
    assert f"run {config.run_name} does not fit the device's memory" in text
    assert f"{2**50} bytes" in text, "how much was asked for"
    assert "--processes" in text
    assert "\n" not in text
    assert_refused_at_once(config, tmp_path, 7, text, monkeypatch)
    result = train(config, tmp_path)
    assert_same_run(tmp_path / config.run_name, result, expected, whole)


def assert_refused_at_once(
    config: RunConfig, runs: Path, status: int, error: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Make a second attempt, which must fail as the first did before data are touched."""
    with monkeypatch.context() as patch:
        patch.delitem(DATASETS, config.dataset)
        with pytest.raises(SuiteError, match="as in the attempt before") as caught:
            run(config, Options(runs, attempt=2), Silent())
    assert caught.value.exit_status == status
    assert error in str(caught.value)
    failure = json.loads((runs / config.run_name / FAILED).read_text())
    assert failure["exit_status"] == status


def test_an_error_in_a_method_is_not_tried_twice_unless_by_a_person(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uninterrupted: Uninterrupted
) -> None:
    config = tiny_config("gmp")
    expected, whole = uninterrupted(config)
    folder = tmp_path / config.run_name

    def fail(*_: Any) -> bool:
        raise ValueError("no such mask")

    with monkeypatch.context() as patch:
        patch.setattr(get_method("gmp"), "before_step", fail)
        with pytest.raises(ValueError, match="no such mask"):
            train(config, tmp_path)
        assert_refused_at_once(config, tmp_path, 1, "no such mask", monkeypatch)
        with pytest.raises(ValueError, match="no such mask"):
            train(config, tmp_path)
    result = train(config, tmp_path)
    assert not (folder / FAILED).exists()
    assert_same_run(folder, result, expected, whole)


def test_a_checkpoint_of_another_run_is_not_tried_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uninterrupted: Uninterrupted
) -> None:
    ours, other = tiny_config("dense"), tiny_config("dense", seed=2)
    expected, whole = uninterrupted(ours)
    train(other, tmp_path)
    folder = tmp_path / ours.run_name
    shutil.copytree(tmp_path / other.run_name / "checkpoint", folder / "checkpoint")
    with pytest.raises(CheckpointError) as caught:
        train(ours, tmp_path)
    assert_refused_at_once(ours, tmp_path, 5, str(caught.value), monkeypatch)
    shutil.rmtree(folder / "checkpoint")
    assert_same_run(folder, train(ours, tmp_path), expected, whole)
    assert not (folder / FAILED).exists()


def test_a_second_attempt_on_the_command_line_is_one_sentence_with_the_same_status(
    tmp_path: Path,
) -> None:
    ours, other = tiny_config("dense"), tiny_config("dense", seed=2)
    train(other, tmp_path)
    folder = tmp_path / ours.run_name
    shutil.copytree(tmp_path / other.run_name / "checkpoint", folder / "checkpoint")
    status, first = ended(spawn(ours, tmp_path))
    assert status == 5
    status, second = ended(spawn(ours, tmp_path, "--attempt", "2"))
    assert status == 5
    assert second == f"error: as in the attempt before: {first.removeprefix('error: ')}"


def interrupted() -> None:
    raise KeyboardInterrupt


def broken() -> None:
    raise OSError(5, "Input/output error")


def stopped() -> None:
    os.kill(os.getpid(), 15)


@pytest.mark.parametrize(
    ("act", "kind"),
    [(interrupted, KeyboardInterrupt), (broken, RunDirectoryError), (stopped, Resumable)],
)
def test_what_may_be_better_next_time_is_tried_again(
    act: Callable[[], None],
    kind: type[BaseException],
    tmp_path: Path,
    uninterrupted: Uninterrupted,
) -> None:
    config = tiny_config("acdc")
    with pytest.raises(kind):
        train(config, tmp_path, After(1, act))
    folder = tmp_path / config.run_name
    assert not failed_for_good(folder)
    result = run(config, Options(tmp_path, attempt=2), Silent())
    assert not (folder / FAILED).exists()
    assert_same_run(folder, result, *uninterrupted(config))


def settled(config: RunConfig, runs: Path, reporter: Reporter, attempt: int) -> dict[str, Any]:
    return run(config, Options(runs, attempt=attempt, settle=True), reporter)


def test_an_error_that_comes_again_and_again_is_not_tried_for_ever(
    tmp_path: Path, uninterrupted: Uninterrupted
) -> None:
    config = tiny_config("acdc")
    folder = tmp_path / config.run_name
    for attempt in (1, 2):
        with pytest.raises(RunDirectoryError):
            settled(config, tmp_path, After(1, broken), attempt)
        assert not failed_for_good(folder)
    # It has got further in between: two more attempts count anew.
    for attempt in (3, 4):
        with pytest.raises(RunDirectoryError):
            settled(config, tmp_path, After(2, broken), attempt)
    result = settled(config, tmp_path, After(2, broken), 5)
    assert (result["status"], result["exit_status"], result["products"]) == ("failed", 4, {})
    assert "Input/output error" in result["error"]
    assert json.loads((folder / "result.json").read_text()) == result
    # Another attempt of the same workflow does not train; a new one tries it again.
    silent = Silent()
    assert settled(config, tmp_path, silent, 6)["status"] == "failed"
    assert silent.epochs == []
    result = settled(config, tmp_path, Silent(), 1)
    assert not (folder / FAILED).exists()
    assert_same_run(folder, result, *uninterrupted(config))


def test_a_run_that_is_killed_again_and_again_without_progress_is_given_up(tmp_path: Path) -> None:
    config = tiny_config("acdc")
    folder = tmp_path / config.run_name
    died = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"

    def killed(attempt: int) -> None:
        """An attempt that gets as far as beginning."""
        script = (
            f"from pathlib import Path; from acdc.run.failures import begin; "
            f"begin(Path({str(folder)!r}), {attempt}); {died}"
        )
        assert subprocess.run([sys.executable, "-c", script]).returncode == -signal.SIGKILL

    folder.mkdir()
    for attempt in (1, 2, 3):
        killed(attempt)
    # Progress begins a new count.
    (folder / "checkpoint").mkdir()
    (folder / "checkpoint" / "step-0000000001.pt").touch()
    for attempt in range(4, 9):
        killed(attempt)
    with pytest.raises(KilledError, match=r"5 attempts .* after step-0000000001.pt"):
        begin(folder, 9)
    assert settled(config, tmp_path, Silent(), 9)["status"] == "failed"
    shutil.rmtree(folder / "checkpoint")
    assert settled(config, tmp_path, Silent(), 1)["status"] == "finished"
    assert not (folder / BEGUN).exists()


def test_what_depends_on_a_run_that_failed_for_good_fails_without_training_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    child = tiny_config("acdc_dense")
    assert child.parent is not None
    with monkeypatch.context() as patch:
        patch.delitem(DATASETS, child.dataset)
        parent = settled(child.parent, tmp_path, Silent(), 1)
    assert parent["status"] == "failed"
    reporter = Silent()
    result = settled(child, tmp_path, reporter, 1)
    assert result["status"] == "failed"
    assert result["error"].endswith(parent["error"])
    assert reporter.epochs == []


def test_a_result_that_was_removed_comes_back_as_it_was(tmp_path: Path) -> None:
    config = tiny_config("acdc")
    result = train(config, tmp_path)
    path = tmp_path / config.run_name / "result.json"
    content = path.read_bytes()
    path.unlink()
    reporter = Silent()
    assert train(config, tmp_path, reporter) == json.loads(content) == result
    assert path.read_bytes() == content
    assert reporter.epochs == []


def assert_finite(state: Any) -> None:
    """Look for what is not a finite number among the tensors and numbers of a checkpoint."""
    if isinstance(state, dict):
        state = list(state.values())
    if isinstance(state, list | tuple):
        for item in state:
            assert_finite(item)
    elif isinstance(state, Tensor):
        assert bool(state.isfinite().all())
    elif isinstance(state, float):
        assert math.isfinite(state)


DIVERGING = {"lr": 1e30, "lr_schedule": "constant"}


@pytest.mark.parametrize("method", ["dense", "acdc", "gmp", "top_kast"])
def test_what_has_diverged_within_an_epoch_is_never_saved(method: str, tmp_path: Path) -> None:
    config = tiny_config(method, recipe=DIVERGING)
    checkpoints = Checkpoints(tmp_path / config.run_name / "checkpoint", config.fingerprint)

    def look() -> None:
        for path in checkpoints.paths():
            assert_finite(checkpoints.read(path, torch.device("cpu")))

    result = run(config, Options(tmp_path, checkpoint_interval_s=0), AtStep(look))
    assert result["status"] == "diverged"
    look()


@pytest.mark.parametrize(("options", "status"), [([], 6), (["--settle"], 0)])
def test_a_diverged_run_ends_with_a_status_of_its_own_unless_that_is_allowed(
    options: list[str], status: int, tmp_path: Path
) -> None:
    config = tiny_config("acdc", recipe=DIVERGING)
    process = spawn(config, tmp_path, "--checkpoint-interval", "0", *options)
    code, line = ended(process)
    assert code == status
    assert f"{config.run_name} diverged: the training loss is" in line
    again, _ = ended(spawn(config, tmp_path, *options))
    assert again == status
