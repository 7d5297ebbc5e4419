"""Which jobs train what, as SLURM's queue tells it."""

from __future__ import annotations

from pathlib import Path

import pytest

from acdc.errors import ConfigError
from workflow.slurm import after, job_name, nodes, read_queue

QUEUE = """\
11|acdc_0123_aaaa|rule_train_wildcards_resnet8_acdc_s90_seed1-01
12|acdc_0123_bbbb|rule_train_wildcards_resnet8_acdc_s90_seed1-01
13|acdc_0123_bbbb|rule_train_on_nodes_wildcards_resnet50_seed1-02
14|acdc_0123_bbbb|rule_pack_wildcards_resnet8_acdc_s90_seed1-01
15|acdc_0123_bbbb|rule_theory_theory
16|acdc_4567_cccc|rule_train_wildcards_resnet8_acdc_s90_seed1-01
17|somebody|
"""


def test_jobs_are_told_apart_by_folder_run_and_whether_they_train_a_pack() -> None:
    assert read_queue(QUEUE, "acdc_0123") == {
        "resnet8_acdc_s90_seed1-01": ["11", "12"],
        "resnet50_seed1-02": ["13"],
        "pack resnet8_acdc_s90_seed1-01": ["14"],
    }


def test_two_folders_have_two_names_that_the_executor_accepts(tmp_path: Path) -> None:
    names = {job_name(tmp_path / name) for name in ("one", "two")}
    assert len(names) == 2
    for name in names:
        assert len(name) <= 50
        assert name.replace("_", "").isalnum()


def test_a_job_waits_for_those_before_it_and_keeps_the_options_of_the_site() -> None:
    assert after("--signal=USR1@120", []) == "--signal=USR1@120"
    expected = "--signal=USR1@120 --dependency=afterany:11:12"
    assert after("--signal=USR1@120", ["11", "12"]) == expected


def test_runs_take_as_few_nodes_as_hold_their_gpus_equally() -> None:
    assert nodes({"a": 1, "b": 4, "c": 8, "d": 6}, 4) == {"c": 2, "d": 2}
    with pytest.raises(ConfigError, match=r"gpus_per_node: 4: 5 GPUs .* on each of 2 nodes"):
        nodes({"e": 5}, 4)
