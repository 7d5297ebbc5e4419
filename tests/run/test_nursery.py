"""Runs that a nursery carries out are as if each had been a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import yaml

from acdc.config.run import RunConfig
from acdc.run.forkserver import VARIABLE, hand_over
from acdc.run.results import read_result
from tests.support import Uninterrupted, assert_same_run, tiny_config


def command(config: RunConfig, runs: Path) -> list[str]:
    runs.mkdir(exist_ok=True)
    file = runs / f"{config.run_name}.yaml"
    file.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    train = [sys.executable, "-m", "acdc", "train", "--config", str(file), "--runs", str(runs)]
    return [*train, "--threads", "1", "--device", "cpu", "--checkpoint-interval", "0"]


def nursery(script: str, **options: object) -> subprocess.Popen[str]:
    """Start a nursery around a shell's script."""
    return subprocess.Popen(
        [sys.executable, "-m", "acdc.run.forkserver", "bash", "-c", script],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,  # type: ignore[call-overload]
    )


def waited(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.01)


def epochs(folder: Path) -> int:
    path = folder / "journal.jsonl"
    return path.read_text().count("val_loss") if path.exists() else 0


def test_runs_side_by_side_are_those_of_processes_of_their_own(
    tmp_path: Path, uninterrupted: Uninterrupted
) -> None:
    configs = [tiny_config("acdc"), tiny_config("rigl")]
    lines = [" ".join(command(config, tmp_path)) for config in configs]
    script = f"{lines[0]} > one 2> errors & {lines[1]} > two; wait $!; echo one ended with $?"
    done = nursery(script, cwd=tmp_path)
    output, errors = done.communicate(timeout=120)
    assert done.returncode == 0, errors
    assert output == "one ended with 0\n"
    # What it says goes where the shell has it go, not to the nursery's own streams.
    assert (tmp_path / "one").read_text().startswith(str(tmp_path / configs[0].run_name))
    assert "epochs 0 to 4" in (tmp_path / "errors").read_text()
    assert configs[1].run_name in errors
    for config in configs:
        result = read_result(tmp_path / config.run_name)
        assert result is not None
        assert_same_run(tmp_path / config.run_name, result, *uninterrupted(config))


def test_a_run_is_a_child_of_the_nursery_and_other_commands_are_not(tmp_path: Path) -> None:
    config = tiny_config("dense")
    train = " ".join(command(config, tmp_path))
    done = nursery(f"{sys.executable} -m acdc methods dense; {train}; sleep 0.1")
    folder = tmp_path / config.run_name
    waited(lambda: epochs(folder) > 0, "an epoch")
    children = psutil.Process(done.pid).children()
    assert len(children) == 2
    assert {child.name() for child in children} >= {"bash"}
    output, errors = done.communicate(timeout=60)
    assert done.returncode == 0, errors
    assert output.startswith("dense  (Dense)")


def test_statuses_and_messages_are_the_commands(tmp_path: Path) -> None:
    train = f"{sys.executable} -m acdc train --runs {tmp_path}"
    script = f"{train} --method dnse; echo $?; {train} --sparsty 1; echo $?; exit 7"
    done = nursery(script)
    output, errors = done.communicate(timeout=60)
    assert done.returncode == 7
    assert output == "2\n2\n"
    assert "error: method: 'dnse' is unknown" in errors
    assert "No such option" in errors


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGTERM, 75), (signal.SIGUSR1, 75), (signal.SIGINT, 130)]
)
def test_signals_reach_the_run(
    number: signal.Signals, status: int, tmp_path: Path, uninterrupted: Uninterrupted
) -> None:
    config = tiny_config("gmp", epochs=16)
    folder = tmp_path / config.run_name
    arguments = command(config, tmp_path)
    # A shell has interrupts ignored in what it starts in the background; this is not of that kind.
    starter = (
        "import subprocess, sys; p = subprocess.Popen(sys.argv[1:]);"
        "open('pid', 'w').write(str(p.pid)); print(p.wait())"
    )
    script = " ".join([sys.executable, "-c", f'"{starter}"', *arguments])
    around = nursery(script, cwd=tmp_path)
    waited(lambda: epochs(folder) > 1, "an epoch")
    os.kill(int((tmp_path / "pid").read_text()), number)
    output, errors = around.communicate(timeout=60)
    assert output.splitlines()[-1] == str(status), errors
    assert "the same command goes on with it" in errors
    assert not (folder / "result.json").exists()
    done = nursery(" ".join(arguments))
    _, errors = done.communicate(timeout=60)
    assert done.returncode == 0, errors
    result = read_result(folder)
    assert result is not None
    assert_same_run(folder, result, *uninterrupted(config))
    assert '"event": "resume"' in (folder / "journal.jsonl").read_text()


def test_a_run_whose_starter_is_killed_ends_with_a_checkpoint(tmp_path: Path) -> None:
    config = tiny_config("dense", epochs=200)
    folder = tmp_path / config.run_name
    around = nursery(
        f"{' '.join(command(config, tmp_path))} & echo $! > {tmp_path}/pid; wait; sleep 60"
    )
    waited(lambda: epochs(folder) > 1, "an epoch")
    (run,) = [c for c in psutil.Process(around.pid).children() if c.name() != "bash"]
    os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)
    run.wait(timeout=30)
    assert not (folder / "result.json").exists()
    assert list((folder / "checkpoint").glob("step-*.pt"))
    for child in psutil.Process(around.pid).children(recursive=True):
        child.kill()
    around.communicate(timeout=30)


def test_without_its_nursery_a_command_carries_itself_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    assert hand_over(["train"]) is None
    monkeypatch.setenv(VARIABLE, str(tmp_path / "gone"))
    assert hand_over(["train"]) is None
    done = subprocess.run(
        command(tiny_config("dense", epochs=1), tmp_path), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_the_nursery_itself_has_a_single_thread_when_it_forks() -> None:
    code = (
        "import os, acdc.run.forkserver as nursery; nursery._import_all();"
        "print(len(os.listdir('/proc/self/task')))"
    )
    if Path("/proc/self/task").exists():
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert done.stdout == "1\n", done.stderr
