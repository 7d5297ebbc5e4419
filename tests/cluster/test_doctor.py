"""``acdc doctor`` on a real SLURM: what it can carry out, what it cannot, and a job on a node."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

import acdc.run.lease
from study.model import Study, load
from workflow.doctor import node, slurm, storage
from workflow.doctor.findings import Finding, guarded
from workflow.doctor.peer import peer
from workflow.doctor.profile import Profile, Request, read_profile

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("cluster")]

TINY = Path(__file__).parents[1] / "workflow" / "tiny.yaml"
TRAIN = {
    "slurm_partition": "gpu",
    "runtime": 60,
    "mem_mb": 2000,
    "gpu_model": "a100",
    "cpus_per_gpu": 2,
}


@pytest.fixture(scope="module")
def study() -> Study:
    return load(str(TINY))


def asked(folder: Path, study: Study, **train: Any) -> tuple[Profile, list[Request]]:
    file = folder / "site.yaml"
    options = {
        "executor": "slurm",
        "latency-wait": 30,
        "slurm-status-command": "squeue",
        "default-resources": {"slurm_partition": "main", "runtime": 30, "mem_mb": 1000},
        "set-resources": {"train": TRAIN | train},
    }
    file.write_text(yaml.safe_dump(options))
    profile = read_profile(str(file))
    return profile, profile.requests(study)


def problems(found: list[Finding]) -> list[str]:
    return [finding.found for finding in found if finding.state == "problem"]


def test_a_good_profile_passes(tmp_path: Path, study: Study) -> None:
    found = list(slurm.examine(*asked(tmp_path, study)))
    assert not problems(found)
    states = {finding.check: finding.state for finding in found}
    for check in ("train, 1 GPU on partition gpu", "theory on partition main", "accounting"):
        assert states[check] == "ok"


@pytest.mark.parametrize(
    ("train", "said"),
    [
        ({"slurm_partition": "night"}, "there is no such partition"),
        ({"runtime": "2d"}, "runtime 2880 min is asked for, 1440 min are allowed"),
        ({"gpu_model": "h100"}, "1 h100 are asked for on a node, nodes have 2 a100"),
        ({"gpu": 3, "cpus_per_gpu": 1}, "3 a100 are asked for on a node, nodes have 2 a100"),
        ({"mem_mb": 64001}, "64001 MB of memory are asked for, a node has 64000 at most"),
        ({"cpus_per_gpu": 17}, "17 cores are asked for, a node has 16 at most"),
        ({"slurm_account": "nobody"}, "SLURM does not know it as yours"),
    ],
)
def test_what_the_cluster_cannot_carry_out_is_named(
    tmp_path: Path, study: Study, train: dict[str, Any], said: str
) -> None:
    assert problems(list(slurm.examine(*asked(tmp_path, study, **train)))) == [said]


def test_a_controller_that_is_down(
    tmp_path: Path, study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = Path(os.environ["SLURM_CONF"]).read_text()
    elsewhere = tmp_path / "slurm.conf"
    elsewhere.write_text(re.sub(r"(?m)^SlurmctldPort=.*", "SlurmctldPort=1", text))
    monkeypatch.setenv("SLURM_CONF", str(elsewhere))
    *_, controller, rest = guarded("SLURM", lambda: slurm.examine(*asked(tmp_path, study)))
    assert (controller.check, controller.state) == (slurm.CONTROLLER, "problem")
    assert rest.state == "not checked"


def test_a_job_on_each_partition_looks_from_its_node(
    tmp_path: Path, study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(acdc.run.lease, "_HEARTBEAT_S", 0.1)
    profile, requests = asked(tmp_path, study)
    found = list(node.examine(profile, requests, study, tmp_path / "results"))
    states = {re.sub(r" n\d", " a node", finding.check): finding.state for finding in found}
    # The GPUs of this cluster are none to torch.
    assert states.pop("torch on a node, partition gpu") == "problem"
    assert set(states.values()) == {"ok"}
    for check in (
        *("a job on partition gpu", "a job on partition main", "clock of a node"),
        *("same folder on a node", "lease of a run with a node", "data sets on a node"),
    ):
        assert check in states
    assert not (tmp_path / "results").exists()


def test_a_job_that_slurm_refuses_is_a_line(tmp_path: Path, study: Study) -> None:
    profile, requests = asked(tmp_path, study, slurm_partition="night")
    train, *_ = list(node.examine(profile, requests, study, tmp_path / "results"))
    assert train.state == "problem"
    assert "Invalid partition name" in train.found


def test_a_node_with_another_folder_at_the_same_path(tmp_path: Path) -> None:
    hidden = ("unshare", "--mount", "sh", "-c", 'mount -t tmpfs none "$0" && exec "$@"')
    folder = tmp_path / "folder"
    folder.mkdir()
    with peer((*hidden, str(tmp_path))) as other:
        (found,) = storage.visibility(folder, other, wait_s=60, node="elsewhere")
    assert found.state == "problem"
    assert "not the same folder" in found.found


def test_locks_that_do_not_reach_the_other_side(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(acdc.run.lease, "_HEARTBEAT_S", 0.1)
    locks = tmp_path / "locks"
    # The same path on a file system of its own, with files of the same names.
    script = 'mount -t tmpfs none "$0" && mkdir "$0/locks" && touch "$0/locks/source" && exec "$@"'
    with peer(("unshare", "--mount", "sh", "-c", script, str(tmp_path))) as other:
        found = list(storage.locking(locks, other, " elsewhere"))
    states = {finding.check.removesuffix(" elsewhere"): finding.state for finding in found}
    assert states == {
        "exclusive creation": "problem",
        "hard links": "problem",
        "flock": "warning",
        "lease of a run": "problem",
    }
