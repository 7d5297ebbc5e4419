"""Scales, experiments and studies that are refused, by file and key."""

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from acdc.errors import ConfigError
from study.model import ReportError, read_study
from study.resolve import load
from tests.study.conftest import ACDC, RIGL, Resolve
from tests.workflow.conftest import TINY

known = cache(load)


# Folders of other scales and of what is beside them, and what cannot be a folder.
BAD_NAMES = [
    "paper", "laptop", "smoke", "quick", "small", "runs", "reference", "a" * 300, "../x", "a b", ""
]  # fmt: skip
SCALE_ERRORS: list[tuple[dict[str, Any], str]] = [
    ({"seedz": [1]}, "edited.yaml: seedz"),
    ({"experiments": ["table9"]}, "edited.yaml: experiments=table9: .*'table09'"),
    ({"experiments": ["table06"] * 2}, "experiments=table06: "),
    ({"experiments": []}, "edited.yaml: experiments, sparsities: "),
    ({"tasks": {}}, "table06.yaml: task=imagenet-resnet50: "),
    ({"sparsities": [1.0]}, "sparsities.0"),
    ({"seeds": [2, 2]}, "edited.yaml: seeds"),
    ({"max_extend": 0.5}, "edited.yaml: max_extend"),
    ({"overrides": [{"method": "acdcc"}]}, "overrides.0.method='acdcc': .*'acdc'"),
    ({"theory": {"t2_rat": {}}}, "edited.yaml: theory.t2_rat.*'t2_rate'"),
    ({"theory": {"t2_rate": {"trialz": 3}}}, "edited.yaml: theory.t2_rate: trialz"),
    ({"theory": {"t2_rate": {"kappas": [0.5]}}}, "edited.yaml: theory.t2_rate: kappas.0"),
    ({"tasks.dataset": ["digitz", "digits"]}, "tasks.imagenet-resnet50.dataset.0=.*'digits'"),
    ({"tasks.dataset": []}, "edited.yaml: tasks.imagenet-resnet50.dataset"),
    ({"tasks.model": "resnet9"}, r"tasks.imagenet-resnet50\): model.*resnet9.*resnet20"),
    ({"tasks.epochs": 19}, r"table06.yaml: row 'AC/DC' \(.*edited.yaml: .*\): epochs.*19"),
    ({"tasks.gpu": 3}, "tasks.imagenet-resnet50.gpu=3: "),
    ({"tasks.recipe": {"learning_rate": 1}}, r"50.recipe.learning_rate: .*lr, lr_schedule"),
    ({"tasks.recipe": {"momentun": 1}}, "50.recipe.momentun: .*'momentum'"),
    ({"tasks.recipe": {"lr": "fast"}}, "tasks.imagenet-resnet50.recipe.lr='fast'"),
    ({"tasks.recipe": [1]}, "tasks.imagenet-resnet50.recipe=.*"),
    ({"tasks.precison": "fp32"}, "tasks.imagenet-resnet50.precison: .*'precision'"),
    ({"tasks.epochs": 10**30}, "epochs=1000000000"),
    ({"tasks.epochs": True}, "tasks.imagenet-resnet50.epochs=True"),
    ({"overrides": [{"method": "acdc", "spartity": 0.9}]}, "overrides.0.spartity: .*'sparsity'"),
    ({"overrides": [{"method": "acdc", "sparsity": "0.9"}]}, "overrides.0.sparsity='0.9'"),
    ({"overrides": [{"method": "acdc", "settings": [1]}]}, "overrides.0.settings"),
    ({"sparsities": [0.9, 0.9]}, "edited.yaml: sparsities=.*0.9"),
    ({"sparsities": [0.123]}, "edited.yaml: sparsities.0=0.123: .*0.9"),
    ({"sparsities": [0.9, 0.123]}, "edited.yaml: sparsities.1=0.123: "),
    ({"sparsities": [float("nan")]}, "edited.yaml: sparsities.0=nan"),
    ({"seeds": [10**30]}, "seed"),
    *[({"name": name}, f"edited.yaml: name='?{name[:9]}") for name in BAD_NAMES],
]


@pytest.mark.parametrize(("changes", "message"), SCALE_ERRORS)
def test_a_wrong_scale_names_file_and_key(
    edited: Callable[..., str], changes: dict[str, Any], message: str
) -> None:
    ((key, value),) = changes.items()
    if key.startswith("tasks."):
        task = yaml.safe_load(TINY.read_text())["tasks"]["imagenet-resnet50"]
        task |= {key.removeprefix("tasks."): value}
        changes = {"tasks": {"imagenet-resnet50": task}}
    with pytest.raises(ConfigError, match=message) as caught:
        load(edited(**changes))
    assert "\n" not in str(caught.value)


