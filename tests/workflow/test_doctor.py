"""The checks of a site: real file systems, processes and servers; what SLURM says as it said it."""

from __future__ import annotations

import base64
import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

import acdc.run.lease
from acdc.errors import ConfigError
from acdc.run.results import RESULT, SCHEMA
from study.model import Study, load
from workflow.doctor import environment, findings, node, options, slurm, storage
from workflow.doctor.command import examine, show
from workflow.doctor.environment import data, packages, torch_build, tracking
from workflow.doctor.findings import Finding, UnansweredError, ask, guarded
from workflow.doctor.fit import judge
from workflow.doctor.peer import create, exists, peer, wait_for, who
from workflow.doctor.profile import GPU_MODEL, SUBMITTED, Request, read_profile
from workflow.doctor.site import (
    Site,
    parse_configuration,
    parse_gpus,
    parse_minutes,
    parse_nodes,
    parse_partitions,
    user_groups,
)
from workflow.doctor.slurm import settings
from workflow.forecast import forecast
from workflow.resources import THEORY_MB, THEORY_MINUTES, TRAIN_MB, TRAIN_MINUTES

ROOT = Path(__file__).resolve().parents[2]

# What SLURM 22.05.8 printed, but for the second and third node and the last two partitions, which
# differ from the first in what is tested.
PARTITIONS = """\
PartitionName=main AllowGroups=ALL AllowAccounts=ALL AllowQos=ALL AllocNodes=ALL Default=YES QoS=N/A DefaultTime=00:30:00 DisableRootJobs=NO ExclusiveUser=NO GraceTime=0 Hidden=NO MaxNodes=UNLIMITED MaxTime=1-00:00:00 MinNodes=0 LLN=NO MaxCPUsPerNode=UNLIMITED Nodes=n[1-4] PriorityJobFactor=1 PriorityTier=10 RootOnly=NO ReqResv=NO OverSubscribe=NO OverTimeLimit=NONE PreemptMode=REQUEUE State=UP TotalCPUs=16 TotalNodes=4 SelectTypeParameters=NONE JobDefaults=(null) DefMemPerCPU=500 MaxMemPerNode=UNLIMITED TRES=cpu=16,mem=16000M,node=4,billing=16,gres/gpu=8
PartitionName=long AllowGroups=ALL AllowAccounts=lab,chair AllowQos=ALL AllocNodes=ALL Default=NO QoS=N/A MaxNodes=UNLIMITED MaxTime=UNLIMITED MaxCPUsPerNode=2 Nodes=n2 PreemptMode=OFF State=UP MaxMemPerNode=3000
PartitionName=closed AllowGroups=ALL AllowAccounts=ALL AllowQos=ALL Default=NO MaxTime=01:00:00 Nodes=n3 PreemptMode=OFF State=DRAIN MaxMemPerNode=UNLIMITED
PartitionName=broken AllowGroups=ALL AllowAccounts=ALL AllowQos=ALL Default=NO MaxTime=01:00:00 Nodes=n3 PreemptMode=GANG,SUSPEND State=UP MaxMemPerNode=UNLIMITED
PartitionName=few AllowGroups=ALL DenyAccounts=guests,others DenyQos=idle Default=NO MaxNodes=1 MaxTime=1-00:00:00 Nodes=n[1-2] State=UP
PartitionName=ours AllowGroups=staff,owners AllowAccounts=ALL AllowQos=ALL Default=NO MaxNodes=UNLIMITED MaxTime=1-00:00:00 Nodes=n1 State=UP
"""  # noqa: E501
NODES = """\
NodeName=n1 Arch=x86_64 CoresPerSocket=4  CPUAlloc=0 CPUEfctv=4 CPUTot=4 CPULoad=2.82 AvailableFeatures=(null) ActiveFeatures=(null) Gres=gpu:a100:2 NodeAddr=127.0.0.1 NodeHostName=vm Port=27001 Version=22.05.8 OS=Linux 6.18.44-fc-v669 #1 SMP PREEMPT_DYNAMIC @0  RealMemory=4000 AllocMem=0 FreeMem=21267 Sockets=1 Boards=1 State=IDLE ThreadsPerCore=1 TmpDisk=0 Weight=1 Owner=N/A MCS_label=N/A Partitions=main,gpu,scavenge,few,ours  BootTime=2026-11-22T13:07:37 SlurmdStartTime=2026-11-23T02:46:56 LastBusyTime=2026-11-23T02:46:57 CfgTRES=cpu=4,mem=4000M,billing=4,gres/gpu=2 AllocTRES= CapWatts=n/a CurrentWatts=0 AveWatts=0 ExtSensorsJoules=n/s ExtSensorsWatts=0 ExtSensorsTemp=n/s
NodeName=n2 CPUTot=8 AvailableFeatures=ib,big ActiveFeatures=ib,big Gres=(null) RealMemory=8000 MemSpecLimit=500 State=MIXED+PLANNED Partitions=main,long,few
NodeName=n3 CPUTot=64 AvailableFeatures=(null) Gres=gpu:h100:8(S:0-1),shard:16 RealMemory=500000 State=IDLE+DRAIN Partitions=closed,broken Reason=State=BAD and RealMemory=1 [root@2026-11-23T02:46:57]
"""  # noqa: E501
CONFIGURATION = """\
Configuration data as of 2026-11-23T02:47:13
AccountingStorageType   = accounting_storage/slurmdbd
JobRequeue              = 1
KillWait                = 5 sec
MinJobAge               = 300 sec
"""


