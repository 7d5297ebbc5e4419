"""Studies as data: what a scale resolves to, what is selected from it, and what is refused."""

import csv
import re
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import yaml

from acdc.config.run import RunConfig, parse_run
from acdc.step import Step
from study.model import Row, Study, read_study, write_study
from study.paper import paper_values
from study.resolve import FOLDER, load
from study.schema import ExperimentSpec, ScaleSpec, read
from tests.study.conftest import ACDC, RIGL, Resolve
from tests.support import METHOD_SETTINGS
from tests.workflow.conftest import ROOT, TINY
from theory.experiment import parse
from theory.layout import EXPERIMENTS

SCALES = sorted(path.stem for path in (FOLDER / "scales").glob("*.yaml"))
WHOLE = ["paper", "small", "smoke"]
PAPER = [f"table{n:02}" for n in range(1, 15)] + [f"figure{n:02}" for n in range(1, 10)]
known = cache(load)


@cache
def config(scale: str, run: str) -> RunConfig:
    return parse_run(known(scale).runs[run].config)


def all_rows(study: Study) -> list[Row]:
    return [row for experiment in study.experiments for row in experiment.all_rows]


def rows_of_tasks(study: Study) -> list[Row]:
    """Return the rows of the experiments that train by their tasks' recipes."""
    return [
        row
        for experiment in study.experiments
        if not read(FOLDER / "experiments" / f"{experiment.id}.yaml", ExperimentSpec).recipe
        for row in experiment.all_rows
    ]


@pytest.mark.parametrize("scale", SCALES)
def test_every_row_has_its_runs(scale: str) -> None:
    study = known(scale)
    assert study.runs
    for row in all_rows(study):
        assert len(row.runs) == len(set(row.runs))
        for name in row.runs:
            run = study.runs[name].config
            assert (run["method"], run["sparsity"]) == (row.method, row.sparsity)
            assert run["epochs"] == row.epochs
        for name, start in zip(row.fine_tuned, row.runs, strict=bool(row.fine_tuned)):
            companion = study.runs[name]
            assert companion.parent == start or companion.config["method"] == "dense"


@pytest.mark.parametrize("scale", SCALES)
def test_a_written_study_is_read_back(scale: str, tmp_path: Path) -> None:
    study = known(scale)
    write_study(study, tmp_path / "study.json")
    assert read_study(tmp_path) == study
    assert read_study(tmp_path).digest == study.digest
    for name, run in study.runs.items():
        assert parse_run(run.config).run_name == name


@pytest.mark.parametrize("scale", WHOLE)
def test_tables_and_figures_of_the_paper_come_first_in_its_order(scale: str) -> None:
    experiments = known(scale).experiments
    assert [e.id for e in experiments][: len(PAPER)] == PAPER
    for experiment in experiments[: len(PAPER)]:
        assert experiment.paper == str(int(experiment.id[-2:]))
        assert experiment.all_rows
    theory = [f"theory_{name}" for name in EXPERIMENTS]
    assert [e.id for e in experiments][-len(theory) :] == theory


# What the tables print and no experiment shows: the paper shows one of two rows of STR, the other
# being the one nearest to 80 % from below.
NOT_SHOWN = {("1", "STR", "79.55")}


def test_every_row_of_the_papers_tables_is_shown() -> None:
    shown: set[tuple[str, str, str, str]] = set()
    for row in all_rows(known("paper")):
        if row.paper:
            assert paper_values(row.paper)
            percent = f"{100 * row.paper.sparsity:g}"
            shown.add((row.paper.table, row.paper.method, row.paper.variant, percent))
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
def test_three_seeds_or_one(scale: str) -> None:
    study = known(scale)
    once = set()
    for row in all_rows(study):
        seeds = [study.runs[name].config["seed"] for name in row.runs]
        assert seeds in ([], [1], [1, 2, 3]), row.label
        # The paper's Table 4 has one run each.
        if seeds == [1] and row.task.name != "wikitext103-transformer_xl":
            once.add(row.label)
    # Top-KAST's rows of Tables 10 and 11 are its authors'.
    allowed = r"AC/DC-14|AC/DC-7|.*Figure 1's schedule|RigL [25]x.*|Top-KAST.*|AC/DC"
    assert {label for label in once if not re.fullmatch(allowed, label)} == set()
    assert [len(row.runs) for row in study.experiment("figure01").all_rows] == [1]