def test_tasks_that_train_the_same_network_use_the_same_gpus(edited: Callable[..., str]) -> None:
    task = {"model": "resnet8_s2", "dataset": "digits", "epochs": 20}
    with pytest.raises(ConfigError, match=r"tasks\.b\.gpu=1: "):
        load(edited(tasks={"a": task | {"gpu": 2}, "b": task}))


RELABELLED = {"kind": "figure", "columns": [], "panels": [{"plot": "relabelled_true"}]}
EXPERIMENT_ERRORS: list[tuple[list[dict[str, Any]], dict[str, Any], str]] = [
    ([ACDC], {"columns": ["top2"]}, "mine.yaml: columns.0='top2': .*'top1'"),
    ([ACDC], {"columns": []}, "mine.yaml: columns: "),
    ([ACDC], {"kind": "figure", "columns": []}, "mine.yaml: panels: "),
    ([ACDC], {"panels": [{"plot": "schedule"}]}, "mine.yaml: panels: "),
    ([ACDC], {"kind": "figure", "columns": [], "panels": [{"plot": "pie"}]}, "panels.0.plot"),
    ([ACDC], {"columns": ["top1", "top1"]}, "mine.yaml: columns"),
    ([ACDC], {"columns": ["latency_batch1"]}, "mine.yaml: columns=latency_batch1: "),
    ([ACDC], {"reference": "DC/AC"}, "mine.yaml: reference=DC/AC: .*AC/DC"),
    ([ACDC], {"recipe": {"lrr": 1}}, r"row 'AC/DC' .*: recipe.lrr"),
    ([ACDC], {"id": "yours"}, "mine.yaml: id=yours: "),
    ([ACDC], {"id": "train"}, "mine.yaml: id=train: "),
    ([ACDC], {"sparsities": []}, "mine.yaml: rows, sparsities: "),
    ([ACDC], RELABELLED, "mine.yaml: panels.plot .*edited.yaml.*dataset=digits"),
    ([ACDC | {"method": "acdcc"}], {}, "rows.0.method='acdcc': .*'acdc'"),
    ([ACDC | {"seeds": [1, 1]}], {}, "mine.yaml: rows.0.seeds"),
    ([ACDC | {"task": "nowhere"}], {"awaits": "something"}, "mine.yaml: task=nowhere: "),
    ([ACDC | {"paper": {"method": "DC/AC", "table": "1"}}], {}, "row 'AC/DC': paper.method=DC/AC"),
    ([ACDC | {"paper": {"method": "AC/DC", "table": "99"}}], {}, "row 'AC/DC': paper.*99"),
    ([ACDC | {"paper": {"method": "AC/DC"}}], {}, "rows.paper.table: row 'AC/DC'"),
    ([ACDC | {"product": "dence"}], {}, "mine.yaml: rows.0.product"),
    ([RIGL | {"product": "dense"}], {}, "row 'RigL' .*: product=dense: .*sparse"),
    ([ACDC, ACDC], {}, "rows.label=AC/DC: "),
    ([ACDC, ACDC | {"label": "Ours", "settings": {"distribution": "global"}}], {},
     "rows: 'AC/DC' and 'Ours' are the same run"),
    ([ACDC | {"settings": {"schedule": "imagenet-100-short"}}], {},
     r"row 'AC/DC' \(.*: tasks.imagenet-resnet50\): epochs.*20"),
]  # fmt: skip


@pytest.mark.parametrize(("found", "keys", "message"), EXPERIMENT_ERRORS)
def test_a_wrong_experiment_names_file_and_key(
    resolved: Resolve, found: list[dict[str, Any]], keys: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        resolved(*found, **keys)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"theory": None}, "theory_t2_rate.yaml: theory: "),
        ({"theory": "t9"}, "theory_t2_rate.yaml: theory='t9': "),
        ({"theory": "t2_floor"}, "id=theory_t2_rate: .*theory_t2_floor"),
        ({"settings": {"trialz": 3}}, "theory_t2_rate.yaml: settings: trialz"),
        ({"settings": {"trials": 1}}, "theory_t2_rate.yaml: settings: trials"),
        ({"rows": [ACDC]}, "theory_t2_rate.yaml: rows: "),
        ({"recipe": {"lr": 1}}, "theory_t2_rate.yaml: recipe: "),
        ({"kind": "table", "columns": ["top1"], "rows": [ACDC]}, "theory: "),
    ],
)
def test_a_wrong_experiment_of_the_theory_names_the_key(
    theory: Resolve, keys: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        theory(**keys)


def test_an_override_without_rows_is_refused(resolved: Resolve) -> None:
    overrides = [{"method": "rigl", "sparsity": 0.8, "settings": {"update_interval": 0.07}}]
    with pytest.raises(ConfigError, match=r"edited.yaml: overrides.0: "):
        resolved(RIGL, scale={"experiments": None, "overrides": overrides})


def test_a_duplicate_key_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "twice.yaml"
    path.write_text(TINY.read_text() + "seeds: [1, 2]\n")
    with pytest.raises(ConfigError, match=r"twice.yaml is not YAML: .*seeds"):
        load(str(path))


@pytest.mark.parametrize("seeds", [0, -1, "many", 1.5])
def test_the_number_of_seeds_is_a_whole_one(seeds: Any) -> None:
    with pytest.raises(ConfigError, match=f"seeds={seeds}: "):
        load(str(TINY), seeds=seeds)


@pytest.mark.parametrize("scale", ["huge", "missing.yaml"])
def test_an_unknown_scale_lists_the_known_ones(scale: str) -> None:
    with pytest.raises(ConfigError, match=f"scale={scale}: .*laptop, paper, quick, small, smoke"):
        load(scale)


def test_experiments_without_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"experiments={tmp_path}: "):
        load(str(TINY), experiments=tmp_path)


