"""The whole DAG: what a study makes, that it makes it once, and how failures read."""

from __future__ import annotations

import csv
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from acdc.config.yaml_io import assign
from tests.workflow.conftest import ROOT, TINY, Workplace
from theory.experiment import parse


def test_make_quick_makes_everything_and_a_second_one_nothing(tmp_path: Path) -> None:
    def make_quick() -> subprocess.CompletedProcess[str]:
        outside = ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")
        environment = {key: value for key, value in os.environ.items() if key not in outside}
        return subprocess.run(
            ["make", "quick", f"RESULTS={tmp_path}"],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            timeout=900,
        )

    first = make_quick()
    assert first.returncode == 0, first.stderr + first.stdout
    study = tmp_path / "quick"
    for path in (
        "report.html",
        "tables/table01.tex",
        "tables/table05.tex",
        "tables/runs.parquet",
        "tables/epochs.csv",
        "figures/figure05.pdf",
        "figures/figure05.png",
        "theory/t2_rate/trials.csv",
        "tables/theory.tex",
        "tables/theory_chapter.tex",
        "figures/theory_t2_rate.pdf",
        "mlflow.db",
        "study.json",
    ):
        assert (study / path).stat().st_size > 0, path
    assert f"{study}/report.html" in first.stdout
    assert "left" in first.stderr
    times = {path: path.stat().st_mtime_ns for path in study.glob("runs/*/result.json")}
    assert len(times) == len(json.loads((study / "study.json").read_text())["runs"])

    second = make_quick()
    assert second.returncode == 0, second.stderr
    assert "Nothing to do" in second.stdout
    assert {path: path.stat().st_mtime_ns for path in study.glob("runs/*/result.json")} == times


def jobs(dry_run: str) -> dict[str, int]:
    """Return how many jobs of each rule a dry run lists."""
    lines = dry_run.split("Job stats:")[-1].splitlines() if "Job stats:" in dry_run else []
    pairs = [line.split() for line in lines if len(line.split()) == 2]
    return {name: int(count) for name, count in pairs if count.isdigit() and name != "total"}


def dry(workplace: Workplace, scale: Path, *targets: str, **config: object) -> dict[str, int]:
    triggers = ("--rerun-triggers", "mtime", "params", "input")
    settings = [f"{key}={value}" for key, value in {"scale": scale, **config}.items()]
    done = workplace.snakemake("-n", *triggers, "--config", *settings, "--", *targets)
    assert done.returncode == 0, done.stderr
    return jobs(done.stdout + done.stderr)


