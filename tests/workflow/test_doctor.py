"""The checks of a site: a profile planned by Snakemake, a recorded SLURM, real files and locks."""

import itertools
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

import acdc.run.lease
from acdc.errors import ConfigError, SuiteError
from study.resolve import load
from workflow import doctor
from workflow.probe import look_from
from workflow.resources import THEORY_MINUTES, TRAIN_MB, TRAIN_MINUTES
from workflow.site import plan

ROOT = Path(__file__).resolve().parents[2]
TRAIN = {
    **{"name": "train, 2 GPU", "rule": "train", "gpus": 2, "nodes": 1, "runtime": 600},
    **{"partitions": "main", "command": ["sbatch", "-p", "main", "--gpus=2"]},
}


TASKS = {
    "table06": ("imagenet-resnet50", "resnet8_s2"),
    "table07": ("imagenet-mobilenet_v1", "resnet8"),
}


def scale(folder: Path, *gpus: int) -> Path:
    """Write a scale of two seeds, a table for each number of GPUs, and two theory experiments."""
    tables = dict(zip(TASKS, gpus, strict=False))
    tasks = {
        TASKS[table][0]: {
            **{"model": TASKS[table][1], "dataset": "digits", "epochs": 20},
            **{"gpu": count, "recipe": {"batch_size": 512}},
        }
        for table, count in tables.items()
    }
    described = {
        "name": "examined", "title": "Examined", "description": "Digits.",
        "experiments": [*tables, "theory_t2_rate", "theory_fail"], "tasks": tasks,
        "sparsities": [0.9], "seeds": [1, 2]}  # fmt: skip
    file = folder / "examined.yaml"
    file.write_text(yaml.safe_dump(described))
    return file


def profile(folder: Path, **options: Any) -> str:
    (folder / "site.yaml").write_text(yaml.safe_dump({"executor": "slurm", "jobs": 9, **options}))
    return str(folder / "site.yaml")


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Put SLURM's commands on the PATH, which answer as they did when this was recorded."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")

    def answer(**answers: tuple[int, str]) -> None:
        for name in doctor.COMMANDS:
            status, text = answers.get(name, (0, ""))
            program = folder / name
            program.write_text(
                f"#!/bin/sh\necho {name} $@ >> {folder}/asked\necho '{text}'\nexit {status}\n"
            )
            program.chmod(0o755)

    return answer


# The profile


def asked(request: Mapping[str, Any]) -> set[str]:
    return {*request["command"], *map(" ".join, itertools.pairwise(request["command"]))}


def test_the_profile_of_the_repository(tmp_path: Path) -> None:
    site = plan(str(ROOT / "slurm"), scale=scale(tmp_path, 1), results=tmp_path)
    assert site["unset"] == []
    assert site["results"] == str(tmp_path)
    train, theory = site["requests"]
    assert (train["rule"], train["gpus"], train["nodes"], theory["gpus"]) == ("train", 1, 1, 0)
    wanted = yaml.safe_load((ROOT / "slurm" / "profile.v9+.yaml").read_text())["set-resources"]
    assert train["runtime"] == wanted["train"]["runtime"]
    assert train["partitions"] == wanted["train"]["slurm_partition"]
    options = {"-p gpu", "-t 1440", "--mem-per-cpu 2000", "--cpus-per-gpu=8"}
    assert options | {"--gpus=1", "--signal=USR1@120"} <= asked(train)
    # One job, in which the two experiments follow one another.
    assert theory["runtime"] == 2 * wanted["theory"]["runtime"]
    assert load(*site["study"]).theory.keys() == {"t2_rate", "fail"}


def test_a_wrong_key_or_profile_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="seed=5"):
        plan(profile(tmp_path, config=["seed=5"]))
    with pytest.raises(ConfigError, match="nowhere"):
        plan("nowhere")


def test_runs_that_share_a_job(tmp_path: Path) -> None:
    """Both seeds of a configuration, at once."""
    site = plan(profile(tmp_path, config=[f"scale={scale(tmp_path, 1)}", "pack=2"]))
    train, _ = site["requests"]
    assert f"--mem {2 * TRAIN_MB}" in asked(train)
    assert train["runtime"] == 2 * TRAIN_MINUTES


def test_jobs_on_one_node_and_on_several(tmp_path: Path) -> None:
    resources = {
        "train": {"slurm_partition": "b"},
        "train_on_nodes": {"slurm_partition": "c", "gpu_model": "nvidia_a100-sxm4"},
    }
    config = [f"scale={scale(tmp_path, 4, 1)}", "gpus_per_node=2"]
    site = plan(profile(tmp_path, config=config, **{"set-resources": resources}))
    train, spread, theory = site["requests"]
    # Both seeds of a configuration, one after the other.
    assert (train["rule"], train["gpus"], train["nodes"]) == ("train", 1, 1)
    assert f"--mem {TRAIN_MB}" in asked(train)
    assert train["partitions"] == "b"
    assert (train["runtime"], theory["runtime"]) == (2 * TRAIN_MINUTES, THEORY_MINUTES)
    assert (spread["rule"], spread["gpus"], spread["nodes"]) == ("train_on_nodes", 4, 2)
    assert spread["partitions"] == "c"
    assert spread["runtime"] == TRAIN_MINUTES
    # The executor refuses this before SLURM is asked.
    assert "GPU model" in spread["refusal"]
    assert doctor.check_request(spread).status == "error"
    assert "retries" in site["unset"]
    assert len(site["unset"]) == 3
    assert doctor.check_profile(site).status == "warning"
    assert doctor.check_profile({**site, "unset": []}).status == "ok"