@pytest.fixture(scope="module")
def cluster() -> Site:
    return Site(
        parse_configuration(CONFIGURATION),
        parse_partitions(PARTITIONS),
        parse_nodes(NODES),
        frozenset({"users"}),
    )


@pytest.fixture(scope="module")
def scale(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("scale") / "examined.yaml"
    task = {"model": "resnet8_s2", "dataset": "digits", "epochs": 20}
    described = {
        "name": "examined",
        "title": "For the tests of checks",
        "description": "Digits.",
        "experiments": ["table06", "theory_t2_rate", "theory_fail"],
        "tasks": {"imagenet-resnet50": {**task, "gpu": 4, "recipe": {"batch_size": 512}}},
        "sparsities": [0.9],
        "seeds": [1, 2],
    }
    file.write_text(yaml.safe_dump(described))
    return file


@pytest.fixture(scope="module")
def study(scale: Path) -> Study:
    return load(str(scale))


@pytest.fixture(scope="module")
def alone(scale: Path) -> Study:
    """The same runs with a GPU each."""
    file = scale.with_name("alone.yaml")
    described = yaml.safe_load(scale.read_text())
    described["tasks"]["imagenet-resnet50"]["gpu"] = 1
    file.write_text(yaml.safe_dump(described))
    return load(str(file))


@pytest.fixture
def short_heartbeat(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acdc.run.lease, "_HEARTBEAT_S", 0.1)


def profile_of(folder: Path, **options: Any) -> Path:
    file = folder / "site.yaml"
    file.write_text(yaml.safe_dump({"executor": "slurm", **options}))
    return file


def states(found: Iterator[Finding] | list[Finding]) -> dict[str, str]:
    return {finding.check: finding.state for finding in found}


# SLURM


def test_nodes_and_partitions_are_read_as_slurm_prints_them(cluster: Site) -> None:
    first, second, third = cluster.nodes
    assert (first.memory_mb, first.cores, first.gpus) == (4000, 4, {"a100": 2})
    assert first.partitions == ("main", "gpu", "scavenge", "few", "ours")
    assert (second.memory_mb, second.cores, second.gpus) == (7500, 8, {})
    assert (first.features, second.features) == (frozenset(), {"ib", "big"})
    # What somebody wrote about a node is no state of it.
    assert (third.state, third.memory_mb, third.gpus) == ("IDLE+DRAIN", 500_000, {"h100": 8})
    assert [node.usable for node in cluster.nodes] == [True, True, False]
    main, long = cluster.partitions["main"], cluster.partitions["long"]
    assert (main.minutes, main.memory_mb, main.accounts, main.default) == (1440, None, None, True)
    assert (long.minutes, long.memory_mb, long.cores) == (None, 3000, 2)
    assert long.accounts == {"lab", "chair"}
    assert cluster.configuration["MinJobAge"] == "300 sec"


@pytest.mark.parametrize(
    ("gres", "gpus"),
    [
        ("gpu:a100:2", {"a100": 2}),
        ("gpu:4", {"": 4}),
        ("gpu", {"": 1}),
        ("gpu:a100:4(S:0-1),gpu:2", {"a100": 4, "": 2}),
        ("shard:8,gpu:nvidia_a100-sxm4-80gb:8(S:0,1)", {"nvidia_a100-sxm4-80gb": 8}),
        ("gpu:2g.10gb:3", {"2g.10gb": 3}),
        ("gpu:v100", {"v100": 1}),
        ("nogpu:3", {}),
        ("(null)", {}),
    ],
)
def test_gpus_of_a_node(gres: str, gpus: dict[str, int]) -> None:
    assert parse_gpus(gres) == gpus


@pytest.mark.parametrize(
    ("text", "minutes"),
    [("1-00:00:00", 1440), ("02:30:00", 150), ("7-12:00:30", 10801), ("UNLIMITED", None)],
)
def test_time_limits(text: str, minutes: int | None) -> None:
    assert parse_minutes(text) == minutes


@pytest.mark.parametrize(
    ("state", "usable"),
    [
        ("IDLE", True),
        ("MIXED", True),
        ("ALLOCATED", True),
        ("IDLE+CLOUD+POWERED_DOWN", True),
        ("IDLE~", True),
        ("IDLE*", False),
        ("DOWN*", False),
        ("DOWN+NOT_RESPONDING", False),
        ("MIXED+DRAIN", False),
        ("IDLE+MAINTENANCE+RESERVED", False),
    ],
)
def test_states_in_which_a_node_takes_jobs(cluster: Site, state: str, usable: bool) -> None:
    assert dataclasses.replace(cluster.nodes[0], state=state).usable is usable


GOOD = Request("train", ("main",), 600, 4000, cores=4, gpus=2, gpu_type="a100")


@pytest.mark.parametrize(
    ("changes", "state", "said"),
    [
        ({}, "ok", "1 of 2 nodes can; up to 1440 min"),
        ({"partitions": ()}, "ok", "1 of 2 nodes can"),
        ({"gpu_type": None}, "ok", "2 GPU"),
        ({"partitions": ("night",)}, "problem", "no such partition"),
        ({"partitions": ("closed",)}, "problem", "DRAIN"),
        ({"minutes": 1441}, "problem", "1440 min are allowed"),
        ({"memory_mb": 8000}, "problem", "7500 at most"),
        ({"memory_mb": 4001}, "problem", "none has all of it"),
        ({"gpus": 3}, "problem", "nodes have 2 a100"),
        ({"gpu_type": "h100"}, "problem", "nodes have 2 a100"),
        ({"cores": 9}, "problem", "8 at most"),
        ({"gpus": 3, "cores": 9}, "problem", "have 2 a100; 9 cores are asked for, a node has 8"),
        ({"nodes": 2}, "problem", "2 nodes are asked for, and 1 have it"),
        ({"constraint": "ib"}, "problem", "none has all of it"),
        ({"constraint": "ib&none"}, "problem", "no node has it"),
        ({"constraint": "none|big", "gpus": 0, "gpu_type": None}, "ok", "1 of 2"),
        (
            {"partitions": ("long",), "account": "lab", "memory_mb": 1, "cores": 3, "gpus": 0},
            "problem",
            "2 at most",
        ),
        ({"partitions": ("long",), "account": "other"}, "problem", "may not use it"),
        ({"partitions": ("broken",), "gpu_type": "h100", "minutes": 9}, "problem", "IDLE+DRAIN"),
        ({"partitions": ("closed", "main")}, "ok", "1 of 2"),
        ({"partitions": ("few",), "gpus": 1}, "ok", "1 of 2"),
        (
            {"partitions": ("few",), "gpus": 1, "nodes": 2},
            "problem",
            "2 nodes are asked for, 1 are",
        ),
        ({"partitions": ("few",), "account": "guests"}, "problem", "guests may not use it"),
        ({"partitions": ("few",), "qos": "idle"}, "problem", "idle may not use it"),
        ({"partitions": ("ours",)}, "problem", "for the groups owners, staff only"),
    ],
)
def test_what_a_partition_can_run(
    cluster: Site, changes: dict[str, Any], state: str, said: str
) -> None:
    found = list(judge(cluster, [dataclasses.replace(GOOD, **changes)]))
    assert found[-1].state == state
    assert said in found[-1].found
    assert bool(found[-1].remedy) == (state != "ok")
    # One of several partitions is enough.
    assert all(finding.state == "warning" for finding in found[:-1])


@pytest.mark.parametrize(
    ("names", "limits", "expected"),
    [
        # sbatch takes no list that holds a name it does not know.
        (("night", "main"), "NO", ["problem", "ok"]),
        (("closed", "main"), "ANY", ["warning", "ok"]),
        (("closed", "main"), "ALL", ["problem", "ok"]),
    ],
)
def test_partitions_for_which_the_whole_list_is_refused(
    cluster: Site, names: tuple[str, ...], limits: str, expected: list[str]
) -> None:
    site = dataclasses.replace(cluster, configuration={"EnforcePartLimits": limits})
    found = judge(site, [dataclasses.replace(GOOD, partitions=names)])
    assert [finding.state for finding in found] == expected


def test_groups_open_a_partition(cluster: Site) -> None:
    request = dataclasses.replace(GOOD, partitions=("ours",))
    for groups in (frozenset({"users", "staff"}), None):
        (found,) = judge(dataclasses.replace(cluster, groups=groups), [request])
        assert found.state == "ok"


def test_groups_of_this_user() -> None:
    told = subprocess.run(["id", "-Gn"], capture_output=True, text=True, check=True).stdout
    expected = None if os.getuid() == 0 else frozenset(told.split())
    assert user_groups() == expected


def test_no_type_of_gpu_is_recommended_that_the_executor_refuses(cluster: Site) -> None:
    node = dataclasses.replace(cluster.nodes[0], gpus={"nvidia_a100-sxm4-80gb": 2})
    request = dataclasses.replace(GOOD, gpu_type="h100")
    for nodes, said in (([node], "leave gpu_model of train out"), (cluster.nodes, "one of a100")):
        (found,) = judge(dataclasses.replace(cluster, nodes=nodes), [request])
        assert said in found.remedy
        assert "sxm4" not in found.remedy


@pytest.mark.parametrize(
    ("age", "options", "sacct", "state"),
    [
        (300, {"slurm-status-command": "squeue"}, True, "ok"),
        (150, {"slurm-status-command": "squeue"}, True, "warning"),
        (60, {"slurm-status-command": "squeue"}, True, "warning"),
        (60, {"slurm-status-command": "squeue"}, False, "problem"),
        (2, {}, True, "ok"),
        (2, {}, False, "problem"),
    ],
)
def test_squeue_remembers_jobs_until_snakemake_looks(
    cluster: Site,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    age: int,
    options: dict[str, str],
    sacct: bool,
    state: str,
) -> None:
    profile = read_profile(str(profile_of(tmp_path, **options)))
    if sacct:
        (tmp_path / "sacct").touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    told = dataclasses.replace(cluster, configuration={"MinJobAge": f"{age} sec"})
    assert states(settings(told, profile, [GOOD]))["MinJobAge"] == state


@pytest.mark.parametrize(
    ("age", "status_command", "kind", "state"),
    [
        (300, "squeue", "slurmdbd", "warning"),
        (60, "squeue", "slurmdbd", "problem"),
        (300, "sacct", "slurmdbd", "problem"),
        (300, "squeue", "none", "ok"),
        (60, "squeue", "none", "problem"),
    ],
)
def test_accounting_that_is_away_is_a_problem_where_snakemake_asks_it(
    cluster: Site,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    age: int,
    status_command: str,
    kind: str,
    state: str,
) -> None:
    profile = read_profile(str(profile_of(tmp_path, **{"slurm-status-command": status_command})))
    for name in ("sacct", "sacctmgr"):
        program(tmp_path, name, "echo 'Connection refused' >&2; exit 1")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    told = {"MinJobAge": f"{age} sec", "AccountingStorageType": f"accounting_storage/{kind}"}
    site = dataclasses.replace(cluster, configuration=told)
    assert states(slurm.accounting(site, profile, []))["accounting"] == state


def program(folder: Path, name: str, script: str) -> None:
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


@pytest.mark.parametrize(
    ("complaint", "state"),
    [
        ("job 7 queued and waiting for resources", "not checked"),
        (
            "job 7 queued and waiting for resources\nsrun: job 7 has been allocated resources",
            "problem",
        ),
        ("job 7 has been allocated resources\nslurmstepd: slow", "problem"),
    ],
)
def test_a_job_that_has_started_is_told_from_one_that_waits(
    tmp_path: Path,
    study: Study,
    monkeypatch: pytest.MonkeyPatch,
    complaint: str,
    state: str,
) -> None:
    program(
        tmp_path,
        "srun",
        f"echo 'srun: {complaint}' >&2; echo $@ > {tmp_path}/options; cat > /dev/null",
    )
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(node, "_QUEUE_S", 0)
    monkeypatch.setattr(node, "_START_S", 0.5)
    profile = read_profile(str(profile_of(tmp_path)))
    (found,) = node.examine(profile, [GOOD], study, tmp_path / "results")
    assert found.state == state
    # Longer than all that is waited for in a job that answers late.
    assert "--time=15 " in (tmp_path / "options").read_text()


def test_settings_for_starting_again(cluster: Site, tmp_path: Path) -> None:
    profile = read_profile(str(profile_of(tmp_path)))
    found = states(settings(cluster, profile, [GOOD]))
    assert found["requeueing"] == found["preemption"] == found["KillWait"] == "ok"
    suspending = dataclasses.replace(GOOD, partitions=("broken",))
    never = dataclasses.replace(cluster, configuration={"JobRequeue": "0"})
    found = states(settings(never, profile, [suspending]))
    assert found["requeueing"] == found["preemption"] == "warning"


def test_without_slurm_its_checks_are_one_line(
    tmp_path: Path, study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    profile = read_profile(str(profile_of(tmp_path)))
    requests = profile.requests(study)
    monkeypatch.setenv("PATH", str(tmp_path))
    first, rest = slurm.examine(profile, requests)
    assert (first.state, rest.state) == ("problem", "not checked")
    assert "sbatch" in first.found


# The profile


def test_the_profile_of_the_repository_says_all_that_slurm_needs() -> None:
    rules = "".join(path.read_text() for path in (ROOT / "workflow" / "rules").glob("*.smk"))
    blocks = re.findall(
        r"^(?:use rule \w+ as|rule) (\w+)(?: with)?:\n((?:(?: .*)?\n)+)", rules, re.MULTILINE
    )
    assert {name for name, text in blocks if "localrule: True" not in text} == set(SUBMITTED)
    profile = read_profile(str(ROOT / "slurm"))
    assert profile.slurm
    assert profile.configuration["scale"] == "paper"
    assert set(SUBMITTED) <= profile.options["set-resources"].keys()
    found = profile.requests(load("paper"))
    assert {request.rule for request in found} == {"train", "theory"}
    for request in found:
        assert request.partitions
        assert request.minutes
        assert request.memory_mb
        assert not request.evaluated
    trained = {request.gpus: request for request in found if request.rule == "train"}
    assert trained.keys() == {1, 4}
    per_gpu = profile.options["set-resources"]["train"]["cpus_per_gpu"]
    assert all(request.cores == gpus * per_gpu for gpus, request in trained.items())


def test_a_profile_may_be_written_as_mappings_or_as_lists(
    tmp_path: Path, study: Study, alone: Study
) -> None:
    mapping = profile_of(
        tmp_path,
        config={"gpus_per_node": 2},
        **{
            "default-resources": {"slurm_partition": "main", "runtime": 45, "mem_mb": 4000},
            "set-threads": {"train": 6, "train_on_nodes": 3},
            "set-resources": {
                "train": {"slurm_partition": "a,b", "runtime": "1d", "mem": "16GB"},
                "train_on_nodes": {"slurm_partition": "c", "mem": "8GB", "qos": "long"},
            },
        },
    )
    asked = read_profile(str(mapping)).requests(study)
    assert asked == [
        # Four GPUs, which the scale asks for, are those of two nodes.
        Request("train_on_nodes", ("c",), 60, 8000, 3, 2, qos="long", nodes=2),
        # What a rule says itself stands over the defaults.
        Request("theory", ("main",), THEORY_MINUTES, THEORY_MB),
    ]
    asked = read_profile(str(mapping)).requests(alone)
    assert asked[0] == Request("train", ("a", "b"), 1440, 16_000, 6, 1)
    listed = profile_of(
        tmp_path,
        config=["gpus_per_node=2"],
        **{
            "default-resources": ["slurm_partition=main", "runtime=45", "mem_mb=4000"],
            "set-threads": ["train=6", "train_on_nodes=3"],
            "set-resources": [
                *("train:slurm_partition=a,b", "train:runtime=1d", "train:mem=16GB"),
                *("train_on_nodes:slurm_partition=c", "train_on_nodes:mem=8GB"),
                "train_on_nodes:qos=long",
            ],
        },
    )
    for which in (study, alone):
        expected = read_profile(str(mapping)).requests(which)
        assert read_profile(str(listed)).requests(which) == expected


@pytest.mark.parametrize(
    ("train", "cores"),
    [
        ({}, 6),
        ({"cpus_per_gpu": 2}, 8),
        ({"cpus_per_gpu": 2, "cpus_per_task": 5}, 5),
        ({"cpus_per_gpu": -1}, 1),
        ({"cpus_per_task": -1, "cpus_per_gpu": 2}, 1),
    ],
)
def test_cores_in_the_order_of_the_executor(
    tmp_path: Path, study: Study, train: dict[str, int], cores: int
) -> None:
    from snakemake_executor_plugin_slurm_jobstep import get_cpu_setting

    file = profile_of(tmp_path, **{"set-threads": {"train": 6}, "set-resources": {"train": train}})
    request, _ = read_profile(str(file)).requests(study)
    assert request.cores == cores
    option, _, value = get_cpu_setting(
        SimpleNamespace(threads=6, resources=Named(train)), True
    ).partition("=")
    per_task = int(value or 1) * (request.gpus if option == "--cpus-per-gpu" else 1)
    assert per_task == cores


class Named(dict[str, Any]):
    """Resources as Snakemake has them: items that are attributes, too."""

    __getattr__ = dict.__getitem__


def test_a_pack_asks_for_as_much_as_its_runs(tmp_path: Path, alone: Study) -> None:
    file = profile_of(tmp_path, config={"pack": 2}, **{"default-resources": {"runtime": 1}})
    packed, _ = read_profile(str(file)).requests(alone)
    assert packed == Request("pack", (), 2 * TRAIN_MINUTES, 2 * TRAIN_MB, gpus=1)


GOOD_OPTIONS = {
    "config": {"slurm_extra": "--signal=USR1@120 --open-mode=append"},
    "set-resources": {"train": {"gpu_model": "a100"}},
    "retries": 14,
    "keep-going": True,
    "nolock": True,
    "rerun-incomplete": True,
    "rerun-triggers": ["mtime", "params", "input"],
}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, {"profile": "ok"}),
        ({"set-resources": {"pack": {}}}, {"set-resources: train": "problem"}),
        (
            {"set-resources": {"train": {"gpu_model": "nvidia_a100-sxm4-80gb"}}},
            {"gpu_model of train": "problem"},
        ),
        ({"set-resources": {"train": {"gres": "gpu:a100:1"}}}, {"gres of train": "problem"}),
        ({"set-resources": {"train": {"gres": "lustre:1"}}}, {"profile": "ok"}),
        (
            {"config": {"slurm_extra": "--open-mode=append"}},
            {"slurm_extra: --signal": "warning"},
        ),
        (
            {"config": {"slurm_extra": "--signal=USR1@60"}},
            {"slurm_extra: --open-mode": "warning"},
        ),
        (
            {"config": {}},
            dict.fromkeys(
                ("slurm_extra", "slurm_extra: --signal", "slurm_extra: --open-mode"), "warning"
            ),
        ),
        (
            {"config": {"slurm_extra": "--signal=USR1@60 --open-mode=append --mem=4G"}},
            {"slurm_extra: memory": "problem"},
        ),
        ({"retries": 0}, {"retries": "warning"}),
        ({"keep-going": None}, {"keep-going": "warning"}),
        ({"nolock": None}, {"nolock": "warning"}),
        ({"rerun-incomplete": False}, {"rerun-incomplete": "warning"}),
        ({"rerun-triggers": ["mtime", "code"]}, {"rerun-triggers": "warning"}),
    ],
)
def test_what_the_executor_and_restarts_rely_on(
    tmp_path: Path, study: Study, changes: dict[str, Any], expected: dict[str, str]
) -> None:
    profile = read_profile(str(profile_of(tmp_path, **GOOD_OPTIONS | changes)))
    found = list(options.examine(profile, profile.requests(study)))
    assert states(found) == expected
    assert all(finding.remedy for finding in found if finding.state != "ok")