def test_editing_code_or_touching_it_reruns_no_training(finished: Workplace) -> None:
    assert dry(finished, TINY) == {}
    source = ROOT / "acdc" / "training.py"
    status = source.stat()
    os.utime(source)
    try:
        assert dry(finished, TINY) == {}
    finally:
        os.utime(source, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_another_title_reruns_what_prints_it_and_no_training(
    finished: Workplace, tmp_path: Path
) -> None:
    scale = tmp_path / "retitled.yaml"
    scale.write_text(yaml.safe_dump(yaml.safe_load(TINY.read_text()) | {"title": "Another"}))
    rerun = dry(finished, scale)
    assert {"study", "aggregate", "table", "figure", "report"} <= set(rerun)
    assert not {"train", "data", "theory"} & set(rerun)


def test_another_layout_of_a_table_trains_nothing(finished: Workplace, tmp_path: Path) -> None:
    folder = tmp_path / "experiments"
    shutil.copytree(ROOT / "workflow" / "experiments", folder)
    path = folder / "table06.yaml"
    table = yaml.safe_load(path.read_text())
    table["columns"] = ["inference_ratio", *reversed(table["columns"])]
    table["rows"] = list(reversed(table["rows"]))
    table["rows"][0]["label"] = "another name"
    table["caption"] = "Another caption."
    path.write_text(yaml.safe_dump(table, sort_keys=False))
    rerun = dry(finished, TINY, experiments=folder)
    assert {"study", "table", "report"} <= set(rerun)
    assert not {"train", "data", "theory"} & set(rerun)


def test_another_setting_of_the_theory_reruns_its_experiment_and_what_shows_it(
    finished: Workplace, tmp_path: Path
) -> None:
    scale = tmp_path / "more.yaml"
    theory = {"t2_rate": {"trials": 3}}
    scale.write_text(yaml.safe_dump(yaml.safe_load(TINY.read_text()) | {"theory": theory}))
    rerun = dry(finished, scale)
    assert (rerun["theory"], rerun["theory_figure"]) == (1, 1)
    assert {"statements", "report"} <= set(rerun)
    assert not {"train", "data"} & set(rerun)


def test_an_experiment_of_the_theory_is_given_all_its_settings(workplace: Workplace) -> None:
    scale = workplace.folder / "exact.yaml"
    theory = {"t2_rate": {"trials": 3, "kappas": [1.5, 64.0], "tolerance": 1e-9, "seed": 5}}
    scale.write_text(yaml.safe_dump(yaml.safe_load(TINY.read_text()) | {"theory": theory}))
    done = workplace.snakemake("-n", "-p", "--config", f"scale={scale}", "--", "theory_t2_rate")
    assert done.returncode == 0, done.stderr
    (line,) = re.findall(r"acdc theory run (.*) >", done.stdout + done.stderr)
    name, _, folder, *words = shlex.split(line)
    assert (name, folder) == ("t2_rate", "results/tiny/theory/t2_rate")
    assert set(words[::2]) == {"--set"}
    given = assign({}, words[1::2])
    assert given.keys() == parse(name, {}).model_dump().keys()
    assert parse(name, given) == parse(name, theory[name])


def test_one_more_seed_trains_only_that_seed(finished: Workplace) -> None:
    plan = json.loads((finished.study / "study.json").read_text())
    rerun = dry(finished, TINY, seeds=2)
    assert rerun["train"] == len(plan["runs"])
    assert {"study", "aggregate", "table", "figure", "report", "track"} <= set(rerun)


@pytest.mark.parametrize(
    ("targets", "config", "runs"),
    [
        (["table06"], {}, 5),  # dense, AC/DC and AC/DC*, and the fine-tuning of the latter two
        (["figure05"], {}, 2),
        (["trained"], {"method": "acdc_dense"}, 4),
        (["trained"], {"experiment": "table06", "row": "AC/DC*"}, 2),
        (["table06"], {"seeds": 3}, 15),
    ],
)
def test_a_person_can_choose_what_is_made(
    workplace: Workplace, targets: list[str], config: dict[str, object], runs: int
) -> None:
    planned = dry(workplace, TINY, *targets, **config)
    assert planned["train"] == runs
    shown = (
        {"table": 1} if targets == ["table06"] else {"figure": 1} if "figure05" in targets else {}
    )
    assert {key: planned[key] for key in ("table", "figure") if key in planned} == shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["seed=5"], "--config: seed is unknown; did you mean seeds?"),
        (["method=acdc"], "--config: method choose what the rule trained makes"),
        (["scale=5"], "scale: '5' is unknown; "),
        (["experiments=5"], "experiments: 5 holds no YAML file"),
    ],
)
def test_a_wrong_configuration_is_one_sentence(
    workplace: Workplace, arguments: list[str], message: str
) -> None:
    scale = [] if arguments[0].startswith("scale") else [f"scale={TINY}"]
    done = workplace.snakemake("-n", "--config", *scale, *arguments)
    assert done.returncode == 1
    assert f"error: {message}" in done.stdout + done.stderr
    assert "this would train" not in done.stdout + done.stderr


def test_a_dry_run_ends_with_what_is_left_and_what_is_missing(workplace: Workplace) -> None:
    scale = workplace.folder / "lacking.yaml"
    task = {"model": "resnet20", "dataset": "cifar10", "epochs": 20}
    tiny = yaml.safe_load(TINY.read_text()) | {"tasks": {"imagenet-resnet50": task}}
    scale.write_text(yaml.safe_dump(tiny))
    settings = ("--config", f"scale={scale}", "data=nowhere")
    looked = workplace.snakemake("-n", "--quiet", "all", *settings)
    assert looked.returncode == 0, looked.stderr
    assert "5 runs in all, 0 done, 5 left" in looked.stderr
    *_, last = looked.stderr.splitlines()
    sentence = "lacking.yaml: tasks.imagenet-resnet50.dataset: dataset: cifar10 was found in none"
    assert last.startswith(f"{workplace.folder}/{sentence}")
    started = workplace.snakemake("-c1", "--quiet", "all", *settings)
    assert started.returncode == 1
    assert f"error: {workplace.folder}/{sentence}" in started.stderr
    assert not list((workplace.folder / "results").glob("tiny/runs/*"))


def test_a_removed_result_is_finished_again_without_training(
    workplace: Workplace, finished: Workplace
) -> None:
    run = next(finished.study.glob("runs/*acdc*"))
    (workplace.folder / "runs").mkdir()
    copy = workplace.folder / "runs" / run.name
    subprocess.run(["cp", "-r", str(run), str(copy)], check=True)
    original = json.loads((copy / "result.json").read_text())
    (copy / "result.json").unlink()
    subprocess.run(
        [
            *(sys.executable, "-m", "acdc", "train"),
            *("--config", str(copy / "config.yaml"), "--runs", str(copy.parent)),
        ],
        check=True,
        capture_output=True,
    )
    again = json.loads((copy / "result.json").read_text())
    assert again["timings"]["train_s"] == original["timings"]["train_s"]
    for result in (original, again):
        result.pop("timings")
    assert again == original