def test_longer_schedules_have_the_papers_epochs() -> None:
    study = known("paper")
    epochs = {row.label: row.epochs for row in study.experiment("table05").rows}
    assert epochs == {"Dense": 200, "AC/DC-20": 200, "AC/DC-14": 225, "AC/DC-7": 240, "GMP": 200}
    text = {row.label: row.epochs for row in study.experiment("text").rows}
    assert (text["AC/DC, 150 epochs"], text["AC/DC* uniform, 2x"]) == (150, 200)
    # The learning rate of AC/DC-14 and -7 drops where that of AC/DC-20 does.
    for name in study.experiment("table05").runs:
        run = config("paper", name)
        assert [round(m * run.epochs) for m in run.recipe.milestones] == [76, 116, 156]


def test_the_recipe_of_imagenet_is_the_papers() -> None:
    shown = dict.fromkeys(run for row in rows_of_tasks(known("paper")) for run in row.runs)
    names = [name for name in shown if "imagenet" in name and "seed1" in name]
    found = [config("paper", name) for name in names]
    assert {run.model for run in found} == {"resnet50", "mobilenet_v1"}
    for run in found:
        # Five epochs of warm-up, also where AC/DC trains for 150 or 200.
        if run.method.startswith("acdc"):
            rates = [run.recipe.learning_rate(Step(epoch, 0, 1), run.epochs) for epoch in range(6)]
            assert [rate / 0.256 for rate in rates[:5]] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1])
            assert rates[5] == rates[4]  # where the cosine begins
        recipe = run.recipe
        assert (recipe.batch_size, recipe.lr, recipe.momentum) == (256, 0.256, 0.875)
        assert run.precision == "fp16"
        assert recipe.augmentation == "crop_flip"
        if run.method != "str":  # has hyper-parameters of its own
            assert recipe.weight_decay == 2**-15
            assert recipe.label_smoothing == 0


def test_gmp_of_table_14_prunes_when_the_released_configuration_does() -> None:
    runs = (config("paper", name) for name in known("paper").experiment("table14").runs)
    gmp = next(run for run in runs if run.method == "gmp")
    _, _, epochs = gmp.settings.schedule(gmp.epochs, 5000)  # type: ignore[attr-defined]
    assert epochs == (1, 6, 11, 16, 21, 26, 31, 36)


@pytest.mark.parametrize("scale", WHOLE)
def test_phases_keep_their_proportions(scale: str) -> None:
    for experiment, label, share in (
        ("table01", "AC/DC", 0.5), ("table03", "AC/DC", 0.5), ("figure03", "AC/DC 2x", 0.5),
        ("text", "AC/DC, 150 epochs", 0.5), ("table05", "AC/DC-20", 0.45),
        ("text", "AC/DC, short dense phases", 0.32),
    ):  # fmt: skip
        rows = known(scale).experiment(experiment).all_rows
        run = config(scale, next(row.runs[0] for row in rows if row.label == label))
        dense = sum(
            phase.end - phase.start
            for phase in run.settings.resolve(run.epochs)  # type: ignore[attr-defined]
            if phase.kind == "dense"
        )
        assert dense / run.epochs == pytest.approx(share, abs=0.004), (experiment, label)


def test_every_method_is_in_some_experiment() -> None:
    methods = {run.config["method"] for run in known("smoke").runs.values()}
    assert methods >= {*METHOD_SETTINGS, "dense", "one_shot"}


@pytest.mark.parametrize("scale", WHOLE)
def test_experiments_share_runs(scale: str) -> None:
    study = known(scale)
    (acdc,) = {
        row.runs
        for name in ("table01", "table06", "table09", "table10", "table11", "figure05")
        for row in study.experiment(name).all_rows
        if (row.label in ("AC/DC", "global") or name == "figure05") and row.sparsity == 0.9
    }
    assert len(acdc) == 3


@pytest.mark.parametrize("scale", WHOLE)
def test_the_rows_of_a_task_share_its_recipe(scale: str) -> None:
    tasks = read(FOLDER / "scales" / f"{scale}.yaml", ScaleSpec).tasks
    for row in rows_of_tasks(known(scale)):
        for name in row.runs[:1]:
            run, task = config(scale, name), tasks[row.task.name]
            assert (run.model, run.precision) == (task.model, task.precision)
            # Of a longer training, warm-up and milestones are other fractions.
            fractions = {"milestones": (), "warmup": 0}
            own = run.recipe.model_dump() | fractions
            # STR's sparsity follows from its weight decay and smoothing.
            assert own == task.recipe.model_dump() | fractions or row.method == "str"
            longer = row.epochs != row.task.epochs
            assert longer == bool(re.search(r"[25]x|150|AC/DC-(14|7)", row.label))


