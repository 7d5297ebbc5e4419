"""Where only a job's Snakemake receives a signal, or loses its parent, the run stops, too."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from acdc.run.reader import read_lines
from tests.cluster.slurm import wait_until
from tests.support import tiny_config

# The processes around a run in a job: Snakemake, the shell, and the run.
AROUND = """
import signal, subprocess, sys
from workflow.signals import end_with, pass_on
pass_on()
if len(sys.argv) > 2:
    end_with(int(sys.argv[2]))
# Snakemake waits for its jobs.
signal.signal(signal.SIGTERM, lambda *_: None)
sys.exit(subprocess.call(["bash", "-c", "trap '' USR1 TERM; " + sys.argv[1] + "; exit $?"]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("cause", ["SIGUSR1", "SIGTERM", "parent"])
def test_the_run_below_stops(cause: str, tmp_path: Path) -> None:
    config = tiny_config("dense", epochs=4000)
    file = tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump(config.plain()))
    train = f"{sys.executable} -m acdc train {file} --threads 1 --runs {tmp_path}"
    parent = subprocess.Popen(["sleep", "1000"])
    arguments = [train, *([str(parent.pid)] if cause == "parent" else [])]
    process = subprocess.Popen(
        [sys.executable, "-c", AROUND, *arguments], stderr=subprocess.PIPE, text=True
    )
    journal = tmp_path / config.run_name / "journal.jsonl"
    wait_until(lambda: any("event" not in r for r in read_lines(journal).lines), "an epoch")
    if cause == "parent":
        parent.kill()
    else:
        os.kill(process.pid, getattr(signal, cause))
    process.communicate(timeout=60)
    parent.kill()
    assert process.returncode == 75
    assert list((tmp_path / config.run_name / "checkpoint").glob("step-*.pt"))
