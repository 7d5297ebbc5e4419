"""A study that is killed again and again ends as one that never was."""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.workflow.conftest import ROOT, TINY, Workplace

pytestmark = pytest.mark.slow


def outcome(study: Path) -> dict[str, Any]:
    """Return all that runs made, but for times: results, journals, and weights by their hash."""
    made: dict[str, Any] = {}
    for run in sorted((study / "runs").iterdir()):
        result = json.loads((run / "result.json").read_text())
        result.pop("timings")
        made[f"{run.name}/result"] = result
        for path in sorted(run.glob("*.safetensors")):
            made[f"{run.name}/{path.name}"] = hashlib.sha256(path.read_bytes()).hexdigest()
        records = [json.loads(line) for line in (run / "journal.jsonl").read_text().splitlines()]
        for record in records:
            record.pop("time", None)
            record.pop("train_s", None)
        made[f"{run.name}/journal"] = [r for r in records if r.get("event") != "resume"]
    return made


def wait_for(condition: Callable[[], bool], what: str, seconds: float = 240) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.05)


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
        wait_for(lambda n=before + 2 + number: epochs(workplace.study) > n, what)  # type: ignore[misc]
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
    assert outcome(workplace.study) == outcome(finished.study)


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
    wait_for(lambda: epochs(workplace.study) > 2, "epochs")
    members = everything(psutil.Process(first.pid))
    kill(members)
    first.wait()
    psutil.wait_procs(members, timeout=60)
    again = workplace.run("snakemake", *command)
    assert again.returncode == 0, again.stderr
    (run,) = (workplace.study / "runs").iterdir()
    assert '"resume"' in (run / "journal.jsonl").read_text()
