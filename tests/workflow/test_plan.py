"""The plan of a study, on runs that were trained and runs that were not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from acdc.errors import DataError
from study.model import Study, load
from tests.support import train
from workflow.forecast import forecast
from workflow.plan import closing_lines, errors, make_plan, plan_command
from workflow.speed import PEAKS, UTILISATION, Measured, table_name, work_of

TRAINED = ("dense", "one_shot", "gmp")


@pytest.fixture(scope="module")
def scale(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("scale") / "planned.yaml"
    task = {"model": "resnet8_s2", "dataset": "digits", "epochs": 20}
    described = {
        "name": "planned",
        "title": "For the tests of plans",
        "description": "Digits.",
        "experiments": ["methods", "table06", "theory_t2_rate"],
        "tasks": {"imagenet-resnet50": {**task, "recipe": {"batch_size": 512}}},
        "overrides": [
            {
                "method": "woodfisher",
                "settings": {"fisher_batches": 4, "fisher_batch_size": 50, "begin": 0.1},
            }
        ],
        "sparsities": [0.9],
        "seeds": [1],
    }
    file.write_text(yaml.safe_dump(described))
    return file


@pytest.fixture(scope="module")
def results(scale: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of results in which some runs of the study have been trained."""
    folder = tmp_path_factory.mktemp("results")
    for run in load(str(scale)).runs.values():
        if run.method in TRAINED:
            assert train(run, folder / "planned" / "runs")["status"] == "finished"
    return folder


@pytest.fixture(scope="module")
def study(scale: Path) -> Study:
    return load(str(scale))


def test_every_run_is_added_once(study: Study, results: Path) -> None:
    plan = make_plan(study, results)
    assert [line.id for line in plan.lines] == ["methods", "table06", "theory_t2_rate"]
    assert sum(line.adds.runs for line in plan.lines) == plan.total.total.runs == len(study.runs)
    flops = sum(line.adds.training_flops for line in plan.lines)
    assert flops == pytest.approx(sum(forecast(r).own_flops for r in study.runs.values()))
    assert flops == pytest.approx(plan.total.total.training_flops)
    assert plan.total.done == sum(run.method in TRAINED for run in study.runs.values())
    first, second, theory = plan.lines
    assert first.adds == first.total
    both = set(study.runs_of("methods")) & set(study.runs_of("table06"))
    assert both
    assert second.total.runs - second.adds.runs == len(both)
    assert theory.total.runs == 0


def test_time_is_measured_where_runs_have_measured_it(study: Study, results: Path) -> None:
    plan = make_plan(study, results)
    assert plan.device == "cpu"
    assert "measured" in plan.speeds[0]
    config = next(run for run in study.runs.values() if run.method == "dense")
    rate = Measured.below(results).rate(work_of(config, "cpu"))
    assert rate is not None
    records = (results / "planned" / "runs" / config.run_name / "journal.jsonl").read_text()
    seconds = [json.loads(line).get("train_s", 0) for line in records.splitlines()]
    rates = Measured.below(results).rates[work_of(config, "cpu")]
    assert rates[config.run_name] == pytest.approx(20 * 1024 / sum(seconds))
    expected = sum(forecast(run).computed_flops for run in study.runs.values())
    an_image = forecast(config).computed_flops / forecast(config).images
    assert plan.total.total.gpu_hours == pytest.approx(expected / an_image / rate / 3600)


def test_time_is_assumed_where_nothing_has_run(study: Study, results: Path) -> None:
    plan = make_plan(study, results, "a100")
    assert plan.device == "a100"
    assert "19 % of 19.5 TFLOP/s" in plan.speeds[0]
    expected = sum(forecast(run).computed_flops for run in study.runs.values())
    assert plan.total.total.gpu_hours == pytest.approx(expected / 19.5e12 / UTILISATION / 3600)
    # The anchor itself: 2,470 images/s of ResNet50.
    assert pytest.approx(UTILISATION, abs=0.005) == 2470 * 3 * 8_178_368_512 / 312e12


def test_names_of_gpus() -> None:
    assert table_name("NVIDIA A100-SXM4-80GB") == "a100"
    assert table_name("NVIDIA GeForce RTX 2080 Ti") is None
    assert table_name("NVIDIA GeForce RTX 2080") == "rtx2080"
    assert table_name("NVIDIA H100 80GB HBM3") == "h100"
    assert table_name("cpu") is None
    assert all("fp32" in peaks for peaks in PEAKS.values())


def test_closing_lines_count_what_would_be_trained_and_what_is_left(
    study: Study, results: Path, tmp_path: Path
) -> None:
    total = len(study.runs)
    chosen = study.select(method="gmp")
    now, whole, _ = closing_lines(study, tmp_path, chosen)
    assert now.startswith(f"this would train {len(chosen)} runs: ")
    assert f": {total} runs in all, 0 done, {total} left: " in whole
    done = sum(run.method in TRAINED for run in study.runs.values())
    now, whole, _ = closing_lines(study, results, [])
    assert now.startswith("this would train 0 runs: 0 training FLOPs, 0 h on ")
    assert f"{total} runs in all, {done} done, {total - done} left" in whole
    plan = make_plan(study, results)
    costs = [plan.runs[run].training_flops for run in chosen]
    assert f"{sum(costs):.3g} training FLOPs" in closing_lines(study, tmp_path, chosen)[0]


def test_the_estimates_of_finished_runs_are_checked(
    study: Study, results: Path, tmp_path: Path
) -> None:
    found = errors(study, results)
    assert set(found) == set(TRAINED)
    assert max(map(abs, found["dense"]["training FLOPs"])) < 1e-9
    for quantities in found.values():
        assert max(map(abs, quantities["storage"])) < 0.02
    assert found["gmp"]["time"]
    assert not found["one_shot"]["time"]  # trains nothing itself
    with pytest.raises(DataError, match="holds no finished run"):
        errors(study, tmp_path)


def test_the_command(scale: Path, results: Path, tmp_path: Path) -> None:
    def output(*arguments: str) -> str:
        done = CliRunner().invoke(
            plan_command, ["--scale", str(scale), "--results", str(results), *arguments]
        )
        assert done.exit_code == 0, done.output
        return done.output

    text = output("--gpu", "h100")
    assert all(word in text for word in ("methods", "table06", "total", "adds", "h100"))
    data = json.loads(output("--json"))
    assert data["total"]["total"]["runs"] == data["total"]["done"] + data["total"]["left"]["runs"]
    assert "gmp" in output("--check")
    # Where the device is not known there is no measurement, and no reason to stop.
    copy = shutil.copytree(results, tmp_path / "results")
    for path in copy.glob("*/runs/*/provenance.json"):
        path.write_text("{")
    assert Measured.below(copy).rates == {}
