"""The whole DAG: what a study makes, that it makes it once, and how failures read."""

import csv
import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from study.resolve import load
from tests.workflow.conftest import ROOT, TINY, Workplace

pytestmark = pytest.mark.slow

OUTPUTS = (
    *("report.html", "study.json", "mlflow.db", "theory/t2_rate/trials.csv"),
    *("tables/table06.tex", "tables/runs.parquet", "tables/epochs.csv", "tables/theory.tex"),
    *("tables/claims.csv", "tables/theory_chapter.tex"),
    *("figures/figure05.pdf", "figures/figure05.png"),
    "figures/theory_t2_rate.pdf",
)


def modified(study: Path) -> dict[Path, int]:
    return {path.relative_to(study): path.stat().st_mtime_ns for path in study.glob("runs/*/*")}


def edited(folder: Path, **changes: Any) -> Path:
    path = folder / "edited.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(TINY.read_text()) | changes))
    return path


def table(study: Path, name: str) -> list[dict[str, str]]:
    with (study / "tables" / f"{name}.csv").open() as file:
        return list(csv.DictReader(file))


def test_a_study_is_made_once(finished: Workplace) -> None:
    for path in OUTPUTS:
        assert (finished.study / path).stat().st_size > 0, path
    before = modified(finished.study)
    results = [path for path in before if path.name == "result.json"]
    assert {path.parent.name for path in results} == set(load(str(TINY)).runs)
    again = finished.reproduce()
    assert again.returncode == 0, again.stderr
    assert "Nothing to do" in again.stdout
    assert "results/tiny/report.html" in again.stdout
    verdicts = Counter(line["verdict"] for line in table(finished.study, "claims"))
    assert all(f"{count} {verdict}" in again.stdout for verdict, count in verdicts.items())
    assert modified(finished.study) == before


def test_layout_trains_nothing(finished: Workplace, tmp_path: Path) -> None:
    experiments = tmp_path / "experiments"
    shutil.copytree(ROOT / "workflow" / "experiments", experiments)
    path = experiments / "table06.yaml"
    layout = yaml.safe_load(path.read_text())
    layout["columns"] = ["inference_ratio", *reversed(layout["columns"])]
    layout["rows"] = list(reversed(layout["rows"]))
    layout["rows"][0]["label"] = "another name"
    layout["caption"] = "Another caption."
    path.write_text(yaml.safe_dump(layout, sort_keys=False))
    scale = edited(tmp_path, title="Another", theory={"t2_rate": {"trials": 3}})
    planned = finished.plan(scale=scale, experiments=experiments)
    assert not {"train", "data"} & set(planned)
    assert {"study", "aggregate", "table", "figure", "statements", "report"} <= set(planned)
    # Another setting of the theory.
    assert (planned["theory"], planned["theory_figure"]) == (1, 1)


def test_one_more_seed_trains_that_seed(finished: Workplace, workplace: Workplace) -> None:
    shutil.copytree(finished.study, workplace.study)
    shutil.copytree(finished.folder / ".snakemake", workplace.folder / ".snakemake")
    before = modified(workplace.study)
    chosen = (f"scale={TINY}", "seeds=2", "method=dense")
    done = workplace.snakemake("-c2", "trained", "--config", *chosen)
    assert done.returncode == 0, done.stderr
    after = modified(workplace.study)
    assert {path: after[path] for path in before} == before
    (new,) = {path.parent.name for path in after.keys() - before.keys()}
    assert (new in load(str(TINY), 2).runs, "_dense_s0_seed2" in new) == (True, True)


def test_removed_and_failed_runs_are_trained_again(
    finished: Workplace, workplace: Workplace
) -> None:
    """A run that fails for good is a missing cell; the next start retries it and nothing else.

    All runs share a job, so that the others train although it fails.
    """
    scale = edited(workplace.folder, bundle=8)
    shutil.copytree(finished.study, workplace.study)
    shutil.copytree(finished.folder / ".snakemake", workplace.folder / ".snakemake")
    runs = {path.name.partition("_seed")[0]: path for path in (workplace.study / "runs").iterdir()}
    other, run = runs["resnet8_s2_digits_acdc-first-last_s90"], runs["resnet8_s2_digits_dense_s0"]
    shutil.rmtree(run)
    shutil.copytree(other / "checkpoint", run / "checkpoint")
    before = {p: t for p, t in modified(workplace.study).items() if p.parent.name != run.name}
    done = workplace.reproduce(scale)
    assert done.returncode == 1
    assert f"{run.name}: " in done.stderr
    (failed,) = (row for row in table(workplace.study, "table06") if row.get("failed") == "1")
    assert (failed["label"], failed["n"]) == ("Dense", "0")
    assert json.loads((run / "result.json").read_text())["status"] == "failed"
    assert "belongs to run" in (workplace.study / "report.html").read_text()

    shutil.rmtree(run / "checkpoint")
    done = workplace.reproduce(scale)
    assert done.returncode == 0, done.stderr
    after = modified(workplace.study)
    assert {path: after[path] for path in before} == before
    for name in ("table06.csv", "table06.tex"):
        made, expected = (place.study / "tables" / name for place in (workplace, finished))
        assert made.read_text() == expected.read_text()


