"""``acdc stale``, on real results made to differ from the code that is there."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from acdc.run.results import read_result
from acdc.run.sources import PACKAGES, ROOT, Sources
from tests.support import tiny_config, train
from workflow.cli import cli
from workflow.stale import cost, examine

METHODS = ("dense", "rigl", "snip", "dsd")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder with a run of each of some methods, at the scale ``tiny``."""
    results = tmp_path_factory.mktemp("stale") / "results"
    for method in METHODS:
        train(tiny_config(method), results / "tiny" / "runs")
    return results


@pytest.fixture
def results(trained: Path, tmp_path: Path) -> Path:
    """A copy of its own for each test."""
    shutil.copytree(trained, tmp_path / "results")
    return tmp_path / "results"


def stale(results: Path, *arguments: str) -> Result:
    done = CliRunner().invoke(cli, ["stale", "--results", str(results), *arguments])
    assert done.exit_code == 0, done.output
    return done


def folder(results: Path, method: str) -> Path:
    return results / "tiny" / "runs" / tiny_config(method).run_name


def forge(results: Path, method: str, change: Callable[[dict[str, str]], object]) -> None:
    """Change what a result says of the modules that it was made by."""
    path = folder(results, method) / "provenance.json"
    about = json.loads(path.read_text())
    change(about["modules"])
    path.write_text(json.dumps(about))


def line(output: str, start: str) -> str:
    (found,) = [text for text in output.splitlines() if text.startswith(start)]
    return found


def test_results_of_the_code_that_is_there(results: Path) -> None:
    output = stale(results).output
    assert output == f"{results}/tiny/runs: 4 results, 4 made by the code that is there now\n"
    assert stale(results, "--folders").output == ""


def test_groups_by_what_differs(results: Path) -> None:
    for method in ("rigl", "snip"):
        forge(
            results, method, lambda modules: modules.update({"acdc.sparsity.selection": "0" * 12})
        )
    forge(
        results,
        "dsd",
        lambda modules: (modules.pop("acdc.sparsity.masks"), modules.update(old="1")),
    )
    output = stale(results).output
    assert "4 results, 1 made by the code that is there now" in output
    assert re.match(r"acdc\.selection +2 ", line(output, "acdc.sparsity.selection"))
    assert re.match(r"acdc\.masks \(new\), old \(gone\) +1 ", line(output, "acdc.sparsity.masks"))
    assert re.match(r"together +3 ", line(output, "together"))
    assert "seed1-" not in output
    listed = stale(results, "--runs").output
    for method in ("rigl", "snip", "dsd"):
        assert line(listed, f"- {tiny_config(method).run_name}")


def test_one_module(results: Path) -> None:
    forge(results, "rigl", lambda modules: modules.update({"acdc.sparsity.selection": "0" * 12}))
    forge(results, "snip", lambda modules: modules.update({"acdc.sparsity.masks": "0" * 12}))
    found = stale(results, "--module", "acdc.sparsity.masks", "--folders").output
    assert found.splitlines() == [str(folder(results, "snip"))]


def test_older_results_are_listed_as_such(results: Path) -> None:
    path = folder(results, "dense") / "provenance.json"
    about = json.loads(path.read_text())
    del about["modules"]
    path.write_text(json.dumps(about))
    path = folder(results, "rigl") / "result.json"
    path.write_text(path.read_text().replace('"schema": ', '"schema": 9'))
    output = stale(results).output
    assert line(output, "made before modules were recorded")
    assert line(output, "damaged, or of another version of the suite")


def test_what_training_took(results: Path) -> None:
    """Hours by the run's own clock, times the threads of a CPU or the GPUs."""
    for method in METHODS:
        path = folder(results, method)
        result = read_result(path)
        assert result is not None
        hours = result["timings"]["wall_s"] / 3600
        about = json.loads((path / "provenance.json").read_text())
        for device, ranks, threads, core_hours, gpu_hours in (
            ("cpu", 1, 3, 3 * hours, 0),
            ("cpu", 2, 3, 6 * hours, 0),
            ("NVIDIA A100", 4, 3, 0, 4 * hours),
        ):
            about["hardware"]["device"] = device
            about |= {"ranks": ranks, "threads": threads}
            (path / "provenance.json").write_text(json.dumps(about))
            found = cost(path, result)
            assert found.core_hours == pytest.approx(core_hours)
            assert found.gpu_hours == pytest.approx(gpu_hours)
            assert found.flops == result["flops"]["training"]


def test_inherited_flops_are_counted_once(tmp_path: Path) -> None:
    config = tiny_config("acdc_dense")
    assert config.parent is not None
    train(config, tmp_path)
    parent = read_result(tmp_path / config.parent.run_name)
    child = read_result(tmp_path / config.run_name)
    assert parent is not None
    assert child is not None
    costs = {found.folder.name: found.cost for found in examine(tmp_path)}
    assert costs[parent["run"]].flops == parent["flops"]["training"]
    assert costs[child["run"]].flops > 0
    total = sum(cost.flops for cost in costs.values())
    assert total == pytest.approx(child["flops"]["training"])


def test_the_printed_command_names_what_is_stale_and_removes_nothing_by_itself(
    results: Path,
) -> None:
    forge(results, "rigl", lambda modules: modules.update({"acdc.sparsity.selection": "0" * 12}))
    output = stale(results, "--scale", "tiny").output
    command = line(output, "  acdc stale").strip()
    assert f"  make reproduce SCALE=tiny RESULTS={results}" in output
    assert all(folder(results, method).exists() for method in METHODS)
    beside = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    subprocess.run(["bash", "-c", command], check=True, env={**os.environ, "PATH": beside})
    assert not folder(results, "rigl").exists()
    assert all(folder(results, method).exists() for method in METHODS if method != "rigl")
    assert "3 results, 3 made by" in stale(results).output


def test_an_edit_of_the_source_makes_its_results_stale(results: Path, tmp_path: Path) -> None:
    for package in PACKAGES:
        shutil.copytree(ROOT / package, tmp_path / package)
    path = tmp_path / "baselines" / "rigl.py"
    path.write_text(path.read_text() + "\nEDITED = 1\n")
    found = {r.folder: r.standing for r in examine(results / "tiny" / "runs", Sources(tmp_path))}
    assert str(found.pop(folder(results, "rigl"))) == "baselines.rigl"
    assert all(standing.current for standing in found.values())


def test_nothing_there(tmp_path: Path) -> None:
    assert "no results in" in stale(tmp_path).output
    assert "nowhere/runs" in stale(tmp_path, "--scale", "nowhere").output
