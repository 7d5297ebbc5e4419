"""Each attempt at a run leaves what it says in a file of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import tiny_config


def attempt(folder: Path, *arguments: str, epochs: int = 4) -> subprocess.CompletedProcess[str]:
    config = tiny_config("dense", epochs=epochs)
    command = [sys.executable, "-m", "acdc", "train", "--runs", str(folder / "runs")]
    command += ["--logs", str(folder / "logs"), "--json", config.canonical_json(), *arguments]
    return subprocess.run(command, capture_output=True, text=True)


def test_logs_are_numbered_and_the_newest_has_the_name_that_snakemake_knows(tmp_path: Path) -> None:
    name = tiny_config("dense", epochs=4).run_name
    newest = tmp_path / "logs" / f"{name}.log"
    for number in (1, 2):
        newest.unlink(missing_ok=True)  # as Snakemake does before a job
        done = attempt(tmp_path)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        log = tmp_path / "logs" / name / f"attempt-{number:02}.log"
        assert newest.read_text() == log.read_text()
    first, second = sorted((tmp_path / "logs" / name).iterdir())
    assert "epoch   3" in first.read_text()
    assert "has finished already" in second.read_text()
    for log in (first, second):
        assert f"{name}: process " in log.read_text().splitlines()[0]


def test_the_sentence_of_an_error_is_in_the_log(tmp_path: Path) -> None:
    done = attempt(tmp_path, "--device", "cuda:7")
    assert done.returncode == 2
    (log,) = (tmp_path / "logs").glob("*/attempt-01.log")
    assert log.read_text().splitlines()[-1].startswith("error: --device: 'cuda:7'")


@pytest.mark.parametrize("processes", ["1", "2"])
def test_a_failure_for_good_ends_with_status_0_in_a_study_also_on_several_ranks(
    processes: str, tmp_path: Path
) -> None:
    other = tiny_config("dense", epochs=5)
    config = tiny_config("dense", epochs=4)
    assert attempt(tmp_path, epochs=5).returncode == 0
    theirs = tmp_path / "runs" / other.run_name / "checkpoint"
    theirs.rename(tmp_path / "checkpoint")
    (tmp_path / "runs" / config.run_name).mkdir()
    (tmp_path / "checkpoint").rename(tmp_path / "runs" / config.run_name / "checkpoint")
    assert attempt(tmp_path, "--processes", processes).returncode in (1, 5)
    assert attempt(tmp_path, "--processes", processes, "--settle").returncode == 0
    result = (tmp_path / "runs" / config.run_name / "result.json").read_text()
    assert '"status": "failed"' in result
    assert "belongs to run" in result
