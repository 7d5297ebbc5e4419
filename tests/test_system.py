"""What the system does to a command ends in one sentence and an exit status, at once."""

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
# These two need no torch, whose import takes seconds.
HELP, MISTAKE = f"{ACDC} train --help", f"{ACDC} train missing-é.yaml"
TRAIN = f"{ACDC} train run.yaml --runs runs --device cpu --threads 1"
FULL = "No space left on device"

# A shell command, its exit status, and what is on standard error.
SYSTEM: dict[str, tuple[str, int, str]] = {
    "full output": (f"{HELP} > /dev/full", 4, FULL),
    "full output of a training": (f"{TRAIN} > /dev/full", 4, FULL),
    "full output and errors": (f"{HELP} > /dev/full 2> /dev/full", 4, ""),
    "full errors of a mistake": (f"{MISTAKE} 2> /dev/full", 2, ""),
    "full errors of a wrong option": (f"{ACDC} train --sparsty 2 2> /dev/full", 2, ""),
    "full errors of a training": (f"{TRAIN} 2> /dev/full", 0, ""),
    "closed input": (f"{HELP} <&-", 0, ""),
    "closed output": (f"{HELP} >&-", 0, ""),
    "closed errors": (f"{HELP} 2>&-", 0, ""),
    "closed streams of a training, no home, no temporary folder": (
        f"env -u HOME TMPDIR=/nowhere {TRAIN} <&- >&- 2>&-",
        0,
        "",
    ),
    "closed errors of a mistake": (f"{MISTAKE} 2>&-", 2, ""),
    "a reader that leaves": (f"{HELP} | true; exit ${{PIPESTATUS[0]}}", 1, ""),
    "no working directory": (f"mkdir gone; cd gone; rmdir ../gone; {HELP}", 4, "directory"),
    "ascii": (f"LC_ALL=C PYTHONIOENCODING=ascii {MISTAKE}", 2, "missing"),
}


@pytest.mark.parametrize("name", SYSTEM)
def test_the_end_of_a_command(name: str, tmp_path: Path) -> None:
    command, status, said = SYSTEM[name]
    if "/dev/full" in command and not Path("/dev/full").exists():
        pytest.skip("needs a device that is always full")
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
    if TRAIN in command and status == 0:
        assert (tmp_path / "runs" / config.run_name / "result.json").exists()


def test_every_exit_status_is_documented() -> None:
    text = (ROOT / "docs" / "design.md").read_text()
    for line in EXIT_STATUSES.splitlines():
        status, meaning = line.split(maxsplit=1)
        assert f"| {status} | {meaning} |" in text
