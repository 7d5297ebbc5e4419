"""The folder of a study: its lease, its receipts, the configurations of its runs."""

import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml

from acdc.config.run import parse_run
from acdc.errors import Resumable, RunDirectoryError
from acdc.run.batch import write_receipt
from acdc.run.result import FailedResult
from study.jobs import training_jobs
from study.model import Study
from study.resolve import load
from tests.workflow.conftest import TINY
from tests.workflow.ended import end
from workflow.suite import SoleSuite, drop_receipts, drop_tracking, failed, write_configs


@pytest.fixture(scope="module")
def study() -> Study:
    return load(str(TINY), seeds=2)


def receipt(study: Study, folder: Path, job: str, *without: str) -> Path:
    """Write the receipt of a job of all seeds, as ``acdc train`` does."""
    path = folder / "receipts" / f"{job}.json"
    statuses = {}
    for run in training_jobs(study)[job]:
        if run not in without:
            config = dict(study.runs[run].config)
            end(folder / "runs" / run, FailedResult, config, error="broken", exit_status=3)
            write_receipt(path, [folder / "runs" / run])
            about = json.loads(path.read_text())["runs"][run]
            statuses[run] = about | {"status": "finished"}
    path.write_text(json.dumps({"runs": statuses}))
    return path


def test_receipts_of_ended_jobs_stay_and_others_are_dropped(study: Study, tmp_path: Path) -> None:
    jobs = training_jobs(study)
    job, (first, second) = next(iter(jobs.items()))
    path = receipt(study, tmp_path, job)
    drop_receipts(tmp_path, jobs)
    assert path.exists()
    # One run per job, after all seeds in one, and the other way round.
    drop_receipts(tmp_path, training_jobs(study, 1))
    assert path.exists()
    result = tmp_path / "runs" / second / "result.json"
    before = result.read_bytes()
    for change in ("missing", "other"):
        if change == "missing":
            result.unlink()
        else:
            result.write_bytes(before + b"\n")
        drop_receipts(tmp_path, jobs)
        assert not path.exists(), change
        path = receipt(study, tmp_path, job)
    # One more seed.
    path = receipt(study, tmp_path, job, second)
    drop_receipts(tmp_path, {job: (first,)})
    assert path.exists()
    drop_receipts(tmp_path, jobs)
    assert not path.exists()
    # A failed run.
    write_receipt(path, [tmp_path / "runs" / run for run in (first, second)])
    drop_receipts(tmp_path, jobs)
    assert not path.exists()
    assert failed(tmp_path, [first, *list(study.runs)[-1:]]) == {first: "broken"}
    path.write_text("{")
    drop_receipts(tmp_path, jobs)
    assert not path.exists()


def test_receipts_of_another_suite_at_work_stay(study: Study, tmp_path: Path) -> None:
    jobs = training_jobs(study)
    path = receipt(study, tmp_path, next(iter(jobs)))
    (tmp_path / "runs" / next(iter(jobs)) / "result.json").unlink()
    suite = SoleSuite(tmp_path)
    suite.enter()
    drop_receipts(tmp_path, jobs)
    assert path.exists()
    suite.leave()
    drop_receipts(tmp_path, jobs)
    assert not path.exists()


def test_one_suite_at_a_time(tmp_path: Path) -> None:
    first, second = SoleSuite(tmp_path / "new" / "smoke"), SoleSuite(tmp_path / "new" / "smoke")
    first.enter()
    # In a thread: file locks refuse to wait for one of the same thread.
    with ThreadPoolExecutor() as pool, pytest.raises(Resumable, match=rf"process {os.getpid()}\b"):
        pool.submit(second.enter, 0.5).result()
    SoleSuite(tmp_path / "new" / "quick").enter()
    first.leave()
    second.enter()
    second.leave()
    (tmp_path / "file").touch()
    with pytest.raises(RunDirectoryError, match=str(tmp_path / "file")):
        SoleSuite(tmp_path / "file" / "smoke").enter()


def test_configurations_are_written_once(study: Study, tmp_path: Path) -> None:
    write_configs(tmp_path, study.runs)
    written = {path.parent.name: path for path in tmp_path.glob("runs/*/config.yaml")}
    assert written.keys() == study.runs.keys()
    for name, path in written.items():
        assert parse_run(yaml.safe_load(path.read_text())).run_name == name
        os.utime(path, (0, 0))
    write_configs(tmp_path, study.runs)
    assert {path.stat().st_mtime for path in written.values()} == {0.0}
    run = next(iter(written))
    written[run].unlink()
    written[run].parent.rmdir()
    written[run].parent.touch()
    with pytest.raises(RunDirectoryError, match=run):
        write_configs(tmp_path, study.runs)


@pytest.mark.parametrize(
    ("text", "stays"),
    [
        ("synced to sqlite:///{here}/mlflow.db: 5 runs", True),
        ("synced to https://server: 5 runs", True),
        ("not synced: the server is down", True),
        ("", True),
        ("synced to sqlite:////old/place/tiny/mlflow.db: 5 runs", False),
        ("synced to sqlite:///{here}2/mlflow.db: 5 runs", False),
    ],
)
def test_a_study_that_was_moved_is_tracked_here(text: str, stays: bool, tmp_path: Path) -> None:
    path = tmp_path / "tracking.txt"
    drop_tracking(tmp_path)
    path.write_text(text.format(here=tmp_path))
    drop_tracking(tmp_path)
    assert path.exists() == stays
