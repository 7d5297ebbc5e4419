"""Jobs of one machine share its GPUs; only the list of devices is faked."""

import itertools
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from acdc.errors import ConfigError
from tests.cluster.slurm import wait_until
from tests.workflow.conftest import ROOT, TINY, Workplace
from workflow import gpus


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        ("0,1", ["0", "1"]), (" 3 , GPU-5e2a ", ["3", "GPU-5e2a"]), ("MIG-a/1/0", ["MIG-a/1/0"]),
        ("0,-1,1", ["0"]), ("", []), ("-1", [])
    ],
)  # fmt: skip
def test_what_cuda_may_see(
    visible: str, expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert gpus.found() == expected


@pytest.mark.parametrize(
    ("script", "expected"),
    [("echo GPU-a; echo GPU-b", ["GPU-a", "GPU-b"]), ("exit 9", []), (None, [])],
)
def test_what_the_driver_lists(
    script: str | None, expected: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", f"{tmp_path}")
    if script is not None:
        (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "nvidia-smi").chmod(0o755)
    assert gpus.found() == expected


@pytest.mark.parametrize(("limit", "names"), [(None, "0,1,2"), (2, "0,1"), (3, "0,1,2")])
def test_a_number_of_gpus(limit: int | None, names: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2")
    monkeypatch.delenv(gpus.GPUS, raising=False)
    assert gpus.share(limit) == len(names.split(","))
    assert os.environ[gpus.GPUS] == names
    with pytest.raises(ConfigError, match="gpus=4: "):
        gpus.share(4)


def test_a_gpu_has_one_job_until_it_ends(tmp_path: Path) -> None:
    environment = {**os.environ, gpus.GPUS: "0,1", "TMPDIR": str(tmp_path)}

    def job(count: int, name: str) -> subprocess.Popen[str]:
        told = f"echo $CUDA_VISIBLE_DEVICES > {tmp_path}/{name}.new"
        line = f"{told}; mv {tmp_path}/{name}.new {tmp_path}/{name}; exec sleep 1000"
        command = [sys.executable, "-m", "workflow.gpus", str(count), "sh", "-c", line]
        return subprocess.Popen(command, cwd=ROOT, env=environment, text=True)

    def told(name: str) -> str:
        path = tmp_path / name
        wait_until(path.exists, name)
        return path.read_text().strip()

    jobs = [job(1, "a"), job(1, "b")]
    try:
        assert {told("a"), told("b")} == {"0", "1"}
        jobs += [job(1, "c"), job(2, "d")]
        with pytest.raises(TimeoutError):
            wait_until(lambda: (tmp_path / "c").exists() or (tmp_path / "d").exists(), "none", 1)
        # SIGKILL frees what the other two wait for.
        jobs[0].kill()
        assert told("c") == told("a")
        jobs[1].kill()
        jobs[2].kill()
        assert set(told("d").split(",")) == {"0", "1"}
    finally:
        for each in jobs:
            each.kill()
            each.wait()


@pytest.mark.slow
def test_runs_of_a_study_are_spread_over_the_gpus(workplace: Workplace) -> None:
    settings = (f"scale={TINY}", "pack=1", "gpus=2")
    done = workplace.run(
        *("snakemake", "--snakefile", str(ROOT / "Snakefile"), "-c4", "trained"),
        *("--config", *settings),
        CUDA_VISIBLE_DEVICES="6,7,8",
    )
    assert done.returncode == 0, done.stderr
    times: dict[str, list[tuple[float, float]]] = {}
    for log in (workplace.study / "logs" / "train").glob("*.attempts.log"):
        (name,) = re.findall(r"^GPU (\d+)$", log.read_text(), re.MULTILINE)
        run = workplace.study / "runs" / log.name.removesuffix(".attempts.log")
        began = (run / "provenance.json").stat().st_mtime
        times.setdefault(name, []).append((began, (run / "result.json").stat().st_mtime))
    assert times.keys() == {"6", "7"}
    for spans in times.values():
        assert all(one[1] <= two[0] for one, two in itertools.pairwise(sorted(spans)))
