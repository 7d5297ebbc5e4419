"""The checks of a site: values, a recorded SLURM on the PATH, real files and locks."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

import acdc.run.lease
from acdc.errors import ConfigError, SuiteError
from study.model import Study
from study.resolve import load
from workflow import doctor
from workflow.doctor import Profile, Request, read_profile, requests_of
from workflow.probe import look_from
from workflow.resources import THEORY_MINUTES, TRAIN_MB, TRAIN_MINUTES

ROOT = Path(__file__).resolve().parents[2]
GOOD = {
    "executor": "slurm",
    "config": ["slurm_extra=--signal=USR1@120 --open-mode=append"],
    "retries": 14,
    "keep-going": True,
    "nolock": True,
    "rerun-incomplete": True,
    "rerun-triggers": ["mtime", "params", "input"],
}
JOB = {"gpu": 2, "nodes": 1, "mem_mb": 4000, "runtime": 600, "slurm_partition": "main"}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Study]:
    """A study of two seeds and two experiments of the theory, whose runs take some GPUs."""

    def of(gpus: int) -> Study:
        task = {"model": "resnet8_s2", "dataset": "digits", "epochs": 20, "gpu": gpus}
        described = {
            "name": "examined",
            "title": "Examined",
            "description": "Digits.",
            "experiments": ["table06", "theory_t2_rate", "theory_fail"],
            "tasks": {"imagenet-resnet50": {**task, "recipe": {"batch_size": 512}}},
            "sparsities": [0.9],
            "seeds": [1, 2],
        }
        file = tmp_path_factory.mktemp("scale") / "examined.yaml"
        file.write_text(yaml.safe_dump(described))
        return load(str(file))

    return of


def profile(folder: Path, **options: Any) -> Profile:
    (folder / "site.yaml").write_text(yaml.safe_dump({"executor": "slurm", **options}))
    return read_profile(str(folder / "site.yaml"))


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


def test_the_profile_of_the_repository(study: Callable[[int], Study]) -> None:
    mine = read_profile(str(ROOT / "slurm"))
    assert [check.status for check in doctor.check_options(mine)] == ["ok"]
    found = requests_of(mine, study(1))
    assert [(request.rule, request.gpus) for request in found] == [("train", 1), ("theory", 0)]
    asked = yaml.safe_load((ROOT / "slurm" / "profile.v9+.yaml").read_text())["set-resources"]
    for request in found:
        assert asked[request.rule].items() - {("runtime", 30)} <= request.resources.items()


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"nonsense": 3}, "nonsense"),
        ({"jobs": "several"}, "jobs"),
        ({"set-resources": {"train": {"runtime": "soon"}}}, "runtime"),
    ],
)
def test_a_wrong_key_is_named(tmp_path: Path, options: dict[str, Any], key: str) -> None:
    with pytest.raises(ConfigError, match=key):
        requests_of(profile(tmp_path, **options), load("quick"))


def test_no_such_profile() -> None:
    with pytest.raises(ConfigError, match="nowhere"):
        read_profile("nowhere")


@pytest.mark.parametrize("key", [key for key in GOOD if key != "executor"])
def test_what_resuming_relies_on(tmp_path: Path, key: str) -> None:
    assert [each.status for each in doctor.check_options(profile(tmp_path, **GOOD))] == ["ok"]
    without = profile(tmp_path, **{name: value for name, value in GOOD.items() if name != key})
    found = list(doctor.check_options(without))
    assert {each.status for each in found} == {"warning"}
    assert len(found) == (2 if key == "config" else 1)


def test_requests(tmp_path: Path, study: Callable[[int], Study]) -> None:
    mine = profile(
        tmp_path,
        config=["gpus_per_node=2", "pack=2"],
        **{
            "default-resources": {"slurm_partition": "main", "runtime": 45},
            "set-threads": {"train": 6},
            "set-resources": {
                "train": {"runtime": "1d", "mem": "16GB", "qos": "'q' + str(attempt)"},
                "train_on_nodes": {"slurm_partition": "c"},
            },
            "group-components": ["theory=100"],
        },
    )
    train, theory = requests_of(mine, study(1))
    assert (train.rule, train.threads, train.gpus) == ("train", 6, 1)
    expected = {"runtime": 1440, "mem_mb": 16_000, "qos": "q1", "slurm_partition": "main"}
    assert train.resources["nodes"] == 1
    assert expected.items() <= train.resources.items()
    # One job, in which the two experiments follow one another.
    assert theory.resources["runtime"] == 2 * THEORY_MINUTES
    spread, _ = requests_of(mine, study(4))
    assert (spread.rule, spread.gpus, spread.resources["nodes"]) == ("train_on_nodes", 4, 2)
    expected = {"slurm_partition": "c", "mem_mb": TRAIN_MB, "runtime": TRAIN_MINUTES}
    assert expected.items() <= spread.resources.items()


@pytest.mark.parametrize(
    ("config", "mem_mb", "minutes"),
    [
        # All seeds of a configuration one after the other, one run, two runs at once.
        ([], TRAIN_MB, 2 * TRAIN_MINUTES),
        (["pack=1"], TRAIN_MB, TRAIN_MINUTES),
        (["pack=2"], 2 * TRAIN_MB, 2 * TRAIN_MINUTES),
    ],
)
def test_jobs_of_several_runs(
    tmp_path: Path,
    study: Callable[[int], Study],
    config: list[str],
    mem_mb: int,
    minutes: int,
) -> None:
    train, _ = requests_of(profile(tmp_path, config=config), study(1))
    assert (train.resources["mem_mb"], train.resources["runtime"]) == (mem_mb, minutes)


# SLURM


def test_slurm_is_asked_for_each_request(tmp_path: Path, slurm: Callable[..., None]) -> None:
    said = "sbatch: Job 7 to start at 2026-11-30T03:11:22 using 8 processors on nodes n1"
    slurm(sbatch=(0, said), scontrol=(0, "Slurmctld(primary) at host is UP"))
    requests = [
        Request("train", 8, JOB | {"slurm_extra": "--signal=USR1@9"}),
        Request("theory", 1, {}),
    ]
    found = list(doctor.check_slurm(requests, profile(tmp_path).options))
    assert [each.status for each in found] == ["ok", "ok", "ok"]
    asked = [line for line in (tmp_path / "bin/asked").read_text().splitlines() if "sbatch" in line]
    for option in ("-p main", "-t 600", "--mem 4000", "--gpus=2", "--cpus-per-task=8", "--signal"):
        assert option in asked[0]
    assert all("--test-only" in line for line in asked)
    assert len(asked) == 2


@pytest.mark.parametrize(
    ("resources", "said"),
    [
        ({}, "allocation failure: Requested node configuration is not available"),
        # The executor refuses these before SLURM is asked.
        ({"slurm_extra": "--mem=4G"}, "memory"),
        ({"gpu_model": "nvidia_a100-sxm4"}, "Invalid GPU model"),
    ],
)
def test_a_refusal_is_told_in_its_own_words(
    tmp_path: Path, slurm: Callable[..., None], resources: dict[str, Any], said: str
) -> None:
    slurm(sbatch=(1, "allocation failure: Requested node configuration is not available"))
    check = doctor.check_request(Request("train", 1, JOB | resources), profile(tmp_path).options)
    assert check.status == "error"
    assert said in check.message
    assert "train" in check.advice


@pytest.mark.parametrize(
    ("limit", "errors"),
    [
        ("1-00:00:00|REQUEUE", 0),
        ("infinite|OFF", 0),
        ("10:00:00|REQUEUE", 0),
        ("9:59:00|REQUEUE", 1),
        ("1-00:00:00|CANCEL", 1),
        ("30:00|CANCEL", 2),
    ],
)
def test_limits_that_sbatch_does_not_tell(
    slurm: Callable[..., None], limit: str, errors: int
) -> None:
    slurm(sinfo=(0, limit))
    found = list(doctor.check_partitions(Request("train", 1, JOB)))
    assert [each.status for each in found] == ["error"] * errors


def test_without_slurm(
    tmp_path: Path, slurm: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    slurm(scontrol=(1, "Slurmctld(primary) at host is DOWN"))
    requests = [Request("train", 1, JOB)]
    (found,) = doctor.check_slurm(requests, SimpleNamespace())
    assert (found.status, found.message) == ("error", "Slurmctld(primary) at host is DOWN")
    monkeypatch.setenv("PATH", str(tmp_path))
    (found,) = doctor.check_slurm(requests, SimpleNamespace())
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
        ({}, "ok"),
        ({"shared": False}, "error"),
        ({"seen": False}, "error"),
        ({"round_trip_s": 9.0}, "error"),
        ({"skew_s": 5.5}, "warning"),
        ({"skew_s": -2.5}, "warning"),
    ],
)
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
    assert doctor.check_space(study, tmp_path, os.cpu_count() or 1).status == "ok"
