"""Studies as data: what a scale resolves to, and what is refused."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from acdc.errors import ConfigError
from acdc.method import method_names
from tests.workflow.conftest import ROOT, TINY
from workflow import study as studies
from workflow.study import FOLDER, Study, load

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
    for method in ("acdc", "gmp", "rigl", "top_kast"):
        cells = {(run.sparsity, run.seed) for run in runs if run.method == method}
        assert cells >= {(s, seed) for s in (0.8, 0.9, 0.95) for seed in (1, 2, 3)}
    assert {run.seed for run in runs if run.method == "dense"} == {1, 2, 3}


def test_every_method_is_in_some_experiment_but_the_one_that_cannot_be_told_a_sparsity() -> None:
    shown = {run.method for run in load("smoke").runs.values()}
    assert shown == set(method_names()) - {"str"}


def test_a_run_that_several_experiments_share_is_trained_once() -> None:
    study = load("smoke")
    rows = [row for e in study.experiments for row in e["rows"] if row["method"] == "dense"]
    assert len(rows) > 1
    assert len({tuple(row["runs"]) for row in rows}) == 1


@pytest.mark.parametrize("scale", SCALES)
def test_all_methods_of_a_table_have_the_same_recipe_and_the_epochs_of_their_row(
    scale: str,
) -> None:
    study = load(scale)
    for experiment in study.experiments:
        rows = experiment["rows"]
        runs = [(study.runs[name], row) for row in rows for name in row["runs"]]
        assert len({(run.recipe, run.model, run.dataset) for run, _ in runs}) <= 1
        assert all(run.epochs == row["epochs"] for run, row in runs)
        longer = {row["label"] for row in rows if row["epochs"] != experiment["task"]["epochs"]}
        assert all(re.search(r"\dx", label) for label in longer)


@pytest.fixture
def extended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[float], Study]:
    """Return a function that resolves a table of 20 epochs, one row of which trains longer."""
    (tmp_path / "experiments").mkdir()
    monkeypatch.setattr(studies, "FOLDER", tmp_path)

    def resolve(extend: float) -> Study:
        experiment = {
            "id": "longer",
            "kind": "accuracy_table",
            "title": "Longer",
            "caption": "Longer.",
            "task": "imagenet-resnet50",
            "sparsities": [0.9],
            "rows": [
                {"label": "RigL", "method": "rigl"},
                {"label": "RigL more", "method": "rigl", "extend": extend},
                {"label": "One-shot more", "method": "one_shot", "extend": extend},
            ],
        }
        (tmp_path / "experiments" / "longer.yaml").write_text(yaml.safe_dump(experiment))
        scale = yaml.safe_load(TINY.read_text()) | {"experiments": ["longer"], "sparsities": {}}
        (tmp_path / "edited.yaml").write_text(yaml.safe_dump(scale))
        (tmp_path / "scales").mkdir(exist_ok=True)
        return load(str(tmp_path / "edited.yaml"))

    return resolve


@pytest.mark.parametrize(("extend", "epochs"), [(2, 40), (5.0, 100), (0.5, 10), (1.15, 23)])
def test_a_row_may_train_a_multiple_of_the_tasks_epochs(
    extend: float, epochs: int, extended: Callable[[float], Study]
) -> None:
    study = extended(extend)
    (experiment,) = study.experiments
    plain, longer, one_shot = experiment["rows"]
    assert experiment["task"]["epochs"] == plain["epochs"] == 20
    assert longer["epochs"] == one_shot["epochs"] == epochs
    assert [study.runs[name].epochs for name in longer["runs"]] == [epochs]
    parent = study.parent(one_shot["runs"][0])
    assert parent is not None
    assert study.runs[parent].epochs == epochs


@pytest.mark.parametrize(
    ("extend", "message"),
    [
        (1.33, r"row 'RigL more': extend: 1.33 times the task's 20 epochs is 26.6, and epochs are "
         r"not rounded; 1.3 \(26 epochs\) and 1.35 \(27 epochs\) are accepted$"),
        (0.01, r"extend: 0.01 times .* is 0.2, .*; 0.05 \(1 epoch\) is accepted$"),
        (0, r"rows.1.extend: got 0; more than 0.0 is accepted"),
    ],
)  # fmt: skip
def test_a_row_that_would_not_train_whole_epochs_is_refused(
    extend: float, message: str, extended: Callable[[float], Study]
) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        extended(extend)
    assert "\n" not in str(caught.value)


def test_a_run_that_starts_from_another_brings_it_along(edited: Callable[..., str]) -> None:
    study = load(edited(experiments=["table5"]))
    for name, run in study.runs.items():
        parent = study.parent(name)
        assert (parent is not None) == (run.method == "one_shot")
        if parent:
            assert study.runs[parent].seed == run.seed


def test_the_measure_of_progress_counts_the_epochs_that_a_run_trains_itself() -> None:
    study = load("smoke")
    images = {study.runs[name].method: count for name, count in study.images.items()}
    assert images["dense"] == images["woodfisher"] == 20 * 4000
    assert images["one_shot"] == 0


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