def test_options_that_are_absent_are_told(tmp_path: Path, study: Study) -> None:
    profile = read_profile(str(profile_of(tmp_path)))
    found = states(list(options.examine(profile, profile.requests(study))))
    for check in ("retries", "keep-going", "nolock", "rerun-incomplete", "rerun-triggers"):
        assert found[check] == "warning"
    mine = read_profile(str(ROOT / "slurm"))
    assert states(list(options.examine(mine, mine.requests(load("paper"))))) == {"profile": "ok"}


@pytest.mark.parametrize(
    "kind", ["a100", "nvidia_a100_80gb", "2g.10gb", "nvidia_a100-sxm4-80gb", "h100 pcie"]
)
def test_types_of_gpus_that_the_executor_takes(kind: str) -> None:
    from snakemake_executor_plugin_slurm.utils import set_gres_string
    from snakemake_interface_common.exceptions import WorkflowError

    takes = True
    try:
        set_gres_string(SimpleNamespace(resources={"gpu": 1, "gpu_model": kind}))
    except WorkflowError:
        takes = False
    assert bool(GPU_MODEL.fullmatch(kind)) == takes


@pytest.mark.parametrize(
    ("resources", "gpus", "kind"),
    [
        ({"gpu": 2, "nodes": 1}, 2, None),
        ({"gpu": 1, "gpu_model": "a100", "nodes": 1}, 1, "a100"),
    ],
)
def test_ways_to_ask_for_gpus(
    tmp_path: Path, study: Study, resources: dict[str, Any], gpus: int, kind: str | None
) -> None:
    file = profile_of(tmp_path, **{"set-resources": {"train": resources}})
    train, _ = read_profile(str(file)).requests(study)
    assert (train.gpus, train.gpu_type) == (gpus, kind)
    assert f"--gpus={f'{kind}:' if kind else ''}{gpus}" in train.options()


