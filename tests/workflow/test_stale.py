"""``acdc stale``, on results of this code and on results that are made to differ from it."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from acdc.run.reader import PROVENANCE, read_run
from acdc.run.result import RESULT, FailedResult, FinishedResult
from acdc.run.sources import science_digest
from study.model import STUDY, Scale, Study, write_study
from tests.support import tiny_config, train
from tests.workflow.ended import NOTHING, end
from workflow.cli import cli
from workflow.stale import hours

OTHER = "0" * 12


def stale(results: Path, *arguments: str) -> str:
    done = CliRunner().invoke(cli, ["stale", "--results", str(results), *arguments])
    assert done.exit_code == 0, done.output
    return done.output


def made(runs: Path, method: str, seed: int, digest: str | None = "", **more: Any) -> Path:
    """Write a finished result, and the digest of the code that made it: by default this code's."""
    config = tiny_config(method, seed=seed)
    folder = runs / config.run_name
    end(folder, FinishedResult, config.plain())
    digest = science_digest(config) if digest == "" else digest
    (folder / PROVENANCE).write_text(json.dumps({"science": digest, **more}))
    return folder


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Results of two scales; those of ``old`` are stale, each for another reason."""
    results = tmp_path / "results"
    tiny, old = results / "tiny" / "runs", results / "old" / "runs"
    for method in ("dense", "rigl", "woodfisher"):
        made(tiny, method, 1)
    made(old, "acdc", 1, OTHER)
    made(old, "rigl", 1, OTHER)
    # A run that was resumed by other code.
    made(old, "set", 1, resumed=[{"science": OTHER}])
    made(old, "acdc", 2, None)
    (made(old, "acdc", 3) / PROVENANCE).unlink()
    (made(old, "acdc", 4) / PROVENANCE).write_text("{")
    (made(old, "acdc", 5) / RESULT).write_text("{")
    config = tiny_config("acdc", seed=6)
    end(old / config.run_name, FailedResult, config.plain(), error="It broke.", exit_status=1)
    made(old, "acdc", 7).rename(old / "resolved_differently")
    # Its own code is the present one, but that of the run that it starts from is not.
    made(old, "woodfisher", 1)
    made(old, "dense", 1, OTHER)
    return results


def test_a_result_of_this_code(tmp_path: Path) -> None:
    train(tiny_config("rigl"), tmp_path / "tiny" / "runs")
    assert stale(tmp_path, "--folders") == ""
    assert "1 results, 0 of them stale" in stale(tmp_path)


def test_results_of_other_code(results: Path) -> None:
    found = stale(results, "--folders").splitlines()
    assert found == sorted(str(path) for path in (results / "old" / "runs").iterdir())
    assert stale(results, "--folders", "--scale", "tiny") == ""
    assert stale(results, "--scale", "nowhere") == ""
    output = stale(results)
    assert f"{results}/tiny/runs: 3 results, 0 of them stale" in output
    assert f"{results}/old/runs: {len(found)} results, {len(found)} of them stale" in output
    for word in ("(acdc)", "(rigl)", "(set)", "(dense)", "starts from", "no digest", "damaged"):
        assert word in output


def test_the_commands_that_retrain(results: Path) -> None:
    output = stale(results)
    assert f"make reproduce SCALE=old RESULTS={results}" in output
    (line,) = [line for line in output.splitlines() if "xargs" in line]
    beside = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    command = line.partition(": ")[2]
    subprocess.run(["bash", "-c", command], check=True, env={**os.environ, "PATH": beside})
    assert list((results / "old" / "runs").iterdir()) == []
    assert len(list((results / "tiny" / "runs").iterdir())) == 3


@pytest.mark.parametrize(
    ("options", "command"),
    [
        ({"--scale": "tiny"}, "make reproduce SCALE=tiny RESULTS={results}"),
        (
            {"--scale": "my scale.yaml", "--seeds": "2"},
            "make reproduce SCALE='my scale.yaml' SEEDS=2 RESULTS={results}",
        ),
        (
            {"--scale": "a.yaml", "--experiments": "e"},
            "snakemake --cores all --config scale=a.yaml experiments=e results={results}",
        ),
    ],
)
def test_a_study_is_made_again_from_what_it_was_resolved(
    results: Path, options: dict[str, str], command: str
) -> None:
    study = Study(Scale("old", "Old", ""), (), {}, options)
    write_study(study, results / "old" / STUDY)
    assert command.format(results=results) in stale(results)


@pytest.mark.parametrize(
    ("device", "ranks", "expected"), [("cpu", 1, (0, 6)), ("cpu", 2, (0, 12)), ("H100", 4, (8, 0))]
)
def test_training_time(
    tmp_path: Path, device: str, ranks: int, expected: tuple[float, float]
) -> None:
    """GPU-hours or core-hours by the run's own clock."""
    run = tmp_path / f"run-{NOTHING}"
    end(run, FinishedResult, wall_s=2 * 3600)
    about = {"hardware": {"device": device}, "ranks": ranks, "threads": 3}
    (run / PROVENANCE).write_text(json.dumps(about))
    assert hours(read_run(run)) == expected
