"""What the system does to a command ends in one sentence and an exit status, at once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from acdc.errors import EXIT_STATUSES
from tests.support import tiny_config
from tests.test_cli import write_config

ROOT = Path(__file__).parents[1]
ACDC = f"{sys.executable} -m workflow"
METHODS, TRAIN = f"{ACDC} methods", f"{ACDC} train run.yaml --runs runs --device cpu --threads 1"
FULL = "No space left on device"

# A shell command, its exit status, and what is on standard error.
SYSTEM: dict[str, tuple[str, int, str]] = {
    "full output": (f"{METHODS} > /dev/full", 4, FULL),
    "full output of help": (f"{ACDC} --help > /dev/full", 4, FULL),
    "full output of a training": (f"{TRAIN} > /dev/full", 4, FULL),
    "full output and errors": (f"{METHODS} > /dev/full 2> /dev/full", 4, ""),
    "full errors of a mistake": (f"{ACDC} train --sparsity 2 2> /dev/full", 2, ""),
    "full errors of a wrong option": (f"{ACDC} train --sparsty 2 2> /dev/full", 2, ""),
    "full errors of a training": (f"{TRAIN} 2> /dev/full", 0, ""),
    "closed input": (f"{TRAIN} <&-", 0, "epoch"),
    "closed output": (f"{TRAIN} >&-", 0, "epoch"),
    "closed errors": (f"{TRAIN} 2>&-", 0, ""),
    "closed streams": (f"{TRAIN} <&- >&- 2>&-", 0, ""),
    "closed errors of a mistake": (f"{ACDC} train --sparsity 2 2>&-", 2, ""),
    "a reader that leaves": (f"{METHODS} | true; exit ${{PIPESTATUS[0]}}", 1, ""),
    "no working directory": (f"mkdir gone; cd gone; rmdir ../gone; {ACDC} methods", 4, "directory"),
    "no home, no temporary folder": (f"env -u HOME TMPDIR=/nowhere {TRAIN}", 0, "epoch"),
    "a file in the place of the runs": (f"touch runs; {TRAIN}", 2, "runs"),
    "a file in the place of the receipt's folder": (f"touch a; {TRAIN} --receipt a/b", 4, "a"),
    "a receipt that is no file": (f"mkfifo fifo; {TRAIN} --receipt fifo", 4, "fifo"),
    "ascii": (f"LC_ALL=C PYTHONIOENCODING=ascii {METHODS} é", 2, "unknown"),
}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
@pytest.mark.parametrize(("command", "status", "said"), SYSTEM.values(), ids=SYSTEM.keys())
def test_the_end_of_a_command(command: str, status: int, said: str, tmp_path: Path) -> None:
    config = tiny_config("dense", epochs=1)
    write_config(tmp_path / "run.yaml", config)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        ["bash", "-c", command], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == status, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
    if status:
        assert done.stderr.count("\n") <= 4
    if command.startswith(TRAIN) and status == 0:
        assert (tmp_path / "runs" / config.run_name / "result.json").exists()


def test_every_exit_status_is_documented() -> None:
    text = (ROOT / "docs" / "design.md").read_text()
    for line in EXIT_STATUSES.splitlines():
        status, meaning = line.split(maxsplit=1)
        assert f"| {status} | {meaning} |" in text