def test_expressions_are_left_to_snakemake(tmp_path: Path, study: Study, cluster: Site) -> None:
    file = profile_of(tmp_path, **{"set-resources": {"theory": {"runtime": "60 * attempt"}}})
    _, theory = read_profile(str(file)).requests(study)
    assert theory.evaluated == ("runtime: 60 * attempt",)
    assert "not checked" in states(judge(cluster, [theory])).values()


@pytest.mark.parametrize(
    ("options", "minutes"),
    [
        ({}, 40),
        ({"group-components": ["theory=100"]}, 80),
        ({"group-components": {"theory": 100}}, 80),
        ({"group-components": ["theory=1", "other=100"]}, 40),
    ],
)
def test_the_theory_s_one_job_asks_for_the_time_of_all_its_experiments(
    tmp_path: Path, study: Study, options: dict[str, Any], minutes: int
) -> None:
    file = profile_of(tmp_path, **{"set-resources": {"theory": {"runtime": 40}}, **options})
    _, theory = read_profile(str(file)).requests(study)
    assert theory.minutes == minutes


def test_mistakes_in_a_profile_are_named(tmp_path: Path, study: Study) -> None:
    with pytest.raises(ConfigError, match="'nowhere' is no profile"):
        read_profile("nowhere")
    file = profile_of(tmp_path, **{"set-threads": {"train": "many"}})
    with pytest.raises(ConfigError, match="set-threads: train: 'many'"):
        read_profile(str(file)).requests(study)
    file.write_text("- a\n- b\n")
    with pytest.raises(ConfigError, match="mapping of options"):
        read_profile(str(file))


