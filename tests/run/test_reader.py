"""A run's folder is read as typed values, without torch, whatever state its files are in."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from acdc.errors import RunDirectoryError
from acdc.files import write_json
from acdc.run.failures import Failure
from acdc.run.reader import read_run
from acdc.run.result import DivergedResult, FailedResult, FinishedResult, read_result, write_result
from tests.support import tiny_config, train

FILES = ("result.json", "config.yaml", "provenance.json", "journal.jsonl")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a finished run."""
    runs = tmp_path_factory.mktemp("runs")
    config = tiny_config("acdc")
    train(config, runs)
    return runs / config.run_name


def on_disk(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "result.json").read_text())
    return content


def test_finished(finished: Path) -> None:
    run, data = read_run(finished), on_disk(finished)
    assert isinstance(run.result, FinishedResult)
    assert run.problems == ()
    assert run.failure is None
    assert run.config == yaml.safe_load((finished / "config.yaml").read_text()) == data["config"]
    sparse = run.result.products["sparse"].best
    assert sparse.test_accuracy == data["products"]["sparse"]["best"]["test_accuracy"]
    assert sparse.certificate is not None
    assert sparse.certificate.holds
    assert [record["epoch"] for record in run.journal.epochs] == [0, 1, 2, 3]
    assert [record["event"] for record in run.journal.events] == ["prune", "restore", "prune"]
    (attempt,) = run.provenance
    assert attempt.packages["torch"]
    assert run.source_digest == attempt.science


ENDED: dict[str, Any] = {
    "run": "x-0",
    "fingerprint": "0",
    "config": {"settings": {"pattern": None}},
    "label": "X",
    "variant": "",
    "primary": "dense",
}
TRAINED: dict[str, Any] = ENDED | {
    "flops": {
        "dense_inference": 1,
        "dense_training": 3,
        "training": 3.0,
        "training_published": 3.0,
        "published_formula": "3 F",
    },
    "mask_changes": [{"epoch": 1, "relative": 0.5, "of_kept": float("nan"), "jaccard": 0.5}],
    "prunable_weights": 1,
    "timings": {"wall_s": 1.0, "train_s": 1.0, "checkpoint_s": 0.0, "attempts": 1},
}


@pytest.mark.parametrize(
    "result",
    [
        FailedResult(**ENDED, error="no", exit_status=1),
        DivergedResult(**TRAINED, diverged_at=3, diverged="the loss is nan"),
        FinishedResult(**TRAINED, products={}, files={}),
    ],
)
def test_round_trip(result: Any, tmp_path: Path) -> None:
    folder = tmp_path / result.run
    folder.mkdir()
    write_result(folder, result)
    first = (folder / "result.json").read_bytes()
    again = read_result(folder)
    assert again is not None
    assert type(again) is type(result)
    assert again.config == result.config
    write_result(folder, again)
    assert (folder / "result.json").read_bytes() == first
    assert json.loads(first)["schema"] == 2


def test_a_file_and_its_typed_result_hold_the_same(finished: Path, tmp_path: Path) -> None:
    result = read_result(finished)
    assert result is not None
    write_result(tmp_path, result)
    assert (tmp_path / "result.json").read_bytes() == (finished / "result.json").read_bytes()


def test_nothing_there(tmp_path: Path) -> None:
    run = read_run(tmp_path / "none")
    assert (run.config, run.result, run.failure, run.provenance) == (None, None, None, ())
    assert run.problems == ()
    assert run.journal.lines == ()
    assert run.source_digest is None


FAILURE = Failure(error="no such mask", exit_status=1, final=True)


def test_failure(tmp_path: Path) -> None:
    write_json(tmp_path / "failed.json", FAILURE.model_dump())
    assert read_run(tmp_path).failure == FAILURE


@pytest.mark.parametrize("name", ["result.json", "provenance.json", "failed.json"])
@pytest.mark.parametrize("content", [b"", b"[1]", b"{", b"null", b"\xff\xfe"])
def test_damage_is_reported(name: str, content: bytes, finished: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(finished, tmp_path / finished.name)
    (folder / name).write_bytes(content)
    run = read_run(folder)
    (problem,) = run.problems
    assert problem.startswith(str(folder / name))
    assert (run.result is None) == (name == "result.json")
    assert run.config is not None


@given(st.binary(max_size=60), st.integers(0), st.sampled_from(FILES))
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_damage_raises(finished: Path, tmp_path: Path, noise: bytes, at: int, name: str) -> None:
    folder = tmp_path / finished.name
    folder.mkdir(exist_ok=True)
    for file in FILES:
        content = (finished / file).read_bytes()
        if file == name:
            at %= len(content)
            content = content[:at] + noise + content[at + len(noise) :]
        (folder / file).write_bytes(content)
    run = read_run(folder)
    assert run.journal.lines is not None


def test_foreign_result(finished: Path, tmp_path: Path) -> None:
    folder = tmp_path / "another"
    shutil.copytree(finished, folder)
    assert read_run(folder).result is None
    with pytest.raises(RunDirectoryError, match="run="):
        read_result(folder)


def test_other_schema(finished: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(finished, tmp_path / finished.name)
    write_json(folder / "result.json", on_disk(folder) | {"schema": 1})
    run = read_run(folder)
    assert run.result is None
    assert "schema=1" in run.problems[0]


def test_an_unreadable_certificate_is_none(finished: Path, tmp_path: Path) -> None:
    folder, data = shutil.copytree(finished, tmp_path / finished.name), on_disk(finished)
    data["products"]["sparse"]["last"]["certificate"]["layers"] = "lost"
    write_json(folder / "result.json", data)
    result = read_run(folder).result
    assert result is not None
    assert result.products["sparse"].last.certificate is None
    assert result.products["sparse"].best.certificate is not None


def test_cut_short(finished: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(finished, tmp_path / finished.name)
    path = folder / "journal.jsonl"
    path.write_bytes(path.read_bytes()[:-20])
    run = read_run(folder)
    assert len(run.journal.epochs) == 3
    assert run.journal.problem is None


def test_without_torch(finished: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from acdc.run.reader import read_run\n"
        f"run = read_run(Path({str(finished)!r})); assert run.result and run.journal.epochs\n"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
