"""A study that is killed again and again ends as one that never was."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from tests.workflow.conftest import Workplace


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


def wait_for(condition: Callable[[], bool], what: str, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.05)


def journals(study: Path) -> int:
    return sum(path.read_text().count("\n") for path in (study / "runs").glob("*/journal.jsonl"))


def owner(workplace: Workplace) -> int | None:
    """Return the process of the suite that has started its Snakemake."""
    path = workplace.folder / "results" / ".owner.json"
    suite: int | None = json.loads(path.read_text())["suite"] if path.exists() else None
    return suite


def test_killed_again_and_again_it_goes_on_and_ends_the_same(
    workplace: Workplace, finished: Workplace
) -> None:
    def everything(process: psutil.Process) -> list[psutil.Process]:
        return [*process.children(recursive=True), process]

    kills: list[Callable[[psutil.Process], None]] = [
        # The front end alone: what it started is left over.
        lambda process: process.send_signal(signal.SIGKILL),
        # Everything at the same moment, as when the machine loses power.
        lambda process: [member.send_signal(signal.SIGKILL) for member in everything(process)],  # type: ignore[func-returns-value]
        # Ctrl-C.
        lambda process: process.send_signal(signal.SIGINT),
        # Only Snakemake, then the front end ends by itself, with an error.
        lambda process: [c.kill() for c in process.children()],  # type: ignore[func-returns-value]
    ]
    for number, kill in enumerate(kills):
        suite = workplace.start()
        wait_for(lambda pid=suite.pid: owner(workplace) == pid, "Snakemake")  # type: ignore[misc]
        before = journals(workplace.study)
        wait_for(
            lambda before=before, number=number: (  # type: ignore[misc]
                journals(workplace.study) > before + 3 + 2 * number
            ),
            "some epochs",
        )
        kill(psutil.Process(suite.pid))
        suite.communicate(timeout=60)
        assert suite.returncode != 0
        assert not (workplace.study / "report.html").exists()

    done = workplace.reproduce()
    assert done.returncode == 0, done.stderr
    assert (workplace.study / "report.html").exists()
    assert outcome(workplace.study) == outcome(finished.study)


def test_two_suites_in_one_folder_the_second_is_refused_and_the_first_unharmed(
    workplace: Workplace,
) -> None:
    first = workplace.start()
    try:
        wait_for((workplace.folder / "results" / ".owner.json").exists, "the first suite")
        second = workplace.reproduce()
        assert second.returncode == 4
        assert second.stderr.strip() == (
            f"error: results folder results is in use by another suite (process {first.pid}); "
            "wait for it to end, or give another folder with RESULTS=FOLDER (make) "
            "or --results FOLDER"
        )
        assert first.poll() is None
    finally:
        os.kill(first.pid, signal.SIGINT)
        first.communicate(timeout=60)