def test_the_cluster_profile_plans_every_run_with_its_requests() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "snakemake", "--profile", "slurm", "-n", "--", "figure08"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    blocks = (done.stdout + done.stderr).split("rule train:")[1:]
    assert blocks
    for block in blocks:
        resources = next(line for line in block.splitlines() if "resources:" in line)
        for request in ("gpu=1", "mem_mb_per_cpu=2000", "runtime=1440", "slurm_partition=gpu"):
            assert request in resources


def test_a_results_folder_that_cannot_be_written_is_one_sentence(workplace: Workplace) -> None:
    (workplace.folder / "results").write_text("a file where the folder should be")
    done = workplace.reproduce()
    assert done.returncode == 4
    assert done.stderr.startswith("error: results folder results cannot be written: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("scale", ["huge", "missing.yaml"])
def test_an_unknown_scale_is_one_sentence(workplace: Workplace, scale: str) -> None:
    done = workplace.reproduce(scale)
    assert done.returncode == 2
    assert f"error: scale: '{scale}' is unknown; paper, quick, small, smoke" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_damaged_data_file_stops_the_study_and_names_the_checksum(
    workplace: Workplace, finished: Workplace, tmp_path: Path
) -> None:
    folder = tmp_path / "damaged"
    folder.mkdir()
    for part in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
        (folder / f"{part}-ubyte").write_bytes(b"not images")
    task = {"model": "resnet8_s2", "dataset": "fashion_mnist", "epochs": 20}
    scale = tmp_path / "damaged.yaml"
    changed = {"tasks": {"imagenet-resnet50": task}}
    scale.write_text(yaml.safe_dump(yaml.safe_load(TINY.read_text()) | changed))
    done = workplace.reproduce(scale, ACDC_DATA=str(folder))
    assert done.returncode == 1
    assert f"{folder}/train-images-idx3-ubyte is damaged" in done.stderr
    assert "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888" in done.stderr


def table(study: Path, name: str) -> list[dict[str, str]]:
    with (study / "tables" / f"{name}.csv").open() as file:
        return list(csv.DictReader(file))


def test_a_run_that_cannot_be_written_leaves_a_report_without_it(
    workplace: Workplace, finished: Workplace
) -> None:
    run = next(
        path.name for path in (finished.study / "runs").iterdir() if "_acdc_s90_" in path.name
    )
    shutil.copytree(finished.study / "runs", workplace.study / "runs")
    shutil.rmtree(workplace.study / "runs" / run)
    in_the_way = workplace.study / "runs" / run / "config.yaml"
    in_the_way.mkdir(parents=True)
    done = workplace.reproduce()
    assert done.returncode == 1
    assert f"run {run} cannot be written" in done.stderr
    assert "of 5 runs so far" in (workplace.study / "report.html").read_text()
    (row,) = (row for row in table(workplace.study, "table06") if row["label"] == "AC/DC")
    assert row["dense_top1_pct_mean"] == ""

    in_the_way.rmdir()
    assert workplace.reproduce().returncode == 0
    for name in ("table06.csv", "table06.tex"):
        made, expected = (place.study / "tables" / name for place in (workplace, finished))
        assert made.read_text() == expected.read_text()


def test_a_run_that_has_failed_for_good_is_a_missing_cell_and_tried_again(
    workplace: Workplace, finished: Workplace
) -> None:
    shutil.copytree(finished.study / "runs", workplace.study / "runs")
    runs = {path.name.partition("_seed")[0]: path for path in (workplace.study / "runs").iterdir()}
    other, run = runs["resnet8_s2_digits_acdc-first-last_s90"], runs["resnet8_s2_digits_dense_s0"]
    shutil.rmtree(run)
    shutil.copytree(other / "checkpoint", run / "checkpoint")
    done = workplace.reproduce()
    assert done.returncode == 1
    assert f"{run.name}: checkpoint results/tiny/runs/{run.name}/checkpoint" in done.stderr
    (failed,) = (row for row in table(workplace.study, "table06") if row.get("failed") == "1")
    assert (failed["label"], failed["n"]) == ("Dense", "0")
    assert "belongs to run" in (workplace.study / "report.html").read_text()
    assert json.loads((run / "result.json").read_text())["status"] == "failed"

    shutil.rmtree(run)
    assert workplace.reproduce().returncode == 0
    (dense,) = (row for row in table(workplace.study, "table06") if row["label"] == "Dense")
    assert dense["n"] == "1"
    assert "failed" not in dense
