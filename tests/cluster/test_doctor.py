"""``acdc doctor`` on a real SLURM: what it accepts, what it refuses, and a step on a node."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from study.resolve import load
from workflow import doctor
from workflow.probe import look_from
from workflow.site import Request, Site, plan

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("cluster")]

TINY = Path(__file__).parents[1] / "workflow" / "tiny.yaml"
TRAIN = {"slurm_partition": "gpu", "runtime": 60, "mem_mb": 2000, "gpu_model": "a100"}


def asked(folder: Path, **train: Any) -> tuple[Site, Request]:
    """Return a site, and what a training job asks for under its profile."""
    file = folder / "site.yaml"
    options = {
        "executor": "slurm",
        "jobs": 9,
        "latency-wait": 30,
        "default-resources": {"slurm_partition": "main", "runtime": 30, "mem_mb": 1000},
        "set-resources": {"train": TRAIN | train},
    }
    file.write_text(yaml.safe_dump(options))
    site = plan(str(file), scale=TINY)
    return site, next(request for request in site["requests"] if request["rule"] == "train")


@pytest.mark.parametrize(
    ("train", "status"),
    [
        ({}, "ok"),
        ({"slurm_partition": "gpu,main"}, "ok"),
        ({"slurm_account": "lab"}, "ok"),
        ({"slurm_partition": "night"}, "error"),
        ({"gpu_model": "h100"}, "error"),
        ({"gpu": 3}, "error"),
        ({"mem_mb": 64001}, "error"),
        ({"cpus_per_gpu": 17}, "error"),
        ({"constraint": "infiniband"}, "error"),
        ({"slurm_account": "nobody"}, "error"),
        # SLURM takes it and never starts it.
        ({"runtime": "2d"}, "error"),
    ],
)
def test_requests(tmp_path: Path, train: dict[str, Any], status: str) -> None:
    _, request = asked(tmp_path, **train)
    found = list(doctor.check_slurm([request]))
    assert found[0].status == "ok"
    assert ("error" in {check.status for check in found}) == (status == "error"), found


def test_a_step_on_a_node(tmp_path: Path) -> None:
    site, request = asked(tmp_path)
    found = list(doctor.check_node(request, site, load(str(TINY)), tmp_path / "results"))
    *others, torch = found
    assert [check.status for check in others] == ["ok"] * 3, found
    # The GPUs of this cluster are none to torch.
    assert torch.status == "error"
    assert not (tmp_path / "results").exists()


def test_a_step_that_slurm_refuses(tmp_path: Path) -> None:
    site, request = asked(tmp_path, slurm_partition="night")
    (found,) = doctor.check_node(request, site, load(str(TINY)), tmp_path / "results")
    assert found.status == "error"
    assert "artition" in found.message


def test_a_folder_of_the_same_name(tmp_path: Path) -> None:
    """Another file system is mounted there, in which files of the same names do not meet."""
    results = tmp_path / "results"
    hidden = 'mount -t tmpfs none "$0" && exec "$@"'
    facts = look_from(("unshare", "--mount", "sh", "-c", hidden, str(tmp_path)), [], results)
    assert doctor.check_latency(facts, 60.0).status == "error"
