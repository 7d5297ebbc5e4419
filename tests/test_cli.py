"""The command line: options, files and assignments in order, and mistakes as one line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

import baselines
from acdc.cli import describe, summary
from acdc.config.run import parse_run
from acdc.methods.contract import get_method, method_names
from acdc.run.results import read_result
from tests.support import METHOD_SETTINGS, tiny_config, train

NO_OPTIONS: dict[str, Any] = dict.fromkeys(("model", "method", "sparsity", "epochs", "seed"))


def test_defaults_are_a_run_that_can_be_carried_out() -> None:
    config = parse_run(describe(None, None, NO_OPTIONS, ()))
    assert (config.method, config.dataset, config.sparsity) == ("acdc", "digits", 0.9)


def test_dense_has_sparsity_zero_by_default() -> None:
    assert describe(None, None, {"method": "dense"}, ())["sparsity"] == 0.0
    assert describe(None, None, {}, ("method=dense",))["sparsity"] == 0.0


def test_assignments_win_over_options_and_options_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("{model: resnet8, dataset: digits, method: gmp, epochs: 3, sparsity: 0.5}")
    options = NO_OPTIONS | {"epochs": 4, "sparsity": 0.6}
    data = describe(file, None, options, ("sparsity=0.7", "recipe.lr=0.3", "settings.updates=7"))
    assert data == {
        "model": "resnet8",
        "dataset": "digits",
        "method": "gmp",
        "epochs": 4,
        "sparsity": 0.7,
        "recipe": {"lr": 0.3},
        "settings": {"updates": 7},
    }


def test_an_assignment_keeps_its_neighbours_and_takes_yaml_values(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump(tiny_config("acdc").model_dump(mode="json")))
    data = describe(file, None, {}, ("settings.phases=[[dense, 0, 1], [sparse, 1, 4]]",))
    config = parse_run(data)
    assert config.settings.phases == (("dense", 0, 1), ("sparse", 1, 4))
    assert config.recipe == tiny_config("acdc").recipe
    assert describe(None, None, {}, ("settings.schedule=null",))["settings"] == {"schedule": None}
    assert parse_run(describe(None, None, {}, ("recipe.lr=1e-3",))).recipe.lr == 0.001


def test_train_writes_a_run_and_says_what_it_found(acdc: Any, tmp_path: Path) -> None:
    arguments = ["train", "--method", "dense", "--epochs", 1, "--seed", 3, "--runs", tmp_path]
    arguments += ["--set", "recipe.batch_size=256", "--device", "cpu"]
    status, output, errors = acdc(*arguments)
    assert status == 0
    (folder,) = tmp_path.iterdir()
    result = read_result(folder)
    assert result is not None
    assert result["config"]["recipe"]["batch_size"] == 256
    assert result["config"]["seed"] == 3
    lines = output.splitlines()
    assert lines[0] == f"{folder}: finished"
    accuracy = 100 * result["products"]["dense"]["last"]["test_accuracy"]
    assert lines[1].split()[:3] == ["dense", "sparsity", "0.00"]
    assert f"test accuracy {accuracy:.2f} %" in lines[1]
    assert "epoch   0" in errors
    status, again, errors = acdc(*arguments)
    assert (status, again) == (0, output)
    assert errors.splitlines() == [f"{folder.name} has finished already"]


def test_the_summary_says_what_was_pruned_where_and_what_is_not_certified(tmp_path: Path) -> None:
    result = train(
        tiny_config("acdc", settings={**METHOD_SETTINGS["acdc"], "dense_layers": ["first"]}),
        tmp_path,
    )
    _, *lines = summary(result, tmp_path)
    assert [line.split()[0] for line in lines] == list(result["products"])
    for line, records in zip(lines, result["products"].values(), strict=True):
        certificate = records["last"]["certificate"]
        assert f"sparsity {100 * certificate['achieved']:.2f} %" in line
        assert f"({100 * certificate['pruned']:.2f} % without conv1.weight)" in line
        ratio = result["flops"]["training_published"] / result["flops"]["dense_training"]
        assert f"(as published {ratio:.3f})" in line
    result["products"]["sparse"]["last"]["certificate"]["failures"] = ["too few zeros"]
    assert "  sparse  not certified: too few zeros" in summary(result, tmp_path)


def test_a_whole_description_can_be_given_as_json(acdc: Any, tmp_path: Path) -> None:
    config = tiny_config("dense", epochs=1)
    status, _, _ = acdc("train", "--json", config.canonical_json(), "--runs", tmp_path)
    assert status == 0
    result = json.loads((tmp_path / config.run_name / "result.json").read_text())
    assert result["fingerprint"] == config.fingerprint


MISTAKES: list[tuple[list[str], str]] = [
    (["--sparsity", "1"], "sparsity: 1.0 is out of range; [0, 1) is accepted"),
    (["--method", "acd"], "method: 'acd' is unknown; did you mean acdc?"),
    (["--set", "recipe.lrr=1"], "recipe.lrr: unknown key; did you mean lr?"),
    (["--set", "recipe.lr"], "--set: 'recipe.lr' has no '='; KEY=VALUE is accepted"),
    (["--set", "recipe.lr=[1"], "--set: recipe.lr: '[1' is not YAML"),
    (["--set", "seed=1", "--set", "seed.x=1"], "--set: seed.x: seed is not a group of keys"),
    (["--epochs", "5"], "epochs: 5 is too short for this schedule"),
    (["--config", "/nowhere/run.yaml"], "--config: /nowhere/run.yaml cannot be read"),
    (["--device", "cuda:99"], "--device: 'cuda:99' is not available; cpu"),
    (["--device", "gpu"], "--device: 'gpu' is not available; cpu"),
]


@pytest.mark.parametrize(
    ("arguments", "sentence"), MISTAKES, ids=[" ".join(m[0]) for m in MISTAKES]
)
def test_a_mistake_is_one_line_and_exit_status_two(
    arguments: list[str], sentence: str, acdc: Any, tmp_path: Path
) -> None:
    status, output, errors = acdc("train", *arguments, "--runs", tmp_path)
    assert status == 2
    assert output == ""
    assert errors.startswith(f"error: {sentence}"), errors
    assert errors.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"[1, 2]", "holds no mapping of keys to values"),
        (b"model: [", "is not YAML"),
        (b"model: \xff\xfe", "is not YAML"),
        (b"model: resnet8\n", "dataset: missing; a value is needed"),
    ],
)
def test_a_file_that_describes_no_run_is_refused(
    content: bytes, sentence: str, acdc: Any, tmp_path: Path
) -> None:
    file = tmp_path / "run.yaml"
    file.write_bytes(content)
    status, _, errors = acdc("train", "--config", file, "--runs", tmp_path / "runs")
    assert status == 2
    assert errors.startswith("error: ")
    assert sentence in errors
    assert errors.count("\n") == 1


def test_a_folder_that_cannot_be_written_ends_with_its_own_status(
    acdc: Any, tmp_path: Path
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    status, _, errors = acdc(
        "train", "--method", "dense", "--epochs", 1, "--runs", blocked / "runs"
    )
    assert status == 4
    assert errors.startswith("error: run resnet8_s2")
    assert f"cannot be written: {blocked}" in errors
    assert errors.count("\n") == 1


def test_an_unknown_option_ends_with_usage_and_status_two(acdc: Any) -> None:
    status, _, errors = acdc("train", "--sparsty", "0.9")
    assert status == 2
    assert "--sparsity" in errors


def test_help_names_every_option_and_gives_examples(acdc: Any) -> None:
    status, output, _ = acdc("train", "--help")
    assert status == 0
    for option in ("--config", "--model", "--dataset", "--method", "--sparsity", "--epochs"):
        assert option in output
    for option in ("--seed", "--set", "--runs", "--threads", "--device", "--checkpoint-interval"):
        assert option in output
    assert "Examples:" in output
    assert "acdc train --method acdc" in output


def cells(output: str) -> list[list[str]]:
    """Return the rows of the tables in an output, each cell's lines joined."""
    rows: list[list[list[str]]] = []
    for line in output.splitlines():
        if line.startswith("+"):
            rows.append([])
        elif line.startswith("|"):
            rows[-1].append([cell.strip() for cell in line.strip("|").split(" | ")])
    return [[" ".join(cell).strip() for cell in zip(*row, strict=True)] for row in rows if row]