# Files


@pytest.mark.usefixtures("short_heartbeat")
def test_what_one_process_has_taken_is_refused_to_another(tmp_path: Path) -> None:
    with peer() as other:
        found = list(storage.locking(tmp_path / "locks", other))
    assert states(found) == dict.fromkeys(
        ("exclusive creation", "hard links", "flock", "lease of a run"), "ok"
    )


def test_two_processes_see_the_files_of_each_other(tmp_path: Path) -> None:
    with peer() as other:
        (seen,) = storage.visibility(tmp_path, other, wait_s=60, node="here")
    assert seen.state == "ok"


def test_a_wait_shorter_than_the_delay_is_a_problem(tmp_path: Path) -> None:
    with peer() as other:
        (seen,) = storage.visibility(tmp_path, other, wait_s=0, node="here")
    assert seen.state == "problem"
    assert "latency-wait" in seen.remedy


def test_a_file_that_is_never_seen_is_a_problem_however_long_snakemake_waits() -> None:
    for out, home in ((None, 0.1), (0.1, None)):
        found = storage.seen_finding("same folder", out, home, wait_s=300)
        assert found.state == "problem"
    assert storage.seen_finding("same folder", 99.0, 0.1, wait_s=300).state == "ok"


@pytest.mark.usefixtures("short_heartbeat")
def test_each_lock_is_tried_though_the_other_side_refuses_the_one_before(tmp_path: Path) -> None:
    with peer(("sh", "-c", "exit 1", "sh")) as gone:
        here = list(storage.locking(tmp_path / "here", gone))
        across = list(storage.locking(tmp_path / "across", gone, " with n1"))
    checks = ("exclusive creation", "hard links", "flock", "lease of a run")
    assert states(here) == dict.fromkeys(checks, "problem")
    assert states(across) == {
        f"{check} with n1": "warning" if check == "flock" else "problem" for check in checks
    }


