"""What the surroundings do to a run is one sentence that says what to do, and costs no work."""

import math
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor

from acdc.config.run import RunConfig
from acdc.data import DATASETS
from acdc.errors import CheckpointError, DeviceMemoryError, Resumable, RunDirectoryError
from acdc.methods.registry import get_method
from acdc.run.checkpoints import Checkpoints
from acdc.run.failures import FAILED
from acdc.run.lease import LEASE
from acdc.run.lifecycle import Options, run
from acdc.run.progress import Reporter
from acdc.run.reader import read_run
from acdc.run.result import FailedResult, Result, read_result
from tests.support import (
    At,
    Silent,
    Uninterrupted,
    assert_same_run,
    interrupt,
    plain,
    tiny_config,
    train,
)


def contents(folder: Path) -> dict[str, bytes]:
    """Return the files of a run's folder, less the journal and links to elsewhere."""
    found = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in found
        if path.name != "journal.jsonl" and not path.name.startswith(".")
    }


def failed_for_good(folder: Path) -> bool:
    failure = read_run(folder).failure
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
        train(config, tmp_path, At(fill, epochs=[epoch]))
    assert caught.value.exit_status == 4
    text = str(caught.value)
    assert f"run {config.run_name} cannot be written: {folder}" in text
    assert "No space left on device; free some space" in text
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
def test_a_folder_closed_costs_nothing(
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
            train(config, open_folder, At(close, epochs=[2]))
    finally:
        os.seteuid(user)
        (folder / closed).chmod(0o755)
        # This process, which is still there, could not give it back.
        (folder / LEASE).unlink(missing_ok=True)
    text = str(caught.value)
    assert f"run {config.run_name} cannot be written: {folder / closed}" in text
    assert "Permission denied" in text
    assert "\n" not in text
    assert not failed_for_good(folder)
    reporter = Silent()
    result = train(config, open_folder, reporter)
    assert reporter.epochs == [2, 3]
    assert_same_run(folder, result, *uninterrupted(config))


def allocate_too_much() -> None:
    torch.empty(2**50, dtype=torch.uint8)


def test_memory_that_cannot_be_had(tmp_path: Path, uninterrupted: Uninterrupted) -> None:
    config = tiny_config("acdc")
    expected, whole = uninterrupted(config)
    with pytest.raises(DeviceMemoryError) as caught:
        train(config, tmp_path, At(allocate_too_much, epochs=[2]))
    assert caught.value.exit_status == 7
    text = str(caught.value)
    assert f"{2**50} bytes" in text, "how much was asked for"
    assert "\n" not in text
    result = allowed(config, tmp_path, At(allocate_too_much, epochs=[2]))
    assert isinstance(result, FailedResult)
    assert result.exit_status == 7
    assert_same_run(tmp_path / config.run_name, train(config, tmp_path), expected, whole)


def assert_allowed(config: RunConfig, runs: Path, status: int, error: str) -> None:
    """Train where failures are allowed: the error becomes the result, and no exception."""
    failure = read_run(runs / config.run_name).failure
    assert failure.final
    assert (failure.exit_status, error in failure.error) == (status, True)
    result = allowed(config, runs, Silent())
    assert isinstance(result, FailedResult)
    assert (result.exit_status, error in result.error, result.products) == (status, True, {})
    assert read_result(runs / config.run_name) == result


def allowed(config: RunConfig, runs: Path, reporter: Reporter) -> Result:
    """Train a run of a study, which records a failure that would recur."""
    return run(config, Options(runs, allow_failure=True), reporter)


def test_an_error_in_a_method(
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
        assert not (folder / "result.json").exists()
        assert_allowed(config, tmp_path, 1, "no such mask")
    # What has failed is trained again.
    result = train(config, tmp_path)
    assert not (folder / FAILED).exists()
    assert_same_run(folder, result, expected, whole)


def test_a_checkpoint_of_another_run(tmp_path: Path, uninterrupted: Uninterrupted) -> None:
    ours, other = tiny_config("dense"), tiny_config("dense", seed=2)
    expected, whole = uninterrupted(ours)
    train(other, tmp_path)
    folder = tmp_path / ours.run_name
    shutil.copytree(tmp_path / other.run_name / "checkpoint", folder / "checkpoint")
    with pytest.raises(CheckpointError) as caught:
        train(ours, tmp_path)
    text = str(caught.value)
    assert ours.fingerprint in text
    assert other.fingerprint in text
    assert "\n" not in text
    assert_allowed(ours, tmp_path, 5, text)
    shutil.rmtree(folder / "checkpoint")
    assert_same_run(folder, train(ours, tmp_path), expected, whole)


def broken() -> None:
    raise OSError(5, "Input/output error")


def stopped() -> None:
    os.kill(os.getpid(), 15)


@pytest.mark.parametrize(
    ("act", "kind"),
    [(interrupt, KeyboardInterrupt), (broken, RunDirectoryError), (stopped, Resumable)],
)
def test_what_may_not_recur_is_raised_also_where_failures_are_allowed(
    act: Callable[[], None], kind: type[BaseException], tmp_path: Path, uninterrupted: Uninterrupted
) -> None:
    config = tiny_config("acdc")
    with pytest.raises(kind):
        allowed(config, tmp_path, At(act, epochs=[1]))
    folder = tmp_path / config.run_name
    assert not failed_for_good(folder)
    assert not (folder / "result.json").exists()
    result = allowed(config, tmp_path, Silent())
    assert not (folder / FAILED).exists()
    assert_same_run(folder, result, *uninterrupted(config))


def test_a_child_of_a_failed_run_fails_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    child = tiny_config("acdc_dense")
    config = child.parent
    with monkeypatch.context() as patch:
        patch.delitem(DATASETS, child.dataset)
        parent = allowed(config, tmp_path, Silent())
    assert isinstance(parent, FailedResult)
    reporter = Silent()
    result = allowed(child, tmp_path, reporter)
    assert isinstance(result, FailedResult)
    assert result.error.endswith(parent.error)
    assert reporter.epochs == []
    # By hand both are trained.
    assert train(child, tmp_path)["status"] == "finished"


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


@pytest.mark.parametrize("method", ["acdc", "rigl", "top_kast"])
def test_what_has_diverged_within_an_epoch_is_never_saved(method: str, tmp_path: Path) -> None:
    config = tiny_config(method, recipe=DIVERGING)
    folder = tmp_path / config.run_name
    checkpoints = Checkpoints(folder / "checkpoint", config.fingerprint)

    def look() -> None:
        for path in checkpoints.paths():
            assert_finite(checkpoints.read(path, torch.device("cpu")))

    reporter = At(look, steps=range(20))
    result = run(config, Options(tmp_path, checkpoint_interval_s=0), reporter)
    look()
    assert (result.status, result.products) == ("diverged", {})
    assert any("diverged: the training loss is" in line for line in reporter.said)
    text = (folder / "result.json").read_text() + (folder / "journal.jsonl").read_text()
    assert "NaN" not in text
    assert "Infinity" not in text
    assert plain(run(config, Options(tmp_path), Silent())) == plain(result)


@pytest.mark.parametrize(("options", "status"), [([], 6), (["--allow-failure"], 0)])
def test_exit_status_of_divergence(
    options: list[str], status: int, acdc: Any, tmp_path: Path
) -> None:
    config = tiny_config("acdc", recipe=DIVERGING)
    file = tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    for _ in range(2):
        code, output, _ = acdc("train", file, "--runs", tmp_path, *options)
        assert code == status
        assert "diverged" in output