def test_methods_lists_every_method_with_its_source_and_its_flops(acdc: Any) -> None:
    status, output, _ = acdc("methods")
    assert status == 0
    heading, *rows = cells(output)
    assert heading[:3] == ["name", "label", "source"]
    assert [row[0] for row in rows] == list(method_names())
    for row in rows:
        method = get_method(row[0])
        assert row[1] == method.label
        assert row[2]
        assert method.source.startswith(row[2])
        assert row[3] == method.flops_formula
        assert row[4:] == [str(len(method.Settings.model_fields)), str(len(method.deviations))]
    assert max(map(len, output.splitlines())) <= 120


def test_methods_shows_all_settings_and_deviations_of_those_that_are_asked_for(acdc: Any) -> None:
    status, output, _ = acdc("methods", *method_names())
    assert status == 0
    rows = cells(output)
    for name in method_names():
        method = get_method(name)
        assert f"{name}  ({method.label})" in output
        assert method.source in output
        assert f"Training FLOPs, as published: {method.flops_formula}" in output
        for key, field in method.Settings.model_fields.items():
            found = [row for row in rows if row[0] == f"settings.{key}"]
            description = " ".join((field.description or "").split())
            assert description
            default = method.Settings().model_dump(mode="json")[key]
            assert any(yaml.safe_load(d) == default and m == description for _, d, m in found)
        for deviation in method.deviations:
            assert [deviation.original, deviation.ours, deviation.why] in rows
    assert max(len(line) for line in output.splitlines() if line[:1] in "+|") <= 120