Edit = Callable[[dict[str, Any]], object]


def first(study: dict[str, Any]) -> dict[str, Any]:
    run: dict[str, Any] = next(iter(study["runs"].values()))
    return run


@pytest.mark.parametrize(
    ("edit", "key"),
    [
        (lambda study: study.pop("runs"), "runs"),
        (lambda study: study.update(runs=None), "runs"),
        (lambda study: study.update(runs=[]), "runs"),
        (lambda study: study.update(runs={}), "runs lacks"),
        (lambda study: study.update(scale="smoke"), "scale"),
        (lambda study: study["experiments"][0]["rows"][0].pop("product"), "product"),
        (lambda study: study["experiments"][0]["rows"][0].update(epochs="20"), "epochs"),
        (lambda study: study["runs"].pop(next(iter(study["runs"]))), "runs lacks"),
        (lambda study: first(study).update(parent="nobody"), "runs lacks nobody"),
        (lambda study: first(study).update(parent=next(iter(study["runs"]))), "runs lacks"),
        (lambda study: first(study).update(config=None), "config"),
        (lambda study: first(study).update(config={}), "config.model"),
        (lambda study: first(study)["config"].pop("seed"), "config.seed"),
        (lambda study: first(study)["config"].update(epochs=0), "config.epochs"),
        (lambda study: first(study)["config"].update(epochs=True), "config.epochs"),
        (lambda study: first(study)["config"].update(sparsity="0.9"), "config.sparsity"),
        (lambda study: first(study)["config"].update(sparsity=1.5), "config.sparsity"),
        (lambda study: first(study)["config"].update(dataset=["digits"]), "config.dataset"),
    ],
)
def test_a_damaged_study_names_the_key(tmp_path: Path, edit: Edit, key: str) -> None:
    study = json.loads(known(str(TINY)).to_json())
    edit(study)
    (tmp_path / "study.json").write_text(json.dumps(study))
    with pytest.raises(ReportError, match=rf"study\.json: .*{key}"):
        read_study(tmp_path)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"{}", b"[]", b"null", b"7", b'"text"', b"\xff\xfe{", b"[" * 10**5, bytes(100)],
)
def test_what_is_no_study_names_the_file(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(ReportError, match=r"study\.json: .*acdc study"):
        read_study(tmp_path)
    (tmp_path / "study.json").write_bytes(content)
    with pytest.raises(ReportError, match=r"study\.json: "):
        read_study(tmp_path)


@pytest.mark.parametrize(
    ("extend", "message"),
    [
        (1.33, r"extend=1.33: .*1.3 \(26 epochs\) or 1.35 \(27 epochs\)$"),
        (0.01, r"extend=0.01: .*0.05 \(1 epoch\)$"),
        (0, "rows.0.extend"),
        (1e300, "epochs"),
        (float("inf"), "rows.0.extend"),
    ],
)
def test_epochs_are_not_rounded(extend: float, message: str, resolved: Resolve) -> None:
    with pytest.raises(ConfigError, match=message):
        resolved(RIGL | {"extend": extend})


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"method": "rigl"}, "method=rigl: .*acdc, acdc_dense, dense"),
        ({"row": "acdc"}, r"row=acdc: .*AC/DC, AC/DC\*, Dense"),
        ({"experiment": "table6"}, "experiment=table6: .*'table06'"),
        ({"sparsity": 0.8}, "sparsity=0.8: .*0.9"),
        ({"method": "dense", "sparsity": 0.9}, "method, sparsity: "),
    ],
)
def test_a_choice_without_runs_names_the_key(choice: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        known(str(TINY)).select(**choice)
