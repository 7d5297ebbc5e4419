"""Studies through ``snakemake --profile slurm``: what jobs ask for, failures, packs, two nodes."""

import csv
import re
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from study.model import Study
from study.resolve import load
from tests.cluster.conftest import FOLDER, ROOT, Suite, same, train_alone
from tests.cluster.slurm import Cluster, wait_until

pytestmark = pytest.mark.cluster

Undisturbed = Callable[[Study], dict[str, Any]]


def brief(cluster: Cluster, results: Path, experiments: str, *more: str) -> Suite:
    folder = FOLDER / "experiments" / experiments
    return Suite(cluster, results, FOLDER / "brief.yaml", folder, more)


def test_a_table_takes_one_job_per_run(cluster: Cluster, tmp_path: Path) -> None:
    suite = Suite(cluster, tmp_path / "results", "quick", more=("seeds=1",))
    said = suite.make("table06")
    assert (suite.folder / "tables" / "table06.tex").exists(), said
    study = load("quick", 1)
    runs = study.with_parents(study.experiment("table06").runs)
    jobs = suite.accounted()
    assert sorted(job["Comment"] for job in jobs) == sorted(
        f"rule_train_wildcards_{run}" for run in runs
    )
    profile = yaml.safe_load((ROOT / "slurm" / "profile.v9+.yaml").read_text())
    asked = profile["set-resources"]["train"]
    cores = asked["cpus_per_gpu"]
    for job in jobs:
        assert job["State"] == "COMPLETED"
        assert job["Partition"] == asked["slurm_partition"]
        assert int(job["TimelimitRaw"]) == asked["runtime"]
        requested = dict(part.split("=") for part in job["AllocTRES"].split(","))
        assert (int(requested["cpu"]), int(requested["gres/gpu"])) == (cores, 1)
        memory = {"M": 1, "G": 1024}[requested["mem"][-1]] * float(requested["mem"][:-1])
        assert round(memory) == cores * asked["mem_mb_per_cpu"]
        assert job["NNodes"] == "1"
    for run in runs:
        assert suite.result(run)["status"] == "finished"
        assert len(suite.slurm_jobs(run)) == 1


def test_a_run_that_fails_is_retried_by_the_next_start(cluster: Cluster, tmp_path: Path) -> None:
    suite = brief(cluster, tmp_path / "results", "failures")
    runs = {row.label: row.runs for row in suite.study.experiments[0].rows}
    (good, refused), (diverging,) = runs["Refused"], runs["Diverging"]
    # Seed 2 finds the checkpoint of a run that is not its own.
    other = tmp_path / "other"
    train_alone(suite.study, good, other)
    shutil.copytree(other / good / "checkpoint", suite.run_folder(refused) / "checkpoint")
    said = suite.make("failures", status=1)
    assert re.search(rf"{refused} has failed: .*checkpoint", said)
    assert "1 of 3 runs" in said
    jobs = [job["Comment"].rpartition("_")[2] for job in suite.accounted()]
    # One place in the queue each, whatever the profile grants to jobs that are interrupted.
    assert sorted(jobs) == sorted(run.rpartition("_")[2] for run in (good, refused, diverging))
    assert suite.result(diverging)["status"] == "diverged"
    rows = table(suite, "failures")
    assert (rows["Refused"]["n"], rows["Refused"]["failed"]) == ("1", "1")
    assert (rows["Diverging"]["n"], rows["Diverging"]["diverged"]) == ("0", "1")

    shutil.rmtree(suite.run_folder(refused))
    suite.make("failures")
    assert suite.result(refused)["status"] == "finished"
    row = table(suite, "failures")["Refused"]
    assert row["n"] == "2"
    assert row["failed"] == "0"
    assert len(suite.slurm_jobs(good)) == 1


def table(suite: Suite, name: str) -> dict[str, dict[str, str]]:
    with (suite.folder / "tables" / f"{name}.csv").open() as file:
        return {row["label"]: row for row in csv.DictReader(file)}


def test_seeds_share_a_job_and_a_gpu(
    cluster: Cluster, tmp_path: Path, undisturbed: Undisturbed
) -> None:
    suite = brief(cluster, tmp_path / "results", "packed", "pack=2")
    said = suite.make("packed")
    first, second = suite.study.runs
    (job,) = suite.accounted()
    assert job["Comment"] == f"rule_train_wildcards_{first}"
    assert "gres/gpu=1" in job["AllocTRES"]
    expected = undisturbed(suite.study)
    for run in (first, second):
        assert same(suite.result(run), expected[run])
        assert len(suite.slurm_jobs(run)) == 1
    assert table(suite, "packed")["AC/DC"]["n"] == "2", said
    assert "Nothing to be done" in suite.make("packed")


def test_two_suites_at_once(cluster: Cluster, tmp_path: Path, undisturbed: Undisturbed) -> None:
    one, two = (brief(cluster, tmp_path / name, "packed") for name in ("one", "two"))
    (run, _) = one.study.runs
    controllers = [suite.start("trained") for suite in (one, two)]
    wait_until(lambda: one.jobs().get(run), "a job")
    # A third one wants the first one's folder.
    output = one.output.read_text()
    assert one.start("trained").wait(timeout=120) == 75
    said = one.output.read_text()[len(output) :]
    assert re.search(rf"error: results folder {one.folder} is in use by another suite", said)
    assert [controller.wait(timeout=600) for controller in controllers] == [0, 0]
    expected = undisturbed(one.study)
    for suite in (one, two):
        for run in suite.study.runs:
            assert same(suite.result(run), expected[run])
            assert len(suite.slurm_jobs(run)) == 1


def test_a_run_on_two_nodes_is_resumed(cluster: Cluster, tmp_path: Path) -> None:
    suite = Suite(
        cluster,
        tmp_path / "results",
        FOLDER / "nodes.yaml",
        FOLDER / "experiments" / "nodes",
        ("gpus_per_node=1",),
    )
    (run,) = suite.study.runs
    controller = suite.start("trained")
    try:
        suite.wait_for_epoch(run, 3)
        (job,) = suite.running()[run]
        assert cluster.run("squeue", "-hj", job, "--format=%D").strip() == "2"
        # What SLURM sends two minutes before the end.
        cluster.run("scancel", f"--signal={signal.SIGUSR1.name}", job)
        assert controller.wait(timeout=600) == 0, suite.said()
    finally:
        controller.kill()
    result = suite.result(run)
    assert result["status"] == "finished"
    record = suite.record(run)
    epochs = [line["epoch"] for line in record.journal.epochs]
    assert epochs == list(range(result["config"]["epochs"]))
    assert [event["event"] for event in record.journal.events if event["event"] == "resume"] == [
        "resume"
    ]
    assert [attempt.ranks for attempt in record.provenance] == [2, 2]
    assert "SIGUSR1" in suite.attempts(run)[0]
    jobs = suite.accounted()
    assert [job["NNodes"] for job in jobs] == ["2", "2"]
    assert all("gres/gpu=2" in job["AllocTRES"] for job in jobs)
