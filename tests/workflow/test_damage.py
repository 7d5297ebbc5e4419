"""Whatever state the files of runs are in, the commands name what is damaged and do the rest."""

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from acdc.run.reader import read_run
from study.model import STUDY
from study.resolve import load
from tests.reports.tiny import invoke, make_study
from tests.run.test_reader import DAMAGES, FAILURE, JOURNALS, damage
from workflow.status import status


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("results") / "tiny"
    folder.mkdir()
    make_study(folder)
    for run in (folder / "runs").iterdir():
        config = json.loads((run / "result.json").read_text())["config"]
        (run / "config.yaml").write_text(yaml.safe_dump(config))
    return folder


BROKEN = [*DAMAGES, *(("journal.jsonl", how) for how in JOURNALS.values())]


def test_every_command_survives(study: Path, acdc: Any, tmp_path: Path) -> None:
    copy = shutil.copytree(study, tmp_path / "tiny")
    runs = sorted((copy / "runs").iterdir())
    whole, *others = (run for run in runs if has_sparse_model(run))
    named: list[Path] = []
    stride = len(BROKEN) // len(others)
    for run, (name, how) in zip(others, BROKEN[::stride], strict=False):
        (run / "failed.json").write_text(json.dumps(FAILURE.model_dump()))
        damage(run, name, how)
        record = read_run(run)
        assert record.problems or record.journal.problem
        named.append(run / name)
    status, output, _ = acdc("status", "--scale", "tiny", "--results", tmp_path, "--json")
    assert status == 0
    assert {run["run"]: run["status"] for run in json.loads(output)["runs"]}[whole.name] == "done"
    status, output, _ = acdc("stale", "--results", tmp_path)
    assert (status, f"{len(runs)} results" in output) == (0, "config.yaml" not in str(named))
    for command in (["aggregate"], ["table", "table1"], ["report"]):
        invoke(*command, "--results", copy)
    with (copy / "tables" / "runs.csv").open() as file:
        statuses = {row["run"]: row["status"] for row in csv.DictReader(file)}
    assert statuses[whole.name] == "finished"
    lost = [path.parent.name for path in named if path.name in ("result.json", "config.yaml")]
    assert {statuses[run] for run in lost} == {"failed"}
    status, _, errors = acdc("sync", copy)
    assert status == 4
    assert "Traceback" not in errors
    for path in named:
        assert f"{path.parent.name}/{path.name}" in errors


def has_sparse_model(run: Path) -> bool:
    return "sparse" in json.loads((run / "result.json").read_text())["products"]


@pytest.mark.parametrize("content", ["{}", "[]", '{"runs": null}', "{"])
def test_a_damaged_study_is_named_and_resolved_again(tmp_path: Path, content: str) -> None:
    path = tmp_path / "quick" / STUDY
    path.parent.mkdir()
    path.write_text(content)
    done = CliRunner().invoke(status, ["--scale", "quick", "--results", str(tmp_path), "--json"])
    assert done.exit_code == 0, done.output
    assert str(path) in done.stderr
    assert len(json.loads(done.stdout)["runs"]) == len(load("quick").runs)