def test_latency_and_clock_of_a_real_folder(tmp_path: Path) -> None:
    (speed,) = storage.latency(tmp_path)
    median, worst = (float(n) for n in re.findall(r"([\d.e+]+) ms", speed.found))
    assert 0 < median <= worst
    (clock,) = storage.file_clock(tmp_path)
    assert clock.state == "ok"
    assert storage.clock_finding("clock", -30.0, "its clock").state == "warning"


def test_a_disk_of_this_host_is_no_place_for_the_results_of_nodes(tmp_path: Path) -> None:
    (alone,) = storage.kind(tmp_path, nodes=False)
    assert alone.state == "ok"
    (shared,) = storage.kind(tmp_path, nodes=True)
    told = subprocess.run(
        ["stat", "--file-system", "--format=%T", tmp_path], capture_output=True, text=True
    ).stdout.strip()
    local = {"ext2/ext3": "ext4", "overlayfs": "overlay"}.get(told, told)
    assert shared.state == ("warning" if local in storage.LOCAL else "ok")


def test_trying_leaves_nothing_behind(tmp_path: Path) -> None:
    with storage.scratch(tmp_path / "new" / "results") as folder:
        assert folder.is_dir()
    assert not list(tmp_path.iterdir())


def test_space_is_compared_with_what_is_still_to_be_written(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    costs = {name: forecast(run).storage for name, run in study.runs.items()}
    total = sum(cost.kept for cost in costs.values())
    extra = max(cost.training - cost.kept for cost in costs.values())

    def state(free: int) -> str:
        monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=free))
        (found,) = storage.space(study, tmp_path / "results", jobs=1)
        return found.state

    assert state(total + extra) == "ok"
    assert state(total + extra - 1) == "problem"
    done = min(study.runs, key=lambda name: costs[name].training - costs[name].kept)
    folder = tmp_path / "results" / "examined" / "runs" / done
    folder.mkdir(parents=True)
    (folder / RESULT).write_text(json.dumps({"schema": SCHEMA, "status": "finished"}))
    assert state(total + extra - costs[done].kept) == "ok"
    (folder / RESULT).write_text(json.dumps({"schema": SCHEMA, "status": "failed"}))
    assert state(total + extra - 1) == "problem"


