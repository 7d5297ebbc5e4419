"""A study that is killed again and again ends as one that never was."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.cluster.slurm import wait_until
from tests.support import assert_same_run
from tests.workflow.conftest import ROOT, TINY, Workplace

pytestmark = pytest.mark.slow


def epochs(study: Path) -> int:
    return sum(path.read_text().count("\n") for path in (study / "runs").glob("*/journal.jsonl"))


def everything(process: psutil.Process) -> list[psutil.Process]:
    return [*process.children(recursive=True), process]


def kill(processes: list[psutil.Process]) -> None:
    for process in processes:
        process.kill()


KILLS: dict[str, Callable[[psutil.Process], None]] = {
    "the front end alone": lambda process: process.kill(),
    "everything at once, as without power": lambda process: kill(everything(process)),
    "Ctrl-C": lambda process: process.send_signal(signal.SIGINT),
    "Snakemake alone": lambda process: kill(process.children()),
}


def test_a_killed_study_ends_the_same(workplace: Workplace, finished: Workplace) -> None:
    for number, (what, end) in enumerate(KILLS.items()):
        before = epochs(workplace.study)
        suite = workplace.start()
        wait_until(lambda n=before + 2 + number: epochs(workplace.study) > n, what, 240)  # type: ignore[misc]
        members = everything(psutil.Process(suite.pid))
        if number == 0:
            second = workplace.reproduce()
            assert second.returncode == 75
            assert f"process {suite.pid} " in second.stderr
            assert suite.poll() is None
        end(members[-1])
        suite.communicate(timeout=60)
        assert suite.returncode != 0
        assert not (workplace.study / "report.html").exists()
        # Neither Snakemake nor a run outlives the suite by long.
        _, alive = psutil.wait_procs(members, timeout=60)
        assert not alive, what

    done = workplace.reproduce()
    assert done.returncode == 0, done.stderr
    assert (workplace.study / "report.html").exists()
    for expected in (finished.study / "runs").iterdir():
        folder = workplace.study / "runs" / expected.name
        ours, whole = (json.loads((f / "result.json").read_text()) for f in (folder, expected))
        assert_same_run(folder, ours, expected, whole)


def test_plain_snakemake_that_is_killed_resumes(workplace: Workplace) -> None:
    """The same command is enough, without an option of Snakemake's that says how."""
    chosen = ("method=dense", f"results={workplace.folder}/results", f"scale={TINY}")
    command = ("--snakefile", str(ROOT / "Snakefile"), "-c1", "trained", "--config", *chosen)
    first = subprocess.Popen(
        [sys.executable, "-m", "snakemake", *command],
        cwd=workplace.folder,
        env=workplace.environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    wait_until(lambda: epochs(workplace.study) > 2, "epochs", 240)
    members = everything(psutil.Process(first.pid))
    kill(members)
    first.wait()
    psutil.wait_procs(members, timeout=60)
    again = workplace.run("snakemake", *command)
    assert again.returncode == 0, again.stderr
    (run,) = (workplace.study / "runs").iterdir()
    assert '"resume"' in (run / "journal.jsonl").read_text()
