"""The command line: options, files and assignments in order, and mistakes as one line."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml

import baselines
from acdc.cli import describe, targets_of
from acdc.config.run import RunConfig, parse_run
from acdc.distributed import from_environment
from acdc.frozen import tuples
from acdc.methods.registry import get_method, method_names
from acdc.run.progress import print_summary
from acdc.run.result import FinishedResult, read_result
from tests.support import METHOD_SETTINGS, tiny_config, train

NO_OPTIONS: dict[str, Any] = dict.fromkeys(("model", "method", "sparsity", "epochs", "seed"))


def write_config(file: Path, config: RunConfig) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    return file


def test_defaults() -> None:
    config = parse_run(describe(None, NO_OPTIONS))
    assert (config.method, config.dataset, config.sparsity) == ("acdc", "digits", 0.9)


def test_dense_has_sparsity_zero_by_default() -> None:
    assert describe(None, {"method": "dense"})["sparsity"] == 0.0
    assert describe(None, {}, ("method=dense",))["sparsity"] == 0.0


def test_assignments_win_over_options_and_options_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("{model: resnet8, dataset: digits, method: gmp, epochs: 3, sparsity: 0.5}")
    options = NO_OPTIONS | {"epochs": 4, "sparsity": 0.6}
    data = describe(file, options, ("sparsity=0.7", "recipe.lr=0.3", "settings.updates=7"))
    assert data == {
        "model": "resnet8", "dataset": "digits", "method": "gmp", "epochs": 4, "sparsity": 0.7,
        "recipe": {"lr": 0.3}, "settings": {"updates": 7}}  # fmt: skip


def test_assignments_keep_their_neighbours_and_take_yaml_values(tmp_path: Path) -> None:
    file = write_config(tmp_path / "run.yaml", tiny_config("acdc"))
    config = parse_run(describe(file, {}, ("settings.phases=[[dense, 0, 1], [sparse, 1, 4]]",)))
    assert config.settings.phases == (("dense", 0, 1), ("sparse", 1, 4))
    assert config.recipe == tiny_config("acdc").recipe
    assert describe(None, {}, ("settings.schedule=null",))["settings"] == {"schedule": None}
    assert parse_run(describe(None, {}, ("recipe.lr=1e-3",))).recipe.lr == 0.001
    assert describe(None, {}, ("settings.pattern=2:4",))["settings"] == {"pattern": "2:4"}


def test_seeds_are_runs_of_their_own(tmp_path: Path) -> None:
    data = describe(None, {"method": "dense"})
    found = list(targets_of(None, data, "1,2,5", tmp_path))
    assert [config.seed for config, _ in found] == [1, 2, 5]
    assert {runs for _, runs in found} == {tmp_path}
    assert {config.model_copy(update={"seed": 0}) for config, _ in found} == {
        parse_run(data).model_copy(update={"seed": 0})
    }


def test_options_make_a_run(acdc: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["train", "--method", "dense", "--epochs", 1, "--seed", 3, "--runs", tmp_path]
    arguments += ["--set", "recipe.batch_size=256", "--device", "cpu"]
    status, output, errors = acdc(*arguments)
    assert status == 0
    (folder,) = tmp_path.iterdir()
    result = read_result(folder)
    assert isinstance(result, FinishedResult)
    assert result.config["recipe"]["batch_size"] == 256
    assert result.config["seed"] == 3
    accuracy = 100 * result.products["dense"].last.test_accuracy
    assert f"test accuracy {accuracy:.2f} %" in output
    assert "epoch   0" in errors
    status, again, errors = acdc(*arguments)
    assert (status, again) == (0, output)
    assert folder.name in errors


def test_files_are_trained_in_one_process_and_leave_a_receipt(acdc: Any, tmp_path: Path) -> None:
    own, other = tiny_config("dense", epochs=1), tiny_config("dense", epochs=1, seed=2)
    runs, elsewhere = tmp_path / "study" / "runs", tmp_path / "elsewhere"
    files = [
        write_config(runs / own.run_name / "config.yaml", own),
        write_config(tmp_path / "other.yaml", other),
    ]
    receipt = tmp_path / "receipts" / "job.json"
    status, _, _ = acdc("train", *files, "--runs", elsewhere, "--receipt", receipt)
    assert status == 0
    expected = {}
    for folder in (runs / own.run_name, elsewhere / other.run_name):
        digest = hashlib.sha256((folder / "result.json").read_bytes()).hexdigest()
        expected[folder.name] = {"status": "finished", "result_sha256": digest}
    assert json.loads(receipt.read_text()) == {"runs": expected}


def test_no_receipt_before_all_runs_have_ended(acdc: Any, tmp_path: Path) -> None:
    good, bad = (tiny_config("dense", epochs=1, seed=seed) for seed in (1, 2))
    files = [write_config(tmp_path / f"{config.seed}.yaml", config) for config in (bad, good)]
    runs, receipt = tmp_path / "runs", tmp_path / "receipt.json"
    runs.mkdir()
    (runs / bad.run_name).write_text("in the place of the run's folder")
    status, _, errors = acdc("train", *files, "--runs", runs, "--receipt", receipt)
    assert status == 4
    assert bad.run_name in errors
    assert read_result(runs / good.run_name) is not None, "a failure leaves the other runs alone"
    assert not receipt.exists()


def test_summary(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = {**METHOD_SETTINGS["acdc"], "dense_layers": ["first"]}
    result = train(tiny_config("acdc", settings=settings), tmp_path)
    result["products"]["sparse"]["last"]["certificate"]["failures"] = ["too few zeros"]
    print_summary(FinishedResult.model_validate_json(json.dumps(result)), tmp_path)
    output = capsys.readouterr().out
    ratio = result["flops"]["training_published"] / result["flops"]["dense_training"]
    for records in result["products"].values():
        certificate = records["last"]["certificate"]
        assert f"sparsity {100 * certificate['achieved']:.2f} %" in output
        assert f"({100 * certificate['pruned']:.2f} % without conv1.weight)" in output
        assert f"(as published {ratio:.3f})" in output
    assert "too few zeros" in output


NUMBERS = ("--checkpoint-interval", "--wait")
COUNTS = ("--threads", "--processes", "--nodes", "--at-once", "--workers")
MISTAKES: list[tuple[list[str], str]] = [
    *(([option, v], option) for option in NUMBERS for v in ("nan", "inf", "-1", "", "1h")),
    *(([option, v], option) for option in COUNTS for v in ("0", "-1", "1.5", "100000000")),
    *(([option, v], option) for option in ("--epochs", "--seed") for v in ("1e30", "nan", "0.5")),
    *((["--epochs", v], "epochs") for v in ("0", "5", "-1", "10000000", "9" * 30)),
    *((["--seed", v], "seed") for v in ("-1", "9" * 30)),
    *((["--sparsity", v], "sparsity") for v in ("nan", "inf", "-inf", "1e400", "1")),
    *(([option, ""], option) for option in ("--runs", "--receipt", "--device", "--seeds")),
    *((["--nodes", v, "--processes", "2"], "--nodes") for v in ("3", "4")),
    *((["--seeds", v], "--seeds") for v in ("1,1", "1,x", "1," + "9" * 5000)),
    *((["--device", v], "--device") for v in ("gpu", "meta", "cpu:3", "mps", "cuda:x", "cuda:99")),
    (["--method", "acd"], "method"),
    (["--lr", "0.1"], "recipe.lr"),
    (["--weight-decay", "0.1"], "recipe.weight_decay"),
    (["--batch-size=64"], "recipe.batch_size"),
    (["--precision", "bf16"], "--set precision"),
    (["--sparsty", "0.9"], "--sparsity"),
    (["--set", "epochs=true"], "epochs"),
    (["--set", "recipe.lrr=1"], "recipe.lrr"),
    (["--set", "recipe.lr"], "--set"),
    (["--set", "recipe.lr=[1"], "--set"),
    (["--set", "seed=1", "--set", "seed.x=1"], "--set"),
    (["--set", "recipe={{ recipe }}"], "--set"),
    (["--set", "recipe=" + "[" * 20_000], "--set"),
    (["--set", "model=" + "x" * 10_000], "model"),
    (["/nowhere/run.yaml"], "/nowhere/run.yaml"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "key"), MISTAKES, ids=[" ".join(a)[:40] for a, _ in MISTAKES]
)
def test_a_mistake_is_named_before_anything_starts(
    arguments: list[str], key: str, acdc: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    status, output, errors = acdc("train", *arguments)
    assert (status, output) == (2, "")
    assert key in errors
    assert len(errors) < 1000
    # One line, or those of click, which begin with how the command is used.
    assert errors.count("\n") == 1 or errors.startswith("Usage:")
    assert not list(tmp_path.iterdir())


LEFTOVERS: list[tuple[dict[str, str], str]] = [
    ({"RANK": "first"}, "RANK"), ({"RANK": "0"}, "WORLD_SIZE"), ({"WORLD_SIZE": "2"}, "RANK"),
    ({"WORLD_SIZE": "0"}, "RANK"), ({"RANK": "0", "WORLD_SIZE": "0"}, "RANK"),
    ({"RANK": "1", "WORLD_SIZE": "1"}, "RANK"), ({"RANK": "0", "WORLD_SIZE": "two"}, "WORLD_SIZE"),
    ({"RANK": "0", "WORLD_SIZE": "2"}, "LOCAL_RANK"),
    ({"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}, "MASTER_PORT"),
    ({"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "x", "MASTER_PORT": "1"}, "LOCAL_RANK"),
    ({"RANK": "9" * 5000, "WORLD_SIZE": "2"}, "RANK")]  # fmt: skip


@pytest.mark.parametrize(("left", "name"), LEFTOVERS, ids=[str(x)[:60] for x, _ in LEFTOVERS])
def test_ranks_left_in_the_environment_are_named(
    left: dict[str, str], name: str, acdc: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key, value in left.items():
        monkeypatch.setenv(key, value)
    status, output, errors = acdc("train", "--method", "dense", "--runs", tmp_path)
    assert (status, output) == (2, "")
    assert errors.startswith(f"error: {name}")
    assert errors.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_job_of_one_process_is_a_single_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (from_environment().rank, from_environment().count) == (0, 1)
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert (from_environment().rank, from_environment().count) == (0, 1)


@pytest.mark.parametrize(
    "content", [b"[1, 2]", b"model: [", b"model: \xff\xfe", b"model: resnet8\n"]
)
def test_a_file_that_describes_no_run(content: bytes, acdc: Any, tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_bytes(content)
    status, _, errors = acdc("train", file, "--runs", tmp_path / "runs")
    assert status == 2
    assert errors.startswith(f"error: {file}")
    assert errors.count("\n") == 1


@pytest.mark.parametrize(
    ("options", "status", "named"),
    [
        (["--runs", "file"], 2, "file"),
        (["--runs", "file/runs"], 4, "file"),
        (["--receipt", "file/receipt"], 4, "file"),
        (["--receipt", "fifo"], 4, "fifo"),
    ],
)
def test_a_place_that_cannot_be_written(
    options: list[str],
    status: int,
    named: str,
    acdc: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    os.mkfifo("fifo")
    code, _, errors = acdc("train", "--method", "dense", "--epochs", "1", *options)
    assert code == status
    assert named in errors.splitlines()[-1]


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
    _, *rows = cells(output)
    assert [row[0] for row in rows] == list(method_names())
    for row in rows:
        method = get_method(row[0])
        assert row[1] == method.label
        assert row[2]
        assert method.source.startswith(row[2])
        assert row[3] == method.flops_formula
        assert row[4:] == [str(len(method.Settings.model_fields)), str(len(method.deviations))]
    assert max(map(len, output.splitlines())) <= 120


def test_methods_shows_all_settings_and_deviations(acdc: Any) -> None:
    status, output, _ = acdc("methods", *method_names())
    assert status == 0
    rows = cells(output)
    for name in method_names():
        method = get_method(name)
        assert method.source in output
        for key, field in method.Settings.model_fields.items():
            found = [row for row in rows if row[0] == f"settings.{key}"]
            description = " ".join((field.description or "").split())
            assert description
            default = tuples(getattr(method.Settings(), key))
            assert any(
                tuples(yaml.safe_load(d)) == default and m == description for _, d, m in found
            )
        for deviation in method.deviations:
            assert [deviation.original, deviation.ours, deviation.why] in rows
    assert max(len(line) for line in output.splitlines() if line[:1] in "+|") <= 120


def test_methods_refuses_unknown_names(acdc: Any) -> None:
    status, output, _ = acdc("methods", "dense")
    assert status == 0
    assert "RigL" not in output
    status, output, errors = acdc("methods", "dense", "denser")
    assert (status, output) == (2, "")
    assert "rigl" in errors


def test_every_file_of_baselines_is_a_method() -> None:
    folder = Path(__file__).parents[1] / "baselines"
    files = {path.stem for path in folder.glob("*.py") if not path.stem.startswith("_")}
    assert files <= set(method_names()) | {"acdc", "acdc_dense"}
    for name in method_names():
        assert get_method(name).name == name


def test_a_new_file_is_a_new_method(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