def test_an_unwritable_run_leaves_a_partial_report(
    finished: Workplace, workplace: Workplace
) -> None:
    shutil.copytree(finished.study / "runs", workplace.study / "runs")
    run = next(path for path in (workplace.study / "runs").iterdir() if "_acdc_s90_" in path.name)
    config = (run / "config.yaml").read_bytes()
    shutil.rmtree(run)
    (run / "journal.jsonl").mkdir(parents=True)
    (run / "config.yaml").write_bytes(config)
    done = workplace.reproduce()
    assert done.returncode == 1
    assert run.name in done.stderr
    assert not (workplace.study / "report.html").exists()
    report = (workplace.study / "partial" / "report.html").read_text()
    assert "4 of 5 runs" in report
    (log,) = (workplace.study / "logs" / "train").glob("*_acdc_s90_*.attempts.log")
    before = log.read_text()
    workplace.snakemake("-c1", "trained", "--config", f"scale={TINY}", "method=acdc")
    # The output of every attempt survives.
    assert log.read_text().startswith(before)
    assert len(log.read_text()) > len(before)


def test_configuration_errors_and_missing_data(workplace: Workplace) -> None:
    for arguments, key in (
        ([f"scale={TINY}", "seed=5"], "--config seed=5: "),
        ([f"scale={TINY}", "method=acdc"], "--config method: "),
    ):
        done = workplace.snakemake("-n", "--config", *arguments)
        assert done.returncode == 1
        assert f"error: {key}" in done.stdout + done.stderr
        assert "this would train" not in done.stdout + done.stderr
    task = {"model": "resnet20", "dataset": "cifar10", "epochs": 20}
    scale = edited(workplace.folder, tasks={"imagenet-resnet50": task})
    settings = ("--config", f"scale={scale}", "data=nowhere")
    planned = workplace.snakemake("-n", "--quiet", "all", *settings)
    assert planned.returncode == 0, planned.stderr
    assert "5 runs in all, 0 done, 5 left" in planned.stderr
    *_, last = planned.stderr.splitlines()
    assert "tasks.imagenet-resnet50.dataset=cifar10: " in last
    started = workplace.snakemake("-c1", "--quiet", "all", *settings)
    assert started.returncode == 1
    assert f"error: {last}" in started.stderr
    assert not list((workplace.folder / "results").glob("tiny/runs/*"))


def test_a_damaged_data_file_stops_the_study(workplace: Workplace) -> None:
    folder = workplace.folder / "damaged"
    folder.mkdir()
    for part in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
        (folder / f"{part}-ubyte").write_bytes(b"not images")
    task = {"model": "resnet8_s2", "dataset": "fashion_mnist", "epochs": 20}
    scale = edited(workplace.folder, tasks={"imagenet-resnet50": task})
    done = workplace.reproduce(scale, ACDC_DATA=str(folder))
    assert done.returncode == 1
    assert f"{folder}/train-images-idx3-ubyte" in done.stderr
    assert "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888" in done.stderr


def test_the_cluster_profile_plans_a_job_per_run() -> None:
    done = Workplace(ROOT).snakemake("--profile", "slurm", "-n", "--", "figure08")
    assert done.returncode == 0, done.stderr
    blocks = (done.stdout + done.stderr).split("rule train:")[1:]
    assert len(blocks) == len(load("paper").experiment("figure08").runs)
    for block in blocks:
        resources = next(line for line in block.splitlines() if "resources:" in line)
        for request in ("gpu=1", "mem_mb_per_cpu=2000", "runtime=1440", "slurm_partition=gpu"):
            assert request in resources
