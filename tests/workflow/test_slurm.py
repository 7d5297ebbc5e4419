"""The jobs of a study in SLURM's queue."""

from __future__ import annotations

from pathlib import Path

import pytest

from acdc.errors import ConfigError
from workflow.slurm import after, job_name, nodes, read_queue

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