# SLURM


def test_slurm_is_asked_for_each_request(tmp_path: Path, slurm: Callable[..., None]) -> None:
    said = "sbatch: Job 7 to start at 2026-11-30T03:11:22 using 8 processors on nodes n1"
    slurm(sbatch=(0, said), scontrol=(0, "Slurmctld(primary) at host is UP"))
    found = list(doctor.check_slurm([TRAIN, TRAIN | {"command": ["sbatch", "-p", "gpu"]}]))
    assert [each.status for each in found] == ["ok", "ok", "ok"]
    lines = [line for line in (tmp_path / "bin/asked").read_text().splitlines() if "sbatch" in line]
    assert [line.split()[2] for line in lines] == ["main", "gpu"]
    assert all("--test-only" in line for line in lines)


def test_a_refusal_is_told_in_its_own_words(slurm: Callable[..., None]) -> None:
    slurm(sbatch=(1, "allocation failure: Requested node configuration is not available"))
    check = doctor.check_request(TRAIN)
    assert check.status == "error"
    assert "Requested node configuration" in check.message
    assert "train" in check.advice


@pytest.mark.parametrize(
    ("limit", "errors"),
    [
        ("1-00:00:00|REQUEUE", 0), ("infinite|OFF", 0), ("10:00:00|REQUEUE", 0),
        ("9:59:00|REQUEUE", 1), ("1-00:00:00|CANCEL", 1), ("30:00|CANCEL", 2)
    ],
)  # fmt: skip
def test_limits_sbatch_ignores(slurm: Callable[..., None], limit: str, errors: int) -> None:
    slurm(sinfo=(0, limit))
    found = list(doctor.check_partitions(TRAIN))
    assert [each.status for each in found] == ["error"] * errors


def test_no_slurm(
    tmp_path: Path, slurm: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    slurm(scontrol=(1, "Slurmctld(primary) at host is DOWN"))
    (found,) = doctor.check_slurm([TRAIN])
    assert (found.status, found.message) == ("error", "Slurmctld(primary) at host is DOWN")
    monkeypatch.setenv("PATH", str(tmp_path))
    (found,) = doctor.check_slurm([TRAIN])
    assert "sbatch" in found.message


# Files and the other process


@pytest.fixture
def short_heartbeat(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acdc.run.lease, "_HEARTBEAT_S", 0.1)


@pytest.mark.usefixtures("short_heartbeat")
def test_this_host(tmp_path: Path) -> None:
    command = ["--profile", "none", "--scale", "quick", "--results", str(tmp_path / "a" / "b")]
    done = CliRunner().invoke(doctor.doctor, [*command, "--json"])
    assert done.exception is None, done.output
    found = {check["name"]: check["status"] for check in json.loads(done.output)}
    assert found == dict.fromkeys(
        ("free space", "results folder", "locks", "data sets", "torch"), "ok"
    )
    assert not (tmp_path / "a").exists()


@pytest.mark.usefixtures("short_heartbeat")
def test_a_process_that_sees_another_folder(tmp_path: Path) -> None:
    elsewhere = ("sh", "-c", 'exec "$0" -m workflow.probe /nowhere')
    facts = look_from(elsewhere, [], tmp_path)
    assert doctor.check_latency(facts, 60.0).status == "error"


def test_a_process_that_does_not_start(tmp_path: Path) -> None:
    complaint = "srun: error: Unable to allocate resources"
    with pytest.raises(SuiteError, match=complaint):
        look_from(("sh", "-c", f"echo {complaint} >&2; exit 1"), [], tmp_path)


SEEN = {
    **{"host": "n1", "shared": True, "seen": True, "round_trip_s": 3.0, "skew_s": 1.0},
    **{"leased": False, "locked": False, "missing": {}, "torch": "2", "cuda": "12", "gpus": 2},
}


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({}, "ok"), ({"shared": False}, "error"), ({"seen": False}, "error"),
        ({"round_trip_s": 9.0}, "error"), ({"skew_s": 5.5}, "warning"),
        ({"skew_s": -2.5}, "warning")
    ],
)  # fmt: skip
def test_latency(changes: dict[str, Any], status: str) -> None:
    assert doctor.check_latency(SEEN | changes, 8.0).status == status


def test_locks_data_and_torch() -> None:
    assert doctor.check_locks(SEEN).status == "ok"
    assert doctor.check_locks(SEEN | {"leased": True}).status == "error"
    assert doctor.check_locks(SEEN | {"locked": True}).status == "error"
    assert doctor.check_locks(SEEN | {"locked": True}, " on n1").status == "warning"
    assert doctor.check_data(SEEN).status == "ok"
    assert "get it" in doctor.check_data(SEEN | {"missing": {"cifar10": "get it"}}).message
    assert doctor.check_torch(SEEN, cuda=True, gpus=2).status == "ok"
    assert doctor.check_torch(SEEN, cuda=True, gpus=3).status == "error"
    assert doctor.check_torch(SEEN | {"cuda": None}, cuda=True).status == "error"
    assert doctor.check_torch(SEEN | {"cuda": None, "gpus": 0}, cuda=False).status == "ok"


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert doctor.check_folder(tmp_path / "file").status == "error"


def test_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = load("quick", 1)
    usage = shutil.disk_usage(tmp_path)._replace(free=1_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    assert doctor.check_space(study, tmp_path, 2).status == "error"
    for run in study.runs:
        folder = tmp_path / "quick" / "runs" / run
        folder.mkdir(parents=True)
        (folder / "result.json").touch()
    assert doctor.check_space(study, tmp_path, 2).status == "ok"
