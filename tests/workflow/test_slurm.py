"""The jobs of a study in SLURM's queue."""

import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from acdc.errors import ConfigError, Resumable
from tests.workflow.conftest import ROOT
from workflow import site
from workflow.slurm import Queue, after, job_name, nodes, read_queue

QUEUE = """\
11|acdc_0123_aaaa|rule_train_wildcards_resnet8_acdc_s90_seed1-01
12|acdc_0123_bbbb|rule_train_wildcards_resnet8_acdc_s90_seed1-01
13|acdc_0123_bbbb|rule_train_on_nodes_wildcards_resnet50_seed1-02
14|acdc_0123_bbbb|rule_theory_theory
15|acdc_4567_cccc|rule_train_wildcards_resnet8_acdc_s90_seed1-01
16|somebody|
"""


def test_jobs_by_folder_and_name() -> None:
    assert read_queue(QUEUE, "acdc_0123") == {
        "resnet8_acdc_s90_seed1-01": ["11", "12"],
        "resnet50_seed1-02": ["13"],
    }


def test_folders_have_names_that_the_executor_accepts(tmp_path: Path) -> None:
    names = {job_name(tmp_path / name) for name in ("one", "two")}
    assert len(names) == 2
    assert all(len(name) <= 50 and name.replace("_", "").isalnum() for name in names)


def test_a_job_waits_for_earlier_ones() -> None:
    assert after("--signal=USR1@120", []) == "--signal=USR1@120"
    expected = "--signal=USR1@120 --dependency=afterany:11:12"
    assert after("--signal=USR1@120", ["11", "12"]) == expected


def test_runs_take_as_few_nodes_as_hold_their_gpus_equally() -> None:
    assert nodes({"a": 1, "b": 4, "c": 8, "d": 6}, 4) == {"c": 2, "d": 2}
    with pytest.raises(ConfigError, match=r"gpus_per_node=4: .*5 GPUs"):
        nodes({"e": 5}, 4)


@pytest.mark.parametrize(
    ("squeue", "error"),
    [
        (None, ConfigError),
        ("echo squeue: error: Unable to contact slurm controller >&2; exit 1", Resumable),
        ("exit 1", Resumable),
        ("exit 0", None),
    ],
)
def test_a_slurm_that_is_not_there_ends_the_suite_before_its_first_job(
    squeue: str | None,
    error: type[Exception] | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    for name in ("sbatch", "squeue", "scancel") if squeue else ("scancel",):
        (tmp_path / name).write_text(f"#!/bin/sh\n{squeue}\n")
        (tmp_path / name).chmod(0o755)
    executor, queue = SimpleNamespace(run_uuid="theirs"), Queue("acdc_0123")
    if error is None:
        queue.begin(executor)
        assert executor.run_uuid.startswith("acdc_0123_")
    else:
        with pytest.raises(error, match="SLURM") as caught:
            queue.begin(executor)
        assert "\n" not in str(caught.value)
    # Another executor than SLURM's.
    queue.begin(SimpleNamespace())


@pytest.mark.slow
def test_the_cluster_profile_without_slurm(tmp_path: Path) -> None:
    """As on a laptop, with the programs that Snakemake itself needs."""
    programs = ("bash", "sh", "date", "env", "git", "ln", "mkdir", "rm", "which", "uname")
    for name in programs:
        (tmp_path / name).symlink_to(str(shutil.which(name)))
    config = ("--config", "scale=quick", f"results={tmp_path}/results")
    done = subprocess.run(
        [sys.executable, "-m", "snakemake", "trained", "--profile", "slurm", *config],
        cwd=ROOT,
        env={"PATH": str(tmp_path), "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == ConfigError.exit_status, done.stderr
    assert "error: executor=slurm: " in done.stderr
    assert "Traceback" not in done.stderr + done.stdout
    assert not (tmp_path / "results" / "quick" / "runs").exists()


def test_a_copied_profile_names_its_own_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "mine"
    shutil.copytree(ROOT / "workflow" / "profiles" / "slurm", copy)

    def is_local(profile: Path | str) -> bool:
        monkeypatch.chdir(ROOT)
        monkeypatch.setattr(sys, "argv", ["snakemake", "--profile", str(profile)])
        site.options.cache_clear()
        return site.is_local()

    with pytest.raises(ConfigError, match=f"configfile: .*{copy}/config.yaml"):
        is_local(copy)
    file = copy / "profile.v9+.yaml"
    text = file.read_text()
    file.write_text(text.replace("workflow/profiles/slurm/config.yaml", f"{copy}/config.yaml"))
    assert file.read_text() != text
    assert not is_local(copy)
    assert not is_local("slurm")
