"""``acdc theory``: what it lists, what it writes, and mistakes as one sentence."""

import csv
import errno
import functools
import json
import math
from pathlib import Path
from typing import Any

import pytest

from acdc.config.yaml_io import assign
from theory import experiment, layout

SMALL = ["trials=3", "kappas=[2, 4, 8]", "n=32", "k_star=1", "k_ratios=[1, 8]", "iterations=60"]
SMALL += ["wide_n=300", "wide_trials=2"]


@pytest.fixture
def theory(acdc: Any) -> Any:
    return functools.partial(acdc, "theory")


def small(out: Path, *more: str) -> list[object]:
    assignments = [word for assignment in (*SMALL, *more) for word in ("--set", assignment)]
    return ["run", "t2_rate", "--out", out, *assignments]


def test_the_list_has_every_experiment_with_its_subject_and_settings(theory: Any) -> None:
    status, output, errors = theory("list")
    assert (status, errors) == (0, "")
    heads = [line for line in output.splitlines() if not line.startswith(" ")]
    assert [line.partition(":")[0] for line in heads] == list(layout.EXPERIMENTS)
    assert all(len(line.partition(": ")[2]) > 20 for line in heads)
    for name in layout.EXPERIMENTS:
        block = output.split(f"{name}: ", 1)[1]
        for key, field in experiment.load(name).Settings.model_fields.items():
            assert f"    {key} = {field.default}  {field.description}\n" in block
            assert field.description


def test_a_run_leaves_its_files_and_prints_verdicts(theory: Any, tmp_path: Path) -> None:
    out = tmp_path / "made" / "here"
    status, output, errors = theory(*small(out))
    assert (status, errors) == (0, "")
    names = {"trials.csv", "series.csv", "statements.json", "provenance.json"}
    assert {path.name for path in out.iterdir()} == names
    held = json.loads((out / "statements.json").read_text())
    assert held["experiment"] == "t2_rate"
    assert held["settings"]["kappas"] == [2.0, 4.0, 8.0]
    assert len({statement["id"] for statement in held["statements"]}) == len(held["statements"]) > 1
    *lines, last = output.splitlines()
    assert last == str(out)
    for line, statement in zip(lines, held["statements"], strict=True):
        assert line.startswith(f"{statement['verdict']:14} {statement['source']}, ")
        assert f"{statement['id']}: {float(statement['value']):.4g} [" in line
    with (out / "trials.csv").open(newline="") as file:
        trials = list(csv.DictReader(file))
    assert tuple(trials[0])[: len(layout.TRIAL)] == layout.TRIAL
    # Three problems at each of three condition numbers and two k, then two wide ones.
    assert len(trials) == 3 * 3 * 2 + 2
    assert {(row["n"], row["k"]) for row in trials if row["n"] == "32"} == {
        ("32", "1"),
        ("32", "8"),
    }
    with (out / "series.csv").open(newline="") as file:
        assert tuple(next(csv.reader(file))) == layout.SERIES


def test_cells_are_the_outcomes_values_to_ten_digits(theory: Any, tmp_path: Path) -> None:
    assert theory(*small(tmp_path))[0] == 0
    settings = experiment.parse("t2_rate", assign({}, SMALL))
    outcome = experiment.load("t2_rate").run(settings)
    for name, rows in (("trials", outcome.trials), ("series", outcome.series)):
        with (tmp_path / f"{name}.csv").open(newline="") as file:
            cells = list(csv.DictReader(file))
        assert len(cells) == len(rows) > 10
        for cell, row in zip(cells, rows, strict=True):
            for column, text in cell.items():
                value = row.get(column)
                if text == "":
                    assert value is None or math.isnan(value)
                elif isinstance(value, float):
                    assert float(text) == pytest.approx(value, rel=1e-9, abs=0)
                else:
                    assert text == str(value)


def test_files_depend_on_settings_and_seed_alone(theory: Any, tmp_path: Path) -> None:
    for name, seed in {"a": 0, "b": 0, "c": 1}.items():
        assert theory(*small(tmp_path / name, f"seed={seed}"))[0] == 0
    for file in ("trials.csv", "series.csv", "statements.json"):
        once, again, other = ((tmp_path / name / file).read_bytes() for name in "abc")
        assert once == again
        assert once != other


@pytest.mark.parametrize("out", [[], ["--out", ""]])
def test_a_run_needs_a_folder(out: list[str], theory: Any) -> None:
    status, _, errors = theory("run", "t2_rate", *out)
    assert status == 2
    assert "--out" in errors


@pytest.mark.parametrize(
    ("assignment", "key"),
    [
        ("kappa=2", "kappa"), ("trials=.nan", "trials=nan"), ("trials=", "trials"),
        ("trials={{ n }}", "--set"), ("=1", "--set==1"), (".trials=1", "--set=.trials=1"),
        ("trials", "--set=trials"), ("", "--set=")
    ],
)  # fmt: skip
def test_a_mistake_exits_with_2_before_anything_is_written(
    assignment: str, key: str, theory: Any, tmp_path: Path
) -> None:
    arguments = ("run", "t2_rate", "--set", assignment, "--out", tmp_path / "out")
    status, output, errors = theory(*arguments)
    assert (status, output) == (2, "")
    assert errors.startswith(f"error: {key}")
    assert errors.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("place", ["a file", "below a file", "/dev/null/x", "/proc/x", "/dev/full"])
def test_a_folder_that_cannot_be_written_ends_it_before_it_computes(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def computed(settings: object) -> None:
        raise AssertionError("it was run")

    monkeypatch.setattr("theory.experiments.t2_rate.run", computed)
    (tmp_path / "file").touch()
    places = {"a file": tmp_path / "file", "below a file": tmp_path / "file" / "x"}
    with pytest.raises(OSError, match=r"."):
        experiment.write("t2_rate", experiment.parse("t2_rate", {}), places.get(place, Path(place)))


def test_a_full_disk_ends_it_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("theory.experiments.t2_rate.run", lambda settings: pytest.fail("it ran"))
    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space") as error:
        experiment.write("t2_rate", experiment.parse("t2_rate", {}), tmp_path / "out")
    assert str(tmp_path / "out") in error.value.filename
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("can't allocate memory: you tried to allocate 8 bytes")]
)
def test_settings_that_do_not_fit_the_memory_are_one_sentence(
    error: Exception, theory: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(settings: object) -> None:
        raise error

    monkeypatch.setattr("theory.experiments.t2_rate.run", fails)
    status, _, errors = theory(*small(tmp_path / "out"))
    assert (status, errors.count("\n")) == (7, 1)
    assert "t2_rate" in errors