def test_without_slurm_as_many_runs_are_made_at_once_as_there_are_cores(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    costs = [forecast(run).storage for run in study.runs.values()]
    most = sorted(cost.training - cost.kept for cost in costs)[-2:]
    free = sum(cost.kept for cost in costs) + sum(most)
    for room, state in ((free, "ok"), (free - 1, "problem")):
        monkeypatch.setattr(
            shutil, "disk_usage", lambda path, room=room: SimpleNamespace(free=room)
        )
        assert states(examine(None, study, tmp_path / "results"))["free space"] == state


# Other processes


def test_a_peer_behind_a_talkative_login_answers() -> None:
    greeting = ("sh", "-c", 'echo Welcome; echo 7; exec "$@"', "sh")
    with peer(greeting) as other:
        assert other.ask(who)["python"] == ".".join(map(str, sys.version_info[:3]))


def test_a_peer_that_cannot_start_says_why() -> None:
    with (
        peer(("sh", "-c", "echo no such node >&2; exit 1", "sh")) as other,
        pytest.raises(UnansweredError, match="no such node"),
    ):
        other.ask(who)


def test_a_late_answer_is_not_taken_for_the_next_one(tmp_path: Path) -> None:
    with peer() as other:
        other.put(wait_for, path=str(tmp_path / "late"))
        with pytest.raises(UnansweredError, match="no answer in time"):
            other.answer(0.0)
        (tmp_path / "late").touch()
        assert other.ask(exists, path=str(tmp_path / "none")) is False
        with pytest.raises(UnansweredError, match="FileNotFoundError"):
            other.ask(create, path=str(tmp_path / "none" / "none"))


def test_no_command_hangs_and_no_failure_is_a_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(findings, "COMMAND_S", 0.1)
    for command in (("sleep", "60"), ("false",), ("no-such-program",)):
        (found,) = guarded("it", lambda command=command: [ask(*command)])  # type: ignore[misc]
        assert found.state == "problem"
        assert command[0] in found.found
    (found,) = guarded("it", lambda: [Finding("x", "ok", str(1 / 0))])
    assert "ZeroDivisionError" in found.found


# The rest


class Server(BaseHTTPRequestHandler):
    """Lets one user ask for experiments, as MLflow with authentication does."""

    def do_GET(self) -> None:
        login = base64.b64encode(b"user:sec/ret@1").decode()
        allowed = self.headers["Authorization"] == f"Basic {login}"
        if self.path.startswith("/proxy"):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"<html>Who are you?</html>")
            return
        there = self.path.startswith("/api/2.0/mlflow/experiments/search?")
        self.send_response(200 if allowed and there else 401 if there else 404)
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), Server) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{http.server_port}"
        http.shutdown()


