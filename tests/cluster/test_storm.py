"""Whatever happens to jobs, nodes and controllers, results are those of undisturbed runs."""

import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from study.model import Study
from tests.cluster.conftest import FOLDER, ROOT, Suite, same
from tests.cluster.slurm import Cluster, wait_until

pytestmark = pytest.mark.cluster

PREEMPTED = "Preempted"
CANCELLED = "Cancelled"
NODE_DOWN = "On a node that goes down"
LEFT_BEHIND = "Left behind"
LONG = "Longer than its time"


@dataclass(frozen=True)
class Storm:
    """What has happened to a suite of five runs, one misfortune each."""

    suite: Suite
    runs: dict[str, str]
    """By the label of the row, which names the misfortune."""
    left_behind: str
    """The job that lived on when its controller was killed."""


@pytest.fixture(scope="module")
def storm(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Storm:
    suite = Suite(
        cluster,
        tmp_path_factory.mktemp("storm"),
        FOLDER / "storm.yaml",
        FOLDER / "experiments" / "storm",
        # The time of one of them is two minutes, of whose end SLURM may tell a minute early.
        ("slurm_extra=--signal=USR1@15 --open-mode=append",),
    )
    runs = {row.label: row.runs[0] for row in suite.study.experiments[0].rows}
    resources = (
        # Each run has a node of its own.
        *("--set-resources", "train:mem_mb_per_cpu=2000", "train:cpus_per_gpu=16"),
        "train:slurm_account=lab",
        f"train:runtime=2 if wildcards.job.endswith({runs[LONG][-12:]!r}) else 60",
        "train:slurm_partition='scavenge' if '_rigl_' in wildcards.job else 'gpu'",
    )
    cluster.stop("slurmdbd")
    controller = suite.start("trained", *resources)
    try:
        suite.wait_for_epoch(runs[PREEMPTED], 3)
        # Its partition has one node, which another partition has too, and the right of way.
        first = ("-p", "main", "-w", cluster.node_names[-1], "--exclusive")
        cluster.run("sbatch", *first, "-o", "/dev/null", "--wrap=sleep 5")
        suite.wait_for_epoch(runs[CANCELLED], 3)
        cluster.run("scancel", *suite.running()[runs[CANCELLED]])
        suite.wait_for_epoch(runs[NODE_DOWN], 3)
        (job,) = suite.running()[runs[NODE_DOWN]]
        node = suite.node_of(job)
        cluster.crash(node)
        suite.wait_for_epoch(runs[LEFT_BEHIND], 3)
        wait_until(lambda: len(suite.slurm_jobs(runs[CANCELLED])) == 2, "another attempt", 120)
        controller.kill()
        controller.wait()
        lived_on = suite.jobs()
        controller = suite.start("trained", *resources)
        (left,) = lived_on[runs[LEFT_BEHIND]]
        # Whichever of them are still there go first.
        follower = re.compile(
            "|".join(f"afterany:{job}\\(" for jobs in lived_on.values() for job in jobs)
        )
        wait_until(lambda: follower.search(cluster.run("squeue", "-ho%E")), "a follower")
        wait_until(lambda: "down" in cluster.run("sinfo", "-hn", node, "-o%T"), "node down", 120)
        cluster.start_node(node)
        cluster.start_accounting()
        assert controller.wait(timeout=600) == 0, suite.said()
    finally:
        controller.kill()
    return Storm(suite, runs, left)


def test_every_result_is_that_of_an_undisturbed_run(
    storm: Storm, undisturbed: Callable[[Study], dict[str, Any]]
) -> None:
    expected = undisturbed(storm.suite.study)
    for label, run in storm.runs.items():
        assert same(storm.suite.result(run), expected[run]), label


def test_each_run_has_had_its_misfortune(storm: Storm) -> None:
    jobs = {label: storm.suite.slurm_jobs(run) for label, run in storm.runs.items()}
    assert len(jobs[PREEMPTED]) >= 2
    assert jobs[PREEMPTED][0] == jobs[PREEMPTED][1], "SLURM starts the same job again"
    assert len(set(jobs[CANCELLED])) >= 2
    assert len(set(jobs[LONG])) >= 2
    assert len(jobs[NODE_DOWN]) >= 2
    assert jobs[LEFT_BEHIND] == [storm.left_behind], "its job continues without the controller"


def test_no_run_was_trained_by_two_jobs_at_once(storm: Storm) -> None:
    for label, run in storm.runs.items():
        lines = storm.suite.record(run).journal.epochs
        epochs = storm.suite.result(run)["config"]["epochs"]
        assert [line["epoch"] for line in lines] == list(range(epochs)), label
        assert [line["time"] for line in lines] == sorted(line["time"] for line in lines), label


def test_every_attempt_has_left_its_log(storm: Storm) -> None:
    for label, run in storm.runs.items():
        heads = [text.splitlines()[0] for text in storm.suite.attempts(run)]
        logged = Counter(head.split()[-1] for head in heads)
        assert Counter(storm.suite.slurm_jobs(run)) <= logged, label


def test_status_counts_resumptions(storm: Storm) -> None:
    command = [
        *(sys.executable, "-m", "workflow", "status", "--scale", str(storm.suite.scale), "--json"),
        *("--results", str(storm.suite.results), "--experiments", str(storm.suite.experiments)),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    found = {run["run"]: (run["status"], run["resumed"]) for run in json.loads(done.stdout)["runs"]}
    assert found == {
        run: ("done", len(storm.suite.slurm_jobs(run)) - 1) for run in storm.runs.values()
    }