def test_experiments_that_await_something() -> None:
    study = known("paper")
    assert [e.id for e in study.experiments if e.awaits] == ["table13"]
    assert len(study.experiment("table13").runs) == 18


def test_models_are_compared_with_their_companions() -> None:
    """AC/DC with its own fine-tuned dense model, GMP with dense training from the same seed."""
    study = known("paper")
    pairs = study.experiment("table14").pairs
    assert pairs == study.experiment("agreement").pairs
    methods: Counter[tuple[str, str]] = Counter()
    for pair in pairs:
        sparse, dense = (config("paper", name) for name in pair)
        for key in ("seed", "model", "dataset"):
            assert getattr(sparse, key) == getattr(dense, key)
        assert dense.method == "dense" or dense.parent == sparse
        methods[sparse.method, dense.method] += 1
    assert methods == {("acdc", "acdc_dense"): 6, ("gmp", "dense"): 6}
    assert study.experiment("table01").pairs == ()


def test_a_scale_excludes_rows_of_longer_training(resolved: Resolve) -> None:
    longer = {"label": "RigL 2x", "method": "rigl", "extend": 2}
    for most, labels in ((1, ["RigL"]), (2, ["RigL", "RigL 2x"])):
        study = resolved(RIGL, longer, scale={"max_extend": most})
        assert [row.label for row in study.experiment("mine").rows] == labels


@pytest.mark.parametrize(("extend", "epochs"), [(2, 40), (5.0, 100), (0.5, 10), (1.15, 23)])
def test_extend_multiplies_the_epochs(extend: float, epochs: int, resolved: Resolve) -> None:
    study = resolved(
        RIGL,
        {"label": "RigL more", "method": "rigl", "extend": extend},
        {"label": "One-shot more", "method": "one_shot", "extend": extend},
    )
    plain, longer, one_shot = study.experiment("mine").rows
    assert plain.task.epochs == plain.epochs == 20
    assert longer.epochs == one_shot.epochs == epochs
    assert [study.runs[name].config["epochs"] for name in longer.runs] == [epochs]
    parent = study.runs[one_shot.runs[0]].parent
    assert study.runs[parent].config["epochs"] == epochs
    assert study.with_parents(one_shot.runs) == (parent, *one_shot.runs)


def test_rows_are_sorted_by_sparsity(resolved: Resolve) -> None:
    study = resolved(
        RIGL,
        {"label": "Dense", "method": "dense", "sparsities": [0]},
        {"label": "SET", "method": "set"},
        sparsities=[0.9, 0.5],
    )
    order = [(row.label, row.sparsity) for row in study.experiment("mine").rows]
    assert order == [("Dense", 0), ("RigL", 0.5), ("SET", 0.5), ("RigL", 0.9), ("SET", 0.9)]


@pytest.mark.parametrize("scale", WHOLE)
def test_rigl_has_as_many_steps_between_updates_however_long_it_trains(scale: str) -> None:
    runs = [run.config for run in known(scale).runs.values() if run.config["method"] == "rigl"]
    for model in {run["model"] for run in runs}:
        same = [run for run in runs if run["model"] == model]
        assert len({run["epochs"] for run in same}) > 1 or "transformer" in model
        steps = {run["epochs"] * run["settings"]["update_interval"] for run in same}
        assert max(steps) == pytest.approx(min(steps))


def test_recipes_and_settings_are_overridden_in_order(resolved: Resolve) -> None:
    """Task < scale's overrides < experiment < row."""
    overrides = [
        {"method": "str", "sparsity": 0.9, "settings": {"s_init": -7}, "recipe": {"lr": 0.3}},
        {
            "method": "rigl",
            "settings": {"update_interval": 0.07, "drop_fraction": 0.5},
            "recipe": {"momentum": 0.5, "weight_decay": 0.1, "lr": 0.3},
        },
        {"method": "rigl", "task": "other", "settings": {"update_interval": 0.08}},
    ]
    study = resolved(
        {"label": "STR", "method": "str", "settings_from_scale": True},
        RIGL | {"settings": {"drop_fraction": 0.2}, "recipe": {"lr": 0.5}},
        sparsities=[0.5, 0.9],
        scale={"overrides": overrides},
        recipe={"weight_decay": 0.2, "lr": 0.4},
    )
    runs = [run.config for run in study.runs.values()]
    found = {(run["method"], run["sparsity"]): run for run in runs}
    assert found["str", 0.9]["settings"]["s_init"] == -7
    assert found["str", 0.9]["recipe"]["lr"] == 0.4
    assert ("str", 0.5) not in found
    assert study.experiment("mine").rows[0].runs == ()
    rigl = found["rigl", 0.9]
    assert (rigl["settings"]["update_interval"], rigl["settings"]["drop_fraction"]) == (0.07, 0.2)
    recipe = rigl["recipe"]
    assert (recipe["batch_size"], recipe["momentum"]) == (128, 0.5)
    assert (recipe["weight_decay"], recipe["lr"]) == (0.2, 0.5)


