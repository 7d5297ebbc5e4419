"""Where only a job's Snakemake hears of a signal, the run answers nevertheless."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from acdc.run.journal import read_journal
from tests.cluster.slurm import wait_until
from tests.support import tiny_config

# What stands around a run in a job: Snakemake, the shell, and the run.
AROUND = """
import signal, subprocess, sys
from workflow.signals import pass_on
pass_on()
# Snakemake waits for what it has started.
signal.signal(signal.SIGTERM, lambda *_: None)
sys.exit(subprocess.call(["bash", "-c", "trap '' USR1 TERM; " + sys.argv[1] + "; exit $?"]))
"""


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM])
def test_a_run_saves_when_only_the_process_above_its_shell_hears_of_it(
    number: signal.Signals, tmp_path: Path
) -> None:
    config = tiny_config("dense", epochs=4000)
    train = (
        f"{sys.executable} -m acdc train --threads 1 --runs {tmp_path} "
        f"--json '{config.canonical_json()}'"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", AROUND, train], stderr=subprocess.PIPE, text=True
    )
    journal = tmp_path / config.run_name / "journal.jsonl"
    wait_until(lambda: any("event" not in r for r in read_journal(journal)), "an epoch")
    os.kill(process.pid, number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 75
    assert f"{number.name}: " in said
    assert list((tmp_path / config.run_name / "checkpoint").glob("step-*.pt"))
