"""A run that is asked to stop saves a checkpoint, reports it in one sentence, and resumes."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from torch import nn

from acdc.config.run import RunConfig
from acdc.errors import Interrupted, Resumable
from acdc.models import MODELS, Architecture
from acdc.run.lifecycle import Options, run
from acdc.run.result import FailedResult, FinishedResult, read_result
from tests.support import (
    At,
    Silent,
    Uninterrupted,
    assert_same_run,
    epochs,
    resumptions,
    tiny_config,
    weight_files,
)

PATIENCE_S = 120
"""After so long a process that should have ended is taken to hang."""


def spawn(config: RunConfig, runs: Path, *arguments: str) -> subprocess.Popen[str]:
    file = runs / f"{config.run_name}.yaml"
    file.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    command = [sys.executable, "-m", "acdc", "train", str(file), "--runs", str(runs)]
    command += ["--threads", "1", "--device", "cpu", *arguments]
    return subprocess.Popen(
        command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    )


def wait_for_epochs(process: subprocess.Popen[str], folder: Path, count: int) -> None:
    """Return as soon as a process has written that many epochs to its journal."""
    while process.poll() is None:
        if len(epochs(folder)) >= count:
            return
        time.sleep(0.001)
    raise AssertionError(f"the process ended by itself, with status {process.returncode}")


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Return the status and the last line on standard error of a process that is to end."""
    _, errors = process.communicate(timeout=PATIENCE_S)
    assert "Traceback" not in errors
    return process.returncode, errors.splitlines()[-1]


def stopped_at(line: str, config: RunConfig, number: signal.Signals) -> tuple[int, int]:
    """Return the epoch and the batch that the sentence of a stopped run names."""
    sentence = (
        rf"{number.name}: {re.escape(config.run_name)} saved a checkpoint at epoch (\d+), "
        r"batch (\d+) of 5; rerun the same command to resume it"
    )
    found = re.fullmatch(sentence, line)
    assert found is not None, line
    return int(found[1]), int(found[2])


def test_a_signal_stops_a_run_at_its_step(tmp_path: Path, uninterrupted: Uninterrupted) -> None:
    config = tiny_config("rigl", epochs=24)
    folder = tmp_path / config.run_name
    process = spawn(config, tmp_path)
    wait_for_epochs(process, folder, 1)
    process.send_signal(signal.SIGTERM)
    code, line = ended(process)
    assert code == 75, line
    place = stopped_at(line, config, signal.SIGTERM)
    assert read_result(folder) is None
    newest = max((folder / "checkpoint").glob("step-*.pt"))
    assert newest.name == f"step-{5 * place[0] + place[1]:010d}.pt"
    result = run(config, Options(tmp_path), Silent())
    assert resumptions(folder) == [place]
    assert isinstance(result, FinishedResult)
    assert result.timings.attempts == 2
    assert_same_run(folder, result, *uninterrupted(config))


def test_a_run_stopped_while_its_parent_trains(
    tmp_path: Path, uninterrupted: Uninterrupted
) -> None:
    config = tiny_config("one_shot")
    parent = config.parent
    with pytest.raises(Resumable):
        run(config, Options(tmp_path), signalled(signal.SIGTERM, 6))
    result = run(config, Options(tmp_path), Silent())
    assert resumptions(tmp_path / parent.run_name) == [(1, 2)]
    assert_same_run(tmp_path / config.run_name, result, *uninterrupted(config))
    result = run(parent, Options(tmp_path), Silent())
    assert_same_run(tmp_path / parent.run_name, result, *uninterrupted(parent))


def signalled(number: signal.Signals, iteration: int) -> At:
    return At(lambda: os.kill(os.getpid(), number), steps=[iteration])


