"""Every figure of the originals is replayed and agrees, and a wrong one is found out."""

from __future__ import annotations

import copy
import json
import math
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from acdc.method import method_names
from conformance.cli import conformance
from conformance.replay import FORMATS, ConformanceError, Replay, replay_file
from conformance.vectors import compare, hashval
from tests.support import GOLDEN

FILES = sorted(GOLDEN.glob("*.json"))


@pytest.mark.parametrize("path", FILES, ids=[path.stem for path in FILES])
def test_every_case_of_every_file_agrees(path: Path) -> None:
    replay = replay_file(path)
    assert replay is not None
    assert replay.cases
    assert [case for case in replay.cases if not case.agrees] == []


def test_there_are_figures_for_every_format() -> None:
    formats = {replay.format for replay in map(quick, FILES)}
    assert formats == {known.name for known in FORMATS}


def quick(path: Path) -> Replay:
    """Return which format a file is of, without replaying it."""
    data = json.loads(path.read_text())
    name = next(known.name for known in FORMATS if known.is_of(data))
    return Replay(path.name, name, ())


# Numbers that no case is about: what a replay is set up with, remarks, and derived facts.
IGNORED = {
    "note", "source", "trajectory_note", "setup", "facts", "max_rel_err_vs_inv_of_damped_fisher",
    "n_kept_quantile_ge", "lr_scheduler", "optimizer", "sparsity", "torch", "generator",
    "zero_grad_sets_grad_to_None", "buffer_after_zero_grad_then_reset",
}  # fmt: skip


def numbers(data: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the place of every number that a replay is to compare or to start from."""
    if isinstance(data, bool | str) or data is None:
        return
    if isinstance(data, int | float):
        yield path
    else:
        for key, value in data.items() if isinstance(data, dict) else enumerate(data):
            if key not in IGNORED:
                yield from numbers(value, (*path, key))


@pytest.mark.parametrize("path", FILES, ids=[path.stem for path in FILES])
def test_a_figure_that_is_changed_no_longer_agrees(path: Path, tmp_path: Path) -> None:
    original = json.loads(path.read_text())
    if "threshold_trajectory_no_gradient" in original:
        # Slow, and one is like the other: a short piece of the first.
        trajectory = original["threshold_trajectory_no_gradient"][0]
        trajectory["s_at_end_of_epoch"] = {"1": trajectory["s_at_end_of_epoch"]["1"]}
        trajectory["first_epoch_with_nonzero_float32_threshold"] = None
        original["threshold_trajectory_no_gradient"] = []
    places = list(numbers(original))
    found = 0
    chosen = random.Random(path.name).sample(places, min(12, len(places)))
    for place in chosen:
        changed = copy.deepcopy(original)
        target = changed
        for key in place[:-1]:
            target = target[key]
        target[place[-1]] += 1
        file = tmp_path / "changed.json"
        file.write_text(json.dumps(changed))
        replay = replay_file(file)
        # Some change the problem and its answer stays right, such as a weight far from a threshold.
        found += replay is None or not replay.agrees
    assert found >= len(chosen) / 2


def test_the_command_prints_every_case_and_ends_with_success(tmp_path: Path) -> None:
    for name in ("rigl_single_update", "acdc_masks_schedules"):
        (tmp_path / f"{name}.json").write_bytes((GOLDEN / f"{name}.json").read_bytes())
    (tmp_path / "other.json").write_text('{"something": "else"}')
    done = CliRunner().invoke(conformance, [str(tmp_path)])
    assert done.exit_code == 0, done.output
    assert "other.json: not of a known format, left out" in done.output
    replays = [replay_file(path) for path in tmp_path.glob("*_*.json")]
    cases = sum(len(replay.cases) for replay in replays if replay)
    assert done.output.count("\n  agrees  ") == cases
    assert f"{cases} of {cases} cases in 2 files agree" in done.output
    assert "rigl_single_update.json" in done.output


def test_the_command_ends_with_failure_and_says_which_case_differs(tmp_path: Path) -> None:
    data = json.loads((GOLDEN / "rigl_single_update.json").read_text())
    data["cases"][1]["out_mask"][3] = 1 - data["cases"][1]["out_mask"][3]
    (tmp_path / "update.json").write_text(json.dumps(data))
    done = CliRunner().invoke(conformance, [str(tmp_path), "--quiet"])
    assert isinstance(done.exception, ConformanceError)
    assert f"DIFFERS  {data['cases'][1]['name']}: mask: largest difference 1" in done.output
    assert "agrees" not in done.output.replace("DIFFER", "")


@pytest.mark.parametrize("content", ["{", '{"cases": [{"out_mask": [1]}]}'])
def test_a_file_that_cannot_be_replayed_is_a_failure(content: str, tmp_path: Path) -> None:
    path = tmp_path / "broken.json"
    path.write_text(content)
    replay = replay_file(path)
    assert replay is not None
    assert not replay.agrees


def test_a_folder_without_figures_is_a_failure(tmp_path: Path) -> None:
    done = CliRunner().invoke(conformance, [str(tmp_path)])
    assert isinstance(done.exception, ConformanceError)
    assert "holds no file of a known format" in str(done.exception)


def test_comparison_finds_nan_and_missing_numbers() -> None:
    assert compare("", [1.0, 2.0], [1.0, 2.0]).agrees
    assert compare("", [1.0, 2.5], [1.0, 2.0]).difference == 0.5
    assert not compare("", [math.nan], [1.0], 10.0).agrees
    assert not compare("", [1.0], [math.nan], 10.0).agrees
    assert not compare("", [1.0], [1.0, 1.0], 10.0).agrees
    assert compare("", torch.tensor([True, False]), [1, 0]).agrees


def test_hashval_is_the_integer_recurrence() -> None:
    values = hashval((2, 3), 7).flatten().tolist()
    for index, value in enumerate(values, start=1):
        expected = ((index * 2654435761 + 7 * 40503) % 2**32) / 2**32 - 0.5
        assert value == torch.tensor(expected, dtype=torch.float64).float().item()


def test_the_vectors_know_more_than_one_method() -> None:
    assert {"acdc", "gmp", "rigl", "str", "top_kast", "woodfisher"} <= set(method_names())
