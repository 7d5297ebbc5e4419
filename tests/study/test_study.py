"""Studies as data: what a scale resolves to, what is chosen from it, and what is refused."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from acdc.errors import ConfigError
from acdc.methods.contract import method_names
from acdc.training.learning_rates import learning_rate
from study.model import FOLDER, Study, load, rows_of
from tests.workflow.conftest import ROOT, TINY
from theory.experiment import parse
from theory.layout import EXPERIMENTS

SCALES = sorted(path.stem for path in (FOLDER / "scales").glob("*.yaml"))
WHOLE = ["paper", "small", "smoke"]
PAPER = [f"table{n:02}" for n in range(1, 15)] + [f"figure{n:02}" for n in range(1, 10)]


@pytest.fixture
def edited(tmp_path: Path) -> Callable[..., str]:
    """Return a function that writes the tiny scale with some keys changed."""

    def write(**changes: object) -> str:
        data = yaml.safe_load(TINY.read_text()) | changes
        path = tmp_path / "edited.yaml"
        path.write_text(yaml.safe_dump(data))
        return str(path)

    return write


Resolve = Callable[..., Study]


@pytest.fixture
def resolved(tmp_path: Path, edited: Callable[..., str]) -> Resolve:
    """Return a function that resolves a table of one task of 20 epochs on the digits."""

    def resolve(*rows: dict[str, Any], scale: dict[str, Any] | None = None, **keys: Any) -> Study:
        experiment = {
            "id": "mine",
            "kind": "table",
            "title": "Mine",
            "caption": "Mine.",
            "task": "imagenet-resnet50",
            "sparsities": [0.9],
            "columns": ["top1"],
            "rows": rows,
        } | keys
        folder = tmp_path / "experiments"
        folder.mkdir(exist_ok=True)
        (folder / "mine.yaml").write_text(yaml.safe_dump(experiment))
        file = edited(**{"experiments": ["mine"], "sparsities": None, **(scale or {})})
        return load(file, experiments=folder)

    return resolve


def rows(study: Study, experiment: str) -> list[dict[str, Any]]:
    return next(list(rows_of(e)) for e in study.experiments if e["id"] == experiment)


@pytest.mark.parametrize("scale", SCALES)
def test_every_scale_resolves_and_every_row_has_its_runs(scale: str) -> None:
    study = load(scale)
    assert study.runs
    for experiment in study.experiments:
        for row in rows_of(experiment):
            assert len(row["runs"]) == len(set(row["runs"]))
            for name in row["runs"]:
                run = study.runs[name]
                assert (run.method, run.sparsity) == (row["method"], row["sparsity"])
                assert run.epochs == row["epochs"]
            for name, start in zip(row["fine_tuned"], row["runs"], strict=bool(row["fine_tuned"])):
                assert study.parent(name) == start


@pytest.mark.parametrize("scale", WHOLE)
def test_every_table_and_figure_of_the_paper_is_there_in_its_order(scale: str) -> None:
    experiments = load(scale).experiments
    assert [e["id"] for e in experiments][: len(PAPER)] == PAPER
    for experiment in experiments[: len(PAPER)]:
        assert experiment["paper"] == str(int(experiment["id"][-2:]))
        assert list(rows_of(experiment))


# What the tables print and no experiment shows: the paper shows one of two rows of STR, the other
# being the one nearest to 80 % from below.
NOT_SHOWN = {("1", "STR", "79.55")}


def test_every_row_that_the_papers_tables_have_is_shown() -> None:
    shown: set[tuple[str, str, str, str]] = set()
    for experiment in load("paper").experiments:
        for row in rows_of(experiment):
            if row["paper"]:
                paper = row["paper"]
                shown.add((paper["table"], paper["method"], paper["variant"],
                           f"{100 * paper['sparsity']:g}"))  # fmt: skip
    with (ROOT / "study" / "paper" / "tables.csv").open(newline="") as file:
        lines = [line for line in csv.DictReader(file) if line["table"].isdigit()]
    assert len(lines) > 350
    missing = {
        (line["table"], line["method"], line["variant"], line["sparsity_pct"])
        for line in lines
        if not {
            (line["table"], line["method"], variant, line["sparsity_pct"])
            for variant in (line["variant"], "")
        }
        & shown
        and (line["table"], line["method"], line["sparsity_pct"]) not in NOT_SHOWN
    }
    assert not missing


@pytest.mark.parametrize("scale", WHOLE)
def test_three_seeds_but_where_the_paper_has_one_or_a_baseline_trains_longer(scale: str) -> None:
    study = load(scale)
    once = set()
    for experiment in study.experiments:
        for row in rows_of(experiment):
            seeds = [study.runs[name].seed for name in row["runs"]]
            assert seeds in ([], [1], [1, 2, 3]), row["label"]
            if seeds == [1]:
                once.add(row["label"])
    # Top-KAST's rows of Tables 10 and 11 are its authors'.
    allowed = r"AC/DC-14|AC/DC-7|.*Figure 1's schedule|RigL [25]x.*|Top-KAST.*|AC/DC"
    assert {label for label in once if not re.fullmatch(allowed, label)} == set()
    assert [len(row["runs"]) for row in rows(study, "figure01")] == [1]


def test_the_longer_schedules_of_the_paper_have_its_epochs() -> None:
    study = load("paper")
    epochs = {row["label"]: row["epochs"] for row in rows(study, "table05")}
    assert epochs == {"Dense": 200, "AC/DC-20": 200, "AC/DC-14": 225, "AC/DC-7": 240, "GMP": 200}
    text = {row["label"]: row["epochs"] for row in rows(study, "text")}
    assert (text["AC/DC, 150 epochs"], text["AC/DC* uniform, 2x"]) == (150, 200)
    # The learning rate of AC/DC-14 and -7 drops where that of AC/DC-20 does.
    for name in study.shown("table05"):
        run = study.runs[name]
        drops = [round(m * run.epochs) for m in run.recipe.milestones]
        assert drops == [76, 116, 156]


def test_the_recipe_of_imagenet_is_the_papers() -> None:
    study = load("paper")
    found = [run for run in study.runs.values() if run.dataset == "imagenet"]
    # Five epochs of warm-up, also where AC/DC trains for 150 or 200.
    for run in found:
        if run.method.startswith("acdc"):
            rates = [learning_rate(run.recipe, epoch, run.epochs) for epoch in range(6)]
            assert [rate / 0.256 for rate in rates[:5]] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1])
            assert rates[5] == rates[4]  # where the cosine begins
    assert {run.model for run in found} == {"resnet50", "mobilenet_v1"}
    for run in found:
        recipe = run.recipe
        assert (recipe.batch_size, recipe.lr, recipe.momentum) == (256, 0.256, 0.875)
        assert run.precision == "fp16"
        assert recipe.augmentation == "crop_flip"
        if run.method != "str":  # has hyper-parameters of its own
            assert recipe.weight_decay == 2**-15
            assert recipe.label_smoothing == 0


def test_gmp_of_table_14_prunes_when_the_released_configuration_does() -> None:
    study = load("paper")
    (gmp, *_) = (study.runs[r] for r in study.shown("table14") if study.runs[r].method == "gmp")
    _, _, epochs = gmp.settings.plan(gmp.epochs, 5000)  # type: ignore[attr-defined]
    assert epochs == (1, 6, 11, 16, 21, 26, 31, 36)


@pytest.mark.parametrize("scale", WHOLE)
def test_dense_and_sparse_phases_keep_their_proportions(scale: str) -> None:
    study = load(scale)
    for experiment, label, share in (
        ("table01", "AC/DC", 0.5), ("table03", "AC/DC", 0.5), ("figure03", "AC/DC 2x", 0.5),
        ("text", "AC/DC, 150 epochs", 0.5), ("table05", "AC/DC-20", 0.45),
        ("text", "AC/DC, short dense phases", 0.32),
    ):  # fmt: skip
        row = next(row for row in rows(study, experiment) if row["label"] == label)
        run = study.runs[row["runs"][0]]
        dense = sum(
            phase.end - phase.start
            for phase in run.settings.resolve(run.epochs)  # type: ignore[attr-defined]
            if phase.kind == "dense"
        )
        assert dense / run.epochs == pytest.approx(share, abs=0.004), (experiment, label)


def test_every_method_is_in_some_experiment() -> None:
    assert {run.method for run in load("smoke").runs.values()} == set(method_names())


@pytest.mark.parametrize("scale", WHOLE)
def test_a_run_that_several_experiments_share_is_trained_once(scale: str) -> None:
    study = load(scale)
    (acdc,) = {
        tuple(row["runs"])
        for experiment in ("table01", "table06", "table09", "table10", "table11", "methods")
        for row in rows(study, experiment)
        if row["label"] in ("AC/DC", "global") and row["sparsity"] == 0.9
    }
    assert len(acdc) == 3
    drawn = rows(study, "figure05")
    assert next(tuple(row["runs"]) for row in drawn if row["sparsity"] == 0.9) == acdc


@pytest.mark.parametrize("scale", WHOLE)
def test_the_rows_of_a_task_differ_in_method_settings_and_length_only(scale: str) -> None:
    study = load(scale)
    for experiment in study.experiments:
        for row in rows_of(experiment):
            for name in row["runs"]:
                run, task = study.runs[name], study.scale.tasks[row["task"]["name"]]
                assert (run.model, run.precision) == (task.model, task.precision)
                # Of a longer training, warm-up and milestones are other fractions.
                fractions = {"milestones": (), "warmup": 0}
                own = run.recipe.model_dump() | fractions
                theirs = task.recipe.model_dump() | fractions
                # Weight decay and smoothing are how STR is told its sparsity.
                assert own == theirs or row["method"] == "str"
                longer = row["epochs"] != row["task"]["epochs"]
                assert longer == bool(re.search(r"[25]x|150|AC/DC-(14|7)", row["label"]))


def test_what_waits_for_parts_says_so_and_has_the_runs_that_can_be_trained() -> None:
    study = load("paper")
    waiting = {e["id"]: e["awaits"] for e in study.experiments if e["awaits"]}
    assert list(waiting) == ["table04", "table13", "table14"]
    assert study.shown("table04") == ()
    assert len(study.shown("table13")) == len(study.shown("table14")) == 18


@pytest.mark.parametrize(("extend", "epochs"), [(2, 40), (5.0, 100), (0.5, 10), (1.15, 23)])
def test_a_row_may_train_a_multiple_of_the_tasks_epochs(
    extend: float, epochs: int, resolved: Resolve
) -> None:
    study = resolved(
        {"label": "RigL", "method": "rigl"},
        {"label": "RigL more", "method": "rigl", "extend": extend},
        {"label": "One-shot more", "method": "one_shot", "extend": extend},
    )
    plain, longer, one_shot = rows(study, "mine")
    assert plain["task"]["epochs"] == plain["epochs"] == 20
    assert longer["epochs"] == one_shot["epochs"] == epochs
    assert [study.runs[name].epochs for name in longer["runs"]] == [epochs]
    parent = study.parent(one_shot["runs"][0])
    assert parent is not None
    assert study.runs[parent].epochs == epochs
    assert study.with_parents(one_shot["runs"]) == (parent, *one_shot["runs"])


@pytest.mark.parametrize(
    ("extend", "message"),
    [
        (1.33, r"row 'RigL more'.*: extend: 1.33 times the task's 20 epochs is 26.6, and epochs are"
         r" not rounded; 1.3 \(26 epochs\) and 1.35 \(27 epochs\) are accepted$"),
        (0.01, r"extend: 0.01 times .* is 0.2, .*; 0.05 \(1 epoch\) is accepted$"),
        (0, r"rows.0.extend: got 0; more than 0.0 is accepted"),
    ],
)  # fmt: skip
def test_a_row_that_would_not_train_whole_epochs_is_refused(
    extend: float, message: str, resolved: Resolve
) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        resolved({"label": "RigL more", "method": "rigl", "extend": extend})
    assert "\n" not in str(caught.value)


def test_rows_stand_in_ascending_order_of_sparsity(resolved: Resolve) -> None:
    study = resolved(
        {"label": "RigL", "method": "rigl"},
        {"label": "Dense", "method": "dense", "sparsities": [0]},
        {"label": "SET", "method": "set"},
        sparsities=[0.9, 0.5],
    )
    order = [(row["label"], row["sparsity"]) for row in rows(study, "mine")]
    assert order == [("Dense", 0), ("RigL", 0.5), ("SET", 0.5), ("RigL", 0.9), ("SET", 0.9)]


def test_a_scale_changes_the_settings_of_a_method_and_rows_have_the_last_word(
    resolved: Resolve,
) -> None:
    overrides = [
        {"method": "str", "sparsity": 0.9, "settings": {"s_init": -7}, "recipe": {"lr": 0.3}},
        {"method": "rigl", "settings": {"update_interval": 7, "drop_fraction": 0.5}},
        {"method": "rigl", "task": "other", "settings": {"update_interval": 8}},
    ]
    study = resolved(
        {"label": "STR", "method": "str", "settings_from_scale": True},
        {"label": "RigL", "method": "rigl", "settings": {"drop_fraction": 0.2}},
        sparsities=[0.5, 0.9],
        scale={"overrides": overrides},
    )
    runs = {(run.method, run.sparsity): run for run in study.runs.values()}
    assert runs["str", 0.9].settings.model_dump()["s_init"] == -7
    assert runs["str", 0.9].recipe.lr == 0.3
    assert ("str", 0.5) not in runs
    assert rows(study, "mine")[0]["runs"] == []
    settings = runs["rigl", 0.9].settings.model_dump()
    assert (settings["update_interval"], settings["drop_fraction"]) == (7, 0.2)
    assert runs["rigl", 0.9].recipe.lr == 0.1


def test_of_several_data_sets_a_task_takes_the_first_that_is_there(
    edited: Callable[..., str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("ACDC_DATA", str(tmp_path))
    task = {"model": "resnet8", "dataset": ["cifar10", "fashion_mnist_1k"], "epochs": 20}
    study = load(edited(tasks={"imagenet-resnet50": task}))
    assert study.datasets == ["fashion_mnist_1k"]
    assert study.missing_data() == []
    study = load(edited(tasks={"imagenet-resnet50": task | {"dataset": "cifar10"}}))
    (sentence,) = study.missing_data()
    assert re.search(r"edited.yaml: tasks.imagenet-resnet50.dataset: .*cifar10.*", sentence)


def test_the_measure_of_progress_counts_the_epochs_that_a_run_trains_itself() -> None:
    study = load(str(TINY))
    images = {study.runs[name].method: count for name, count in study.images.items()}
    assert images["dense"] == images["acdc"] == 20 * 1294
    # Goes on from the best epoch of a dense phase, which only the run it starts from decides.
    assert images["acdc_dense"] == 0


def test_one_more_seed_adds_runs_and_keeps_the_others(edited: Callable[..., str]) -> None:
    before = set(load(str(TINY)).runs)
    for after in (set(load(edited(seeds=[1, 2])).runs), set(load(str(TINY), seeds=2).runs)):
        assert before < after
        assert all(name.split("-")[-2].endswith("seed2") for name in after - before)
        assert len(after) == 2 * len(before)


def test_rows_with_seeds_of_their_own_keep_them() -> None:
    runs = load("smoke", seeds=5).runs.values()
    assert {run.seed for run in runs if run.method == "dense"} == {1, 2, 3, 4, 5}
    assert {run.seed for run in runs if run.settings.variant() == "cifar-14"} == {1}


def test_what_a_person_chooses_comes_with_what_it_starts_from() -> None:
    study = load(str(TINY))
    assert study.select() == study.with_parents(tuple(study.runs))
    tuned = study.select(method="acdc_dense")
    assert {study.runs[name].method for name in tuned} == {"acdc", "acdc_dense"}
    for name in tuned:
        parent = study.parent(name)
        assert parent is None or tuned.index(parent) < tuned.index(name)
    row = study.select(experiment="table06", row="AC/DC*")
    assert {study.runs[name].settings.variant() for name in row} == {"first-last"}
    assert {study.runs[name].method for name in row} == {"acdc", "acdc_dense"}
    assert study.select(method="acdc", sparsity=0.9, row="AC/DC") == tuple(
        row["runs"][0] for row in rows(study, "table06") if row["label"] == "AC/DC"
    )


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"method": "rigl"}, "method: 'rigl' is not in the study; acdc, acdc_dense, dense are"),
        ({"row": "acdc"}, r"row: 'acdc' is not in the study; .*AC/DC, AC/DC\*, Dense are accepted"),
        ({"experiment": "table6"}, "experiment: .* did you mean table06"),
        ({"sparsity": 0.8}, "sparsity: 0.8 is not in the study; .*0.9"),
        ({"color": 1}, "color: unknown; .*dataset, experiment, method"),
        ({"method": ["acdc"]}, r"method: \['acdc'\] is not in the study"),
        (
            {"method": "dense", "sparsity": 0.9},
            "no run of the study fulfils all of method=dense, sparsity=0.9",
        ),
    ],
)
def test_a_choice_that_is_not_there_is_one_sentence(choice: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load(str(TINY)).select(**choice)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seedz": [1]}, r"edited.yaml: seedz: unknown key; did you mean seeds\?"),
        ({"experiments": ["table9"]}, r"experiments: 'table9' is unknown; did you mean table09"),
        ({"experiments": ["table06"] * 2}, r"experiments: .* names one twice"),
        ({"tasks": {}}, r"table06.yaml: task: scale tiny has nothing for 'imagenet-resnet50'"),
        ({"sparsities": [1.0]}, r"sparsities.0: got 1.0; less than 1.0 is accepted"),
        ({"seeds": [2, 2]}, r"edited.yaml: seeds: .* names 2 twice; each once is accepted"),
        ({"experiments": []}, r"edited.yaml: experiments, sparsities: nothing is left to show"),
        ({"overrides": [{"method": "acdcc"}]}, r"method: 'acdcc' is unknown; did you mean acdc\?"),
        ({"theory": {"t2_rat": {}}}, r"edited.yaml: theory: 't2_rat' is unknown; did you mean t2_"),
        ({"theory": {"t2_rate": {"trialz": 3}}},
         r"edited.yaml: theory.t2_rate: trialz: unknown key; did you mean trials\?"),
        ({"theory": {"t2_rate": {"kappas": [0.5]}}}, r"edited.yaml: theory.t2_rate: kappas.0: got"),
    ],
)  # fmt: skip
def test_a_wrong_scale_is_one_sentence(
    edited: Callable[..., str], changes: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        load(edited(**changes))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ({"dataset": ["digitz", "digits"]}, r"dataset: 'digitz' is unknown; did you mean digits"),
        ({"dataset": []}, r"edited.yaml: tasks.imagenet-resnet50.dataset"),
        ({"model": "resnet9"}, r"edited.yaml: tasks.imagenet-resnet50\): model: 'resnet9' is "
         r"unknown; .*resnet20"),
        ({"epochs": 19}, r"table06.yaml: row 'AC/DC' \(.*edited.yaml: tasks.imagenet-resnet50\): "
         r"epochs: 19 is too short for this schedule: .* at least 20 epochs are accepted"),
    ],
)  # fmt: skip
def test_a_task_that_cannot_be_carried_out_names_file_key_and_row(
    edited: Callable[..., str], task: dict[str, object], message: str
) -> None:
    tiny = yaml.safe_load(TINY.read_text())["tasks"]["imagenet-resnet50"]
    path = edited(tasks={"imagenet-resnet50": tiny | task})
    with pytest.raises(ConfigError, match=message) as caught:
        load(path)
    assert "\n" not in str(caught.value)


ACDC = {"label": "AC/DC", "method": "acdc"}


@pytest.mark.parametrize(
    ("found", "keys", "message"),
    [
        ([ACDC], {"columns": ["top2"]}, "mine.yaml: columns: 'top2' is unknown; did you mean top1"),
        ([ACDC], {"columns": []}, "mine.yaml: columns: a table has none; one or more are accepted"),
        ([ACDC], {"kind": "figure", "columns": []}, "mine.yaml: panels: a figure has none"),
        ([ACDC], {"panels": [{"plot": "schedule"}]}, "mine.yaml: panels: a table has no panels"),
        ([ACDC], {"kind": "figure", "columns": [], "panels": [{"plot": "pie"}]},
         "mine.yaml: panels.0.plot: got 'pie'; .*'schedule'.* accepted"),
        ([ACDC], {"columns": ["top1", "top1"]}, "mine.yaml: columns: .* names top1 twice"),
        ([ACDC], {"columns": ["agreement"]}, "columns: agreement cannot be measured before compar"),
        ([ACDC], {"reference": "DC/AC"}, "mine.yaml: reference: 'DC/AC' is no row; .*AC/DC are"),
        ([ACDC | {"method": "acdcc"}], {}, "method: 'acdcc' is unknown; did you mean acdc"),
        ([ACDC | {"seeds": [1, 1]}], {}, "mine.yaml: rows.0.seeds: .* names 1 twice"),
        ([ACDC | {"task": "nowhere"}], {"awaits": "something"},
         "mine.yaml: task: scale tiny has nothing for 'nowhere'"),
        ([ACDC | {"paper": {"method": "DC/AC", "table": "1"}}], {},
         "mine.yaml: rows.paper: table 1 of the paper has no method 'DC/AC'"),
        ([ACDC | {"paper": {"method": "AC/DC", "table": "99"}}], {},
         "mine.yaml: rows.paper: table '99' is unknown"),
        ([ACDC], {"kind": "figure", "columns": [], "panels": [{"plot": "relabelled_true"}]},
         "mine.yaml: panels.plot: .*edited.yaml has digits for imagenet-resnet50, of which no"),
        ([ACDC], {"id": "yours"}, "mine.yaml: id: 'yours' is not the name of the file"),
        ([ACDC], {"sparsities": []}, "mine.yaml: rows: without rows and sparsities"),
        ([ACDC | {"paper": {"method": "AC/DC"}}], {}, "row 'AC/DC' names none, and the experiment"),
        ([ACDC | {"product": "dence"}], {}, "mine.yaml: rows.0.product: got 'dence'"),
        ([{"label": "RigL", "method": "rigl", "product": "dense"}], {},
         "row 'RigL' .*: product: method rigl yields no dense model; sparse are accepted"),
        ([ACDC, ACDC], {}, "rows.label: 'AC/DC' stands for two rows at sparsity 0.9"),
        ([ACDC, ACDC | {"label": "Ours", "settings": {"distribution": "global"}}], {},
         "rows: 'AC/DC' and 'Ours' are the same run at scale tiny"),
        ([ACDC | {"settings": {"schedule": "imagenet-100-short"}}], {},
         r"row 'AC/DC' \(.*: tasks.imagenet-resnet50\): epochs: 20 is too short .* at least 50"),
    ],
)  # fmt: skip
def test_a_wrong_experiment_is_one_sentence_that_names_file_and_key(
    resolved: Resolve, found: list[dict[str, Any]], keys: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        resolved(*found, **keys)
    assert "\n" not in str(caught.value)


THEORY = {
    "id": "theory_t2_rate",
    "kind": "theory",
    "theory": "t2_rate",
    "title": "Mine",
    "caption": "Mine.",
}


@pytest.fixture
def theory(tmp_path: Path, edited: Callable[..., str]) -> Resolve:
    """Return a function that resolves one experiment of the theory."""

    def resolve(scale: dict[str, Any] | None = None, **keys: Any) -> Study:
        folder = tmp_path / "experiments"
        folder.mkdir(exist_ok=True)
        (folder / "theory_t2_rate.yaml").write_text(yaml.safe_dump(THEORY | keys))
        file = edited(**{"experiments": ["theory_t2_rate"], "theory": {}, **(scale or {})})
        return load(file, experiments=folder)

    return resolve


def test_settings_of_the_theory_are_the_scale_s_then_the_experiment_s_then_the_defaults(
    theory: Resolve,
) -> None:
    defaults = parse("t2_rate", {}).model_dump(mode="json")
    assert theory().theory == {"t2_rate": defaults}
    own = {"trials": 3, "seed": 7}
    study = theory({"theory": {"t2_rate": {"trials": 4}, "fail": {}}}, settings=own)
    assert study.theory == {"t2_rate": defaults | {"trials": 4, "seed": 7}}
    (experiment,) = study.plan()["experiments"]
    assert (experiment["theory"], experiment["settings"]) == ("t2_rate", study.theory["t2_rate"])
    assert study.digest != theory(settings=own).digest


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"theory": None}, "theory_t2_rate.yaml: theory: a theory experiment has none"),
        ({"theory": "t9"}, "theory_t2_rate.yaml: theory: 't9' is unknown; .*t2_rate"),
        ({"theory": "t2_floor"}, "id: 'theory_t2_rate' is not that of theory t2_floor; theory_t2"),
        ({"settings": {"trialz": 3}},
         r"theory_t2_rate.yaml: settings: trialz: unknown key; did you mean trials\?"),
        ({"settings": {"trials": 1}}, "theory_t2_rate.yaml: settings: trials: 1 is out of range"),
        ({"rows": [ACDC]}, "theory_t2_rate.yaml: rows: a theory experiment has no rows"),
        ({"kind": "table", "columns": ["top1"], "rows": [ACDC]}, "theory: a table has no theory"),
    ],
)  # fmt: skip
def test_a_wrong_experiment_of_the_theory_is_one_sentence(
    theory: Resolve, keys: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        theory(**keys)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("scale", WHOLE)
def test_a_whole_study_has_all_the_theory_last_and_in_the_order_of_its_chapter(scale: str) -> None:
    ids = [experiment["id"] for experiment in load(scale).experiments]
    assert ids[-len(EXPERIMENTS) :] == [f"theory_{name}" for name in EXPERIMENTS]


def test_an_override_that_concerns_no_row_is_refused(resolved: Resolve) -> None:
    overrides = [{"method": "rigl", "sparsity": 0.8, "settings": {"update_interval": 7}}]
    everything = {"experiments": None, "overrides": overrides}
    with pytest.raises(ConfigError, match=r"edited.yaml: overrides.0: no row is of method rigl"):
        resolved({"label": "RigL", "method": "rigl"}, scale=everything)


def test_an_experiment_cannot_have_the_name_of_a_rule(resolved: Resolve) -> None:
    with pytest.raises(ConfigError, match=r"mine.yaml: id: 'train' is the name of a rule"):
        resolved(ACDC, id="train")


def test_a_key_that_stands_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "twice.yaml"
    path.write_text(TINY.read_text() + "seeds: [1, 2]\n")
    with pytest.raises(ConfigError, match=r"twice.yaml is not YAML: key 'seeds' stands twice"):
        load(str(path))


def test_the_two_models_of_one_run_may_have_rows_of_their_own(resolved: Resolve) -> None:
    study = resolved(ACDC, {"label": "its dense model", "method": "acdc", "product": "dense"})
    assert len(study.runs) == 1


def test_an_unknown_scale_lists_those_there_are() -> None:
    with pytest.raises(ConfigError, match="'huge' is unknown; paper, quick, small, smoke"):
        load("huge")


@pytest.mark.parametrize("seeds", [0, -1, "many", 1.5])
def test_a_number_of_seeds_is_a_whole_one(seeds: Any) -> None:
    with pytest.raises(ConfigError, match=r"seeds: got .*; 1 or more is accepted"):
        load(str(TINY), seeds=seeds)


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


def test_runs_of_a_pack_differ_in_their_seeds_alone_and_share_one_gpu() -> None:
    study = load("quick")
    for size in (2, 3):
        packs = study.packs(size)
        packed = [run for runs in packs.values() for run in runs]
        assert len(set(packed)) == len(packed)
        for first, runs in packs.items():
            assert first == runs[0]
            assert 2 <= len(runs) <= size
            assert len({study.runs[run].with_seed(0).fingerprint for run in runs}) == 1
    # The digits have two seeds; ImageNet's runs take several GPUs.
    assert study.packs(2)
    paper = load("paper")
    packed = {run for runs in paper.packs(3).values() for run in runs}
    assert {paper.runs[run].dataset for run in packed} == {"cifar100", "cifar10_relabelled"}
    assert {paper.gpus[run] for run in set(paper.runs) - packed} >= {4}


@pytest.mark.parametrize(
    ("other", "complaint"),
    [
        ({"gpu": 3}, "tasks.a.gpu: 3 GPUs cannot share batches of 128 images equally"),
        ({"gpu": 2}, "tasks.b.gpu: 1, and 2 for a, which trains the same network"),
    ],
)
def test_gpus_that_cannot_be_are_one_sentence(
    other: dict[str, int], complaint: str, tmp_path: Path
) -> None:
    task = {"model": "resnet8_s2", "dataset": "digits", "epochs": 20}
    scale = {"name": "s", "title": "S", "description": "", "tasks": {"a": task | other, "b": task}}
    path = tmp_path / "s.yaml"
    path.write_text(yaml.safe_dump(scale))
    with pytest.raises(ConfigError, match=complaint):
        load(str(path))