@pytest.mark.parametrize("iteration", [6, 9])
def test_a_stop_loses_no_step(iteration: int, tmp_path: Path, uninterrupted: Uninterrupted) -> None:
    config = tiny_config("acdc")
    handlers = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    with pytest.raises(Resumable):
        run(config, Options(tmp_path), signalled(signal.SIGTERM, iteration))
    assert handlers == [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    result = run(config, Options(tmp_path), Silent())
    assert resumptions(tmp_path / config.run_name) == [divmod(iteration + 1, 5)]
    assert_same_run(tmp_path / config.run_name, result, *uninterrupted(config))


def test_a_signal_at_the_last_step_comes_late(tmp_path: Path, uninterrupted: Uninterrupted) -> None:
    config = tiny_config("acdc")
    result = run(config, Options(tmp_path), signalled(signal.SIGINT, 19))
    assert_same_run(tmp_path / config.run_name, result, *uninterrupted(config))


@pytest.mark.parametrize(
    ("number", "kind"), [(signal.SIGUSR1, Resumable), (signal.SIGINT, Interrupted)]
)
def test_a_signal_before_the_run_that_it_starts_from_begins_is_not_forgotten(
    number: signal.Signals, kind: type[Exception], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config("one_shot")
    build = MODELS[config.model]

    def signalling(channels: int, classes: int) -> nn.Module:
        monkeypatch.setitem(MODELS, config.model, build)
        os.kill(os.getpid(), number)
        return build(channels, classes)

    # The network is built before the run that it starts from is looked at.
    monkeypatch.setitem(MODELS, config.model, Architecture(signalling))
    reporter = Silent()
    with pytest.raises(kind):
        run(config, Options(tmp_path), reporter)
    assert reporter.epochs == []


def ranks_of(process: subprocess.Popen[str]) -> dict[int, psutil.Process]:
    children = psutil.Process(process.pid).children(recursive=True)
    return {int(c.environ()["RANK"]): c for c in children if "RANK" in c.environ()}


def assert_gone(processes: dict[int, psutil.Process]) -> None:
    """Wait for processes to end, which are no children of this one."""
    _, alive = psutil.wait_procs(list(processes.values()), timeout=PATIENCE_S)
    assert not alive


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunConfig, Path, dict[str, Any]]:
    """Return a run that two processes have trained undisturbed, its folder and its result."""
    runs = tmp_path_factory.mktemp("together")
    config = tiny_config("rigl", epochs=12)
    assert ended(spawn(config, runs, "--processes", "2"))[0] == 0
    result = read_result(runs / config.run_name)
    return config, runs / config.run_name, result


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_processes_of_one_run_stop_together_and_any_number_resumes(
    processes: int, tmp_path: Path, together: tuple[RunConfig, Path, dict[str, Any]]
) -> None:
    config, expected, whole = together
    folder = tmp_path / config.run_name
    process = spawn(config, tmp_path, "--processes", "2")
    wait_for_epochs(process, folder, 1)
    ranks = ranks_of(process)
    assert sorted(ranks) == [0, 1]
    process.terminate()
    _, errors = process.communicate(timeout=PATIENCE_S)
    assert_gone(ranks)
    assert process.returncode == 1, errors
    said = [line for line in errors.splitlines() if "saved a checkpoint at" in line]
    place = stopped_at(said[0], config, signal.SIGTERM)
    assert ended(spawn(config, tmp_path, "--processes", str(processes)))[0] == 0
    assert resumptions(folder) == [place]
    result = read_result(folder)
    if processes == 2:
        assert_same_run(folder, result, expected, whole)
    else:
        # Sums in another order are rounded otherwise.
        assert result.status == "finished"
        assert epochs(folder) == list(range(12))
        assert weight_files(folder).keys() == weight_files(expected).keys()
    assert len(said) == 1, "one sentence, whatever the number of ranks"


@pytest.mark.slow
def test_a_rank_that_is_killed_ends_the_others(tmp_path: Path) -> None:
    config = tiny_config("rigl", epochs=1000)
    process = spawn(config, tmp_path, "--processes", "2")
    wait_for_epochs(process, tmp_path / config.run_name, 1)
    ranks = ranks_of(process)
    ranks[1].kill()
    process.communicate(timeout=PATIENCE_S)
    assert process.returncode not in (0, 75)
    assert_gone(ranks)
    assert read_result(tmp_path / config.run_name) is None


@pytest.mark.slow
def test_a_failure_on_several_ranks(tmp_path: Path) -> None:
    config = tiny_config("rigl", recipe={"batch_size": 255})
    process = spawn(config, tmp_path, "--processes", "2")
    _, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 1
    assert "recipe.batch_size" in errors
    assert read_result(tmp_path / config.run_name) is None
    # What recurs is the result of a run of a study, and no error, on all ranks.
    other, ours = tiny_config("dense", seed=2), tiny_config("dense")
    run(other, Options(tmp_path), Silent())
    foreign = tmp_path / ours.run_name / "checkpoint"
    shutil.copytree(tmp_path / other.run_name / "checkpoint", foreign)
    process = spawn(ours, tmp_path, "--processes", "2", "--allow-failure")
    _, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, errors
    result = read_result(tmp_path / ours.run_name)
    assert isinstance(result, FailedResult)
    assert result.exit_status == 5


def test_seeds_that_are_interrupted_save_and_nothing_more_is_started(tmp_path: Path) -> None:
    first, second = (tiny_config("dense", epochs=200, seed=seed) for seed in (1, 2))
    process = spawn(first, tmp_path, "--seeds", "1,2")
    wait_for_epochs(process, tmp_path / first.run_name, 1)
    process.send_signal(signal.SIGINT)
    status, line = ended(process)
    assert status == 130
    stopped_at(line, first, signal.SIGINT)
    assert list((tmp_path / first.run_name / "checkpoint").glob("step-*.pt"))
    assert not (tmp_path / second.run_name).exists()


def test_a_seed_that_fails_leaves_the_others_alone(tmp_path: Path) -> None:
    good, bad = (tiny_config("dense", seed=seed) for seed in (2, 1))
    # In the place of the folder that the first seed would make.
    (tmp_path / bad.run_name).write_text("")
    process = spawn(good, tmp_path, "--seeds", "1,2", "--at-once", "2")
    _, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 4
    assert f"error: run {bad.run_name} cannot be written" in errors
    result = read_result(tmp_path / good.run_name)
    assert isinstance(result, FinishedResult)
