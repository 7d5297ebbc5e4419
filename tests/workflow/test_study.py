"""Studies as data: what a scale resolves to, and what is refused."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from acdc.errors import ConfigError
from tests.workflow.conftest import ROOT, TINY
from workflow.study import FOLDER, load

SCALES = sorted(path.stem for path in (FOLDER / "scales").glob("*.yaml"))


@pytest.fixture
def edited(tmp_path: Path) -> Callable[..., str]:
    """Return a function that writes the tiny scale with some keys changed."""

    def write(**changes: object) -> str:
        data = yaml.safe_load(TINY.read_text()) | changes
        path = tmp_path / "edited.yaml"
        path.write_text(yaml.safe_dump(data))
        return str(path)

    return write


@pytest.mark.parametrize("scale", SCALES)
def test_every_scale_resolves_and_every_row_has_its_runs(scale: str) -> None:
    study = load(scale)
    assert study.runs
    for experiment in study.experiments:
        for row in experiment["rows"]:
            assert len(row["runs"]) == len(set(row["runs"]))
            for name in row["runs"]:
                run = study.runs[name]
                assert (run.method, run.sparsity) == (row["method"], row["sparsity"])


def test_the_smoke_scale_has_five_methods_three_sparsities_three_seeds() -> None:
    runs = load("smoke").runs.values()
    methods = {run.method for run in runs} - {"dense", "one_shot"}
    assert methods >= {"acdc", "gmp", "rigl", "top_kast"}
    for method in methods:
        cells = {(run.sparsity, run.seed) for run in runs if run.method == method}
        assert cells >= {(s, seed) for s in (0.8, 0.9, 0.95) for seed in (1, 2, 3)}
    assert {run.seed for run in runs if run.method == "dense"} == {1, 2, 3}


def test_a_run_that_several_experiments_share_is_trained_once() -> None:
    study = load("smoke")
    rows = [row for e in study.experiments for row in e["rows"] if row["method"] == "dense"]
    assert len(rows) > 1
    assert len({tuple(row["runs"]) for row in rows}) == 1


def test_all_methods_of_a_table_have_the_same_recipe_and_epochs() -> None:
    runs = load("smoke").runs.values()
    assert len({(run.recipe, run.epochs, run.model, run.dataset) for run in runs}) == 1


def test_a_run_that_starts_from_another_brings_it_along(edited: Callable[..., str]) -> None:
    study = load(edited(experiments=["table5"]))
    for name, run in study.runs.items():
        parent = study.parent(name)
        assert (parent is not None) == (run.method == "one_shot")
        if parent:
            assert study.runs[parent].seed == run.seed


def test_one_more_seed_adds_runs_and_keeps_the_others(edited: Callable[..., str]) -> None:
    before = set(load(str(TINY)).runs)
    after = set(load(edited(seeds=[1, 2])).runs)
    assert before < after
    assert all(name.split("-")[-2].endswith("seed2") for name in after - before)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seedz": [1]}, r"seedz: unknown key; did you mean seeds\?"),
        ({"experiments": ["table9"]}, r"experiments: 'table9' is unknown; .*table1.* are accepted"),
        ({"tasks": {}}, r"task: scale tiny has nothing for 'cifar100-wrn28-10'"),
        ({"sparsities": {"table5": [1.0]}}, r"row '[^']+': sparsity: 1.0 .*\[0, 1\) is accepted"),
    ],
)
def test_a_wrong_scale_is_one_sentence(
    edited: Callable[..., str], changes: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        load(edited(**changes))
    assert "\n" not in str(caught.value)


def test_an_unknown_model_in_a_scale_names_the_row_and_what_is_accepted(
    edited: Callable[..., str],
) -> None:
    task = {"model": "resnet9", "dataset": "digits", "epochs": 20}
    path = edited(tasks={"imagenet-resnet50": task, "cifar100-wrn28-10": task})
    with pytest.raises(ConfigError, match=r"row 'Dense': model: 'resnet9' is unknown; .*resnet20"):
        load(path)


def test_an_unknown_scale_lists_those_there_are() -> None:
    with pytest.raises(ConfigError, match="'huge' is unknown; quick, small, smoke"):
        load("huge")


def test_conda_users_get_the_versions_that_were_tested() -> None:
    def normal(name: str) -> str:
        return re.sub(r"[-_.]+", "-", name).lower()

    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if "==" in line)
    pinned = {normal(name): version for name, version in pins.items()}
    conda = yaml.safe_load((ROOT / "environment.yml").read_text())
    packages = next(d["pip"] for d in conda["dependencies"] if isinstance(d, dict))
    assert packages
    for package in packages:
        name, version = package.split("==")
        assert pinned[normal(name)] == version, name
