"""The time of sparse steps is measured beside a run, and changes nothing of it."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from acdc.cli import cli
from acdc.config.run import RunConfig
from acdc.distributed import Ranks
from acdc.kernels import library
from acdc.run.reader import STEP_TIME, read_run
from acdc.run.step_time import measure
from acdc.training.state import Engine, TrainState
from tests.support import tiny_config, tiny_text, train


@pytest.fixture(autouse=True)
def compiled() -> None:
    if library.library() is None and "CI" not in os.environ:
        pytest.skip("no compiler at installation")


@pytest.mark.parametrize("whole", [True, False])
def test_a_run_leaves_its_step_time(
    tmp_path: Path, whole: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What time decides, in so small a network by chance.
    monkeypatch.setattr("acdc.kernels.layers._times", lambda *_: [1.0, 0.5])
    monkeypatch.setattr("acdc.kernels.layers._next_is_sparse", lambda *_: whole)
    config = tiny_config("acdc")
    train(config, tmp_path)
    folder = tmp_path / config.run_name
    found = read_run(folder).step_time
    assert found is not None
    masked = TrainState(config, Engine(), Ranks())
    masked.begin()
    assert (found.sparse_layers > 0) is whole
    assert found.sparse_layers <= found.masked_layers <= len(masked.weights)
    # The median of ratios lies between the least and the largest, near the ratio of medians.
    assert found.speedup == pytest.approx(found.dense_s / found.sparse_s, rel=0.5)
    (folder / STEP_TIME).unlink()
    done = CliRunner().invoke(cli, ["time", "--threads", "1", str(folder)])
    assert done.exit_code == 0, done.output
    again = read_run(folder).step_time
    assert again is not None
    assert (again.masked_layers, again.threads) == (found.masked_layers, 1)


def test_dense_training_has_none(tmp_path: Path) -> None:
    config = tiny_config("dense")
    train(config, tmp_path)
    assert read_run(tmp_path / config.run_name).step_time is None


@pytest.mark.parametrize("make", [tiny_config, tiny_text])
def test_weights_optimizer_and_draws_stay(make: Callable[[str], RunConfig]) -> None:
    state = TrainState(make("static"), Engine(), Ranks())
    state.begin()
    torch.manual_seed(3)
    before = {name: value.clone() for name, value in state.model.named_parameters()}
    memory = state.task.state_dict()
    drawn = torch.get_rng_state()
    assert measure(state) is not None
    assert all(torch.equal(value, before[name]) for name, value in state.model.named_parameters())
    assert torch.equal(torch.get_rng_state(), drawn)
    assert not state.optimizer.state
    assert state.task.state_dict() == memory
    assert all(weight.grad is None for weight in state.weights.values())


def test_a_run_that_has_not_finished_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Exception, match="no run that has finished"):
        CliRunner().invoke(cli, ["time", str(tmp_path)], catch_exceptions=False)