def test_a_task_takes_its_first_available_data_set(
    edited: Callable[..., str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("ACDC_DATA", str(tmp_path))
    task = {"model": "resnet8", "dataset": ["cifar10", "fashion_mnist_1k"], "epochs": 20}
    study = load(edited(tasks={"imagenet-resnet50": task}))
    assert study.datasets == ["fashion_mnist_1k"]
    assert study.missing_data() == []
    study = load(edited(tasks={"imagenet-resnet50": task | {"dataset": "cifar10"}}))
    (message,) = study.missing_data()
    assert "tasks.imagenet-resnet50.dataset=cifar10" in message
    assert study.missing_data(["cifar10"]) == [message]
    assert study.missing_data([]) == []


def test_images_count_the_epochs_that_a_run_trains_itself() -> None:
    images = {run.config["method"]: run.images for run in known(str(TINY)).runs.values()}
    assert images["dense"] == images["acdc"] == 20 * 1294
    # Continues from the best epoch of a dense phase, which only its parent's training decides.
    assert images["acdc_dense"] == 0


def test_one_more_seed_adds_runs_and_keeps_the_others(edited: Callable[..., str]) -> None:
    before = set(known(str(TINY)).runs)
    for after in (set(load(edited(seeds=[1, 2])).runs), set(load(str(TINY), seeds=2).runs)):
        assert before < after
        assert all(name.split("-")[-2].endswith("seed2") for name in after - before)
        assert len(after) == 2 * len(before)


def test_rows_with_seeds_of_their_own_keep_them() -> None:
    runs = [run.config for run in load("smoke", seeds=5).runs.values()]
    assert {run["seed"] for run in runs if run["method"] == "dense"} == {1, 2, 3, 4, 5}
    assert {r["seed"] for r in runs if r["settings"].get("schedule") == "cifar-14"} == {1}


def test_selected_runs_come_with_their_parents() -> None:
    study = known(str(TINY))
    assert study.select() == study.with_parents(tuple(study.runs))

    def methods(names: tuple[str, ...]) -> list[str]:
        return [study.runs[name].config["method"] for name in names]

    assert methods(study.select(method="acdc_dense")) == ["acdc", "acdc_dense"] * 2
    row = study.select(experiment="table06", row="AC/DC*")
    assert methods(row) == ["acdc", "acdc_dense"]
    assert all("first-last" in name for name in row)
    rows = study.experiment("table06").rows
    (acdc,) = (row.runs for row in rows if row.label == "AC/DC")
    assert study.select(method="acdc", sparsity=0.9, row="AC/DC") == acdc


def test_a_scale_overrides_the_settings_of_the_theory(theory: Resolve) -> None:
    defaults = parse("t2_rate", {}).model_dump(mode="json")
    assert theory().theory == {"t2_rate": defaults}
    own = {"trials": 3, "seed": 7}
    study = theory({"theory": {"t2_rate": {"trials": 4}, "fail": {}}}, settings=own)
    assert study.theory == {"t2_rate": defaults | {"trials": 4, "seed": 7}}
    assert study.digest != theory(settings=own).digest


def test_both_models_of_a_run_can_have_rows(resolved: Resolve) -> None:
    study = resolved(ACDC, {"label": "its dense model", "method": "acdc", "product": "dense"})
    assert len(study.runs) == 1


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


def test_a_scale_can_give_an_experiment_one_seed(resolved: Resolve) -> None:
    for changes, expected in (
        ({"seeds": None}, [1, 2, 3]),
        ({"seeds": None, "single_seed": ["mine"]}, [1]),
        ({"single_seed": ["mine"], "seeds": [4, 5]}, [4, 5]),
    ):
        study = resolved(RIGL, scale=changes)
        (row,) = study.experiment("mine").rows
        assert [study.runs[run].config["seed"] for run in row.runs] == expected