@pytest.mark.parametrize(
    ("uri", "state", "said"),
    [
        ("http://user:sec%2Fret%401@{server}", "ok", "lets you in"),
        ("http://user:sec%2Fret%401@{server}/proxy", "problem", "not as MLflow does"),
        ("http://user:wrongword@{server}", "problem", "refuses the credentials"),
        ("http://{server}", "problem", "refuses the credentials"),
        ("http://user:sec%2Fret%401@{server}/elsewhere", "problem", "404"),
        ("http://user:secret@127.0.0.1:1", "problem", "no server answers"),
        ("postgresql://user:secret@127.0.0.1/mlflow", "not checked", "database"),
        ("", "ok", "mlflow.db"),
    ],
)
def test_the_tracking_server_is_asked_and_no_password_is_shown(
    server: str,
    uri: str,
    state: str,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for key in ("USERNAME", "PASSWORD", "TOKEN"):
        monkeypatch.delenv(f"MLFLOW_TRACKING_{key}", raising=False)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri.format(server=server))
    (found,) = tracking(tmp_path)
    assert found.state == state
    assert said in found.found
    text = "".join(show([found]))
    assert "secret" not in text
    assert "ret@1" not in text
    assert "%401" not in text
    assert "wrongword" not in text


def test_the_credentials_of_the_environment_count(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://{server}")
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "user")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "sec/ret@1")
    assert [finding.state for finding in tracking(tmp_path)] == ["ok"]


def test_the_credentials_in_mlflows_own_file_count(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key in ("USERNAME", "PASSWORD", "TOKEN"):
        monkeypatch.delenv(f"MLFLOW_TRACKING_{key}", raising=False)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://{server}")
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".mlflow").mkdir()
    file = tmp_path / ".mlflow" / "credentials"
    for word, state in (("sec/ret@1", "ok"), ("another", "problem")):
        file.write_text(
            f"[mlflow]\nmlflow_tracking_username = user\nmlflow_tracking_password = {word}\n"
        )
        assert [finding.state for finding in tracking(tmp_path)] == [state]


def test_other_versions_than_tested_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (found,) = packages(("suite", "slurm"))
    assert found.state == "ok"
    other = tmp_path / "constraints.txt"
    other.write_text("# tested\nclick==0.1\n")
    monkeypatch.setattr(environment, "CONSTRAINTS", other)
    (found,) = packages(("suite",))
    assert found.state == "warning"
    assert "(tested: 0.1)" in found.found


def test_a_build_for_cpus_does_not_do_for_gpus() -> None:
    import torch

    (found,) = torch_build(gpus=True)
    assert (found.state == "problem") == (torch.version.cuda is None)
    (found,) = torch_build(gpus=False)
    assert found.state == "ok"


def test_each_missing_data_set_is_a_problem_with_its_remedy(study: Study) -> None:
    missing = [
        "x.yaml: tasks.a.dataset: dataset: imagenet was found in none of data; set ACDC_DATA"
    ]
    (found,) = data(study, missing)
    assert (found.state, found.remedy) == ("problem", "set ACDC_DATA")
    (found,) = data(study, [])
    assert "digits" in found.found


def doctor(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    outside = {"ACDC_DATA", "MLFLOW_TRACKING_URI"}
    return subprocess.run(
        [sys.executable, "-m", "acdc", "doctor", *map(str, arguments)],
        cwd=ROOT,
        env={key: value for key, value in os.environ.items() if key not in outside},
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_the_command_on_a_host_without_slurm(scale: Path, tmp_path: Path) -> None:
    results = tmp_path / "results"
    done = doctor("--profile", "none", "--scale", scale, "--results", results, "--node", "--json")
    assert done.returncode == 0, done.stderr
    found = {finding["check"]: finding["state"] for finding in json.loads(done.stdout)}
    assert found["SLURM"] == found["nodes"] == "not checked"
    for check in ("results folder", "lease of a run", "free space", "data sets", "Python packages"):
        assert found[check] == "ok"
    assert not results.exists()


def test_a_problem_is_told_with_its_remedy_and_ends_with_status_1(
    scale: Path, tmp_path: Path
) -> None:
    blocked = tmp_path / "file"
    blocked.touch()
    done = doctor("--profile", "none", "--scale", scale, "--results", blocked / "results")
    assert done.returncode == 1
    assert "error: 1 problem: results folder" in done.stderr
    assert "results folder: problem: give a folder that you can write to" in done.stdout