def test_methods_shows_only_those_that_are_asked_for_and_refuses_others(acdc: Any) -> None:
    status, output, _ = acdc("methods", "dense")
    assert status == 0
    assert "dense  (Dense)" in output
    assert "RigL" not in output
    status, output, errors = acdc("methods", "dense", "denser")
    assert status == 2
    assert output == ""
    assert errors.startswith("error: method: 'denser' is unknown;")
    assert "rigl" in errors


def test_a_pattern_is_a_text_also_on_the_command_line() -> None:
    data = describe(None, None, {"sparsity": 0.5}, ("settings.pattern=2:4",))
    assert data["settings"] == {"pattern": "2:4"}


def test_every_file_of_baselines_is_a_method() -> None:
    folder = Path(__file__).parents[1] / "baselines"
    files = {path.stem for path in folder.glob("*.py")} - {"__init__"}
    assert set(method_names()) == files | {"acdc", "acdc_dense"}
    for name in method_names():
        assert get_method(name).name == name


def test_a_new_file_is_a_new_method_without_registering_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "static_last.py").write_text(
        '"""A method of a test."""\n'
        "from baselines.one_shot import OneShot\n"
        "class Mine(OneShot):\n"
        "    name = 'static_last'\n"
        "    label = 'Mine'\n"
    )
    folders = [*baselines.__path__, str(tmp_path)]
    monkeypatch.setattr(baselines, "__path__", folders)
    monkeypatch.setattr(baselines.__spec__, "submodule_search_locations", folders)
    assert "static_last" in method_names()
    assert get_method("static_last").label == "Mine"
    config = parse_run(tiny_config("one_shot").model_dump() | {"method": "static_last"})
    assert config.method_class is get_method("static_last")
    assert "_static_last_" in config.slug


def test_the_module_runs_as_a_program() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "acdc", "train", "--sparsity", "-1"], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stderr == "error: sparsity: -1.0 is out of range; [0, 1) is accepted\n"
    assert done.stdout == ""
