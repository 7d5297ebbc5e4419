"""Every figure of the originals is replayed and agrees, and a wrong one is found out."""

from __future__ import annotations

import copy
import itertools
import json
import math
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from conformance.cli import conformance
from conformance.replay import FORMATS, ConformanceError, replay_file
from conformance.vectors import compare, hashval
from tests.support import GOLDEN

FILES = sorted(GOLDEN.glob("*.json"))


@pytest.mark.parametrize("path", FILES, ids=[path.stem for path in FILES])
def test_every_case_of_every_file_agrees(path: Path) -> None:
    replay = replay_file(path)
    assert replay is not None
    assert replay.cases
    assert [case for case in replay.cases if not case.agrees] == []


def test_every_format_has_figures() -> None:
    assert {json.loads(path.read_text())["format"] for path in FILES} == set(FORMATS)


ANSWERS = {
    "acdc_flops": {"per_layer_flops", "conv_linear_only_flops", "conv_linear_macs",
                   "total_flops_default", "sparse_epochs", "dense_epochs"},
    "acdc_masks_schedules": {"kept", "n_kept", "threshold", "k", "masks.c", "masks.f", "conv_mask",
                             "lin_mask", "prune_epochs", "recycle_epochs", "n_pruned_modules",
                             "cosine_lr_by_epoch", "buffer_after_reset_with_grad_zeros"},
    "acdc_training_trace": {"loss", "a_w", "b_w", "a_bias", "b_bias", "a_mask", "b_mask", "a_mom",
                            "b_mom", "kept_per_phase"},
    "gmp_schedules_and_masks": {"contrib_model_pruning_f32", "rigl_notebook_f64", "threshold",
                                "cubic_initial_nonzero.values", "contrib", "by_epoch", "mask",
                                "n_kept", "n_pruned"},
    "resnet50_sparsity_distributions": {"layer_sparsities", "n_zeros_by_floor", "total_params",
                                        "overall_sparsity_all_layers"},
    "rigl_drop_fraction": {"values"},
    "rigl_single_update": {"out_mask", "out_weights", "out_momentum", "n_active_after"},
    "small_sparsity_distributions": {"sparsities"},
    "str": {"threshold", "out", "grad_w", "grad_s", "n_nonzero", "value"},
    "topkast_definitional": {"mask_A", "mask_B", "alpha", "grad_applied", "reg_abs", "kA", "kB",
                             "reg_half_l2", "reg_half_l2_grad", "n_topk"},
    "woodfisher_block": {"inv_diag", "stat", "mask", "update", "w_after", "w_after_unmasked"},
}  # fmt: skip
"""By file, the sections that hold what the originals answered, each of which is compared."""


def numbers(data: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the place of every number."""
    if isinstance(data, bool | int | float):
        yield path
    elif isinstance(data, dict):
        for key, value in data.items():
            yield from numbers(value, (*path, key))
    elif isinstance(data, list):
        for key, value in enumerate(data):
            yield from numbers(value, (*path, key))


def is_of(place: tuple[Any, ...], section: str) -> bool:
    """Return whether a place lies in a section, named by one key or by two that follow."""
    names = [str(key) for key in place if not isinstance(key, int)]
    return section in names or section in map(".".join, itertools.pairwise(names))


@pytest.mark.parametrize("path", FILES, ids=[path.stem for path in FILES])
def test_changed_answers_differ(path: Path, tmp_path: Path) -> None:
    original = json.loads(path.read_text())
    # The trajectories of thresholds are slow, and compared like everything else.
    original.pop("threshold_trajectory_no_gradient", None)
    places = list(numbers(original))
    chance = random.Random(path.name)
    for section in sorted(ANSWERS[path.stem]):
        changed = copy.deepcopy(original)
        place = chance.choice([place for place in places if is_of(place, section)])
        target = changed
        for key in place[:-1]:
            target = target[key]
        value = target[place[-1]]
        target[place[-1]] = not value if isinstance(value, bool) else value + max(1, value / 100)
        file = tmp_path / "changed.json"
        file.write_text(json.dumps(changed))
        replay = replay_file(file)
        assert replay is not None
        assert not replay.agrees, place


def test_command_prints_every_case(tmp_path: Path) -> None:
    for name in ("rigl_single_update", "acdc_masks_schedules"):
        (tmp_path / f"{name}.json").write_bytes((GOLDEN / f"{name}.json").read_bytes())
    (tmp_path / "other.json").write_text('{"something": "else"}')
    done = CliRunner().invoke(conformance, [str(tmp_path)])
    assert done.exit_code == 0, done.output
    assert "other.json" in done.output
    replays = [replay_file(path) for path in tmp_path.glob("*_*.json")]
    cases = sum(len(replay.cases) for replay in replays if replay)
    assert done.output.count("\n  agrees  ") == cases
    assert f"{cases} of {cases} cases in 2 files agree" in done.output
    assert "rigl_single_update.json" in done.output


def test_command_fails_on_a_difference(tmp_path: Path) -> None:
    data = json.loads((GOLDEN / "rigl_single_update.json").read_text())
    data["cases"][1]["out_mask"][3] = 1 - data["cases"][1]["out_mask"][3]
    (tmp_path / "update.json").write_text(json.dumps(data))
    done = CliRunner().invoke(conformance, [str(tmp_path), "--quiet"])
    assert isinstance(done.exception, ConformanceError)
    assert f"DIFFERS  {data['cases'][1]['name']}: mask: largest difference 1" in done.output
    assert "agrees" not in done.output.replace("DIFFER", "")


@pytest.mark.parametrize(
    "content", ["{", '{"format": "rigl_update", "cases": [{"out_mask": [1]}]}']
)
def test_unreadable_files_fail(content: str, tmp_path: Path) -> None:
    path = tmp_path / "broken.json"
    path.write_text(content)
    replay = replay_file(path)
    assert replay is not None
    assert not replay.agrees


def test_a_folder_without_figures_is_a_failure(tmp_path: Path) -> None:
    done = CliRunner().invoke(conformance, [str(tmp_path)])
    assert isinstance(done.exception, ConformanceError)
    assert "folder=" in str(done.exception)


def test_comparison_finds_nan_and_missing_numbers() -> None:
    assert compare("", [1.0, 2.0], [1.0, 2.0]).agrees
    assert compare("", [1.0, 2.5], [1.0, 2.0]).difference == 0.5
    assert not compare("", [math.nan], [1.0], 10.0).agrees
    assert not compare("", [1.0], [math.nan], 10.0).agrees
    assert not compare("", [1.0], [1.0, 1.0], 10.0).agrees
    assert not compare("", [], [], 10.0).agrees
    assert compare("", torch.tensor([True, False]), [1, 0]).agrees


def test_hashval_is_the_integer_recurrence() -> None:
    values = hashval((2, 3), 7).flatten().tolist()
    for index, value in enumerate(values, start=1):
        expected = ((index * 2654435761 + 7 * 40503) % 2**32) / 2**32 - 0.5
        assert value == torch.tensor(expected, dtype=torch.float64).float().item()


def test_sections_that_no_one_compares_are_named(tmp_path: Path) -> None:
    data = json.loads((GOLDEN / "rigl_single_update.json").read_text())
    (tmp_path / "update.json").write_text(json.dumps(data | {"double_update": [1, 2]}))
    done = CliRunner().invoke(conformance, [str(tmp_path)])
    assert done.exit_code == 0
    assert "double_update" in done.output
    for path in FILES:
        content = json.loads(path.read_text())
        assert FORMATS[content["format"]].left_out(content) == ()
