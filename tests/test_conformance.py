"""Every figure of the originals is replayed and agrees, and a wrong one is noticed."""

import copy
import functools
import json
import math
import operator
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result

from acdc.errors import ConfigError, DataError
from conformance.cli import ConformanceError, conformance
from conformance.replay import FORMATS, Replay, replay_file
from conformance.vectors import compare, hashval
from tests.support import GOLDEN

FILES = sorted(GOLDEN.glob("*.json"))


@pytest.mark.parametrize("path", FILES, ids=[path.stem for path in FILES])
def test_every_case_of_every_file_agrees(path: Path) -> None:
    replay = replay_file(path)
    assert replay.format is not None
    assert replay.cases
    assert replay.problem == ""
    assert [case for case in replay.cases if not case.agrees] == []


def test_every_format_has_figures() -> None:
    assert {json.loads(path.read_text())["format"] for path in FILES} == set(FORMATS)


INPUTS = {
    "acdc_masks_schedules": {"values", "c", "f", "sparsity", "buffer_before", "conv_salt",
                             "lin_salt"},
    "gmp": {"steps"},
    "rigl_update": {"mask", "grad", "weights", "momentum"},
    "rigl_training_trace": {"w0", "mask0"},
    "str": {"s"},
    "woodfisher": {"block"},
}  # fmt: skip
"""By format, the last keys of what the originals were given, of which not every number matters."""


def numbers(data: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if isinstance(data, bool | int | float):
        yield path
    elif isinstance(data, dict | list):
        for key, value in data.items() if isinstance(data, dict) else enumerate(data):
            yield from numbers(value, (*path, key))


@pytest.mark.parametrize("path", FILES, ids=[path.stem for path in FILES])
def test_every_changed_number_is_noticed_or_listed(path: Path, tmp_path: Path) -> None:
    """Of small files every number, of others a sample with every key in it."""
    data = json.loads(path.read_text())
    # The trajectories of thresholds are slow, and compared like everything else.
    data.pop("threshold_trajectory_no_gradient", None)
    inputs = INPUTS.get(data["format"], set())
    places = [place for place in numbers(data) if keys_of(place)[-1] not in inputs]
    if len(places) > 40:
        random.Random(path.name).shuffle(places)
        by_key = {(keys_of(place)[0], keys_of(place)[-1]): place for place in places}
        places = [*by_key.values()][:40] + places[:10]
    file = tmp_path / "changed.json"
    for place in places:
        target = functools.reduce(operator.getitem, place[:-1], data)
        value = target[place[-1]]
        target[place[-1]] = not value if isinstance(value, bool) else value + max(1, value / 100)
        file.write_text(json.dumps(data))
        target[place[-1]] = value
        replay = replay_file(file)
        listed = any(place[: len(keys)] == keys for keys in replay.left_out)
        assert listed or not replay.agrees, place


def keys_of(place: tuple[Any, ...]) -> list[str]:
    return [key for key in place if isinstance(key, str)]


def run(folder: Path, *options: str) -> Result:
    return CliRunner().invoke(conformance, [str(folder), *options])


def test_command_prints_every_case(tmp_path: Path) -> None:
    for name in ("rigl_single_update", "acdc_masks_schedules"):
        (tmp_path / f"{name}.json").write_bytes((GOLDEN / f"{name}.json").read_bytes())
    done = run(tmp_path)
    assert done.exit_code == 0, done.output
    cases = sum(len(replay_file(path).cases) for path in tmp_path.glob("*.json"))
    assert done.output.count("\n  agrees  ") == cases
    assert f"{cases} of {cases} cases in 2 files agree" in done.output
    assert "rigl_single_update.json" in done.output


def test_command_fails_on_a_difference(tmp_path: Path) -> None:
    data = json.loads((GOLDEN / "rigl_single_update.json").read_text())
    data["cases"][1]["out_mask"][3] = 1 - data["cases"][1]["out_mask"][3]
    (tmp_path / "update.json").write_text(json.dumps(data))
    done = run(tmp_path, "--quiet")
    assert isinstance(done.exception, ConformanceError)
    assert f"DIFFERS  {data['cases'][1]['name']}: mask: largest difference 1" in done.output
    assert "agrees" not in done.output.replace("DIFFER", "")


@pytest.mark.parametrize(
    ("file", "place", "name"),
    [
        ("acdc_flops", (), "efficientnet_b99"),
        ("gmp_schedules_and_masks", ("mask_rules_on_10x20_hash51", "0.5"), "granet"),
        ("small_sparsity_distributions", ("cases",), "two_fc|balanced|0.5"),
    ],
)
def test_unknown_networks_and_rules_are_listed(
    file: str, place: tuple[str, ...], name: str, tmp_path: Path
) -> None:
    """They are no disagreement."""
    data = json.loads((GOLDEN / f"{file}.json").read_text())
    target = functools.reduce(operator.getitem, place, data)
    target[name] = copy.deepcopy(next(item for item in target.values() if isinstance(item, dict)))
    (tmp_path / "more.json").write_text(json.dumps(data))
    replay = replay_file(tmp_path / "more.json")
    assert replay.agrees
    assert (*place, name) in {keys[: len(place) + 1] for keys in replay.left_out}


def test_numbers_that_are_not_used_are_named(tmp_path: Path) -> None:
    data = json.loads((GOLDEN / "rigl_single_update.json").read_text())
    data["cases"][1]["note"] = {"seen": [{"by": 3}]}
    (tmp_path / "update.json").write_text(json.dumps(data | {"double_update": [1, 2]}))
    left_out = replay_file(tmp_path / "update.json").left_out
    assert {("double_update",), ("cases", 1, "note")} <= set(left_out)
    done = run(tmp_path)
    assert done.exit_code == 0
    assert "double_update" in done.output


UNKNOWN = ["null", "5", '"gmp"', "[]", "{}", '{"cases": []}', '{"format": "gmp2"}',
           '{"format": 5}', '{"format": ["gmp"]}', '{"format": {"gmp": 1}}', '{"format": null}',
           "[" * 500 + "]" * 500]  # fmt: skip
DAMAGED = ["", "{", "[" * 20_000, '{"a":' * 20_000, "\xff", '{"format": "gmp"}',
           '{"format": "str", "getSparsity": 5}', '{"format": "flops"}',
           '{"format": "flops", "vgg_b99": {"dense": {"conv_linear_macs": 1}}}']  # fmt: skip
DAMAGED += [
    f'{{"format": "rigl_update", "cases": {cases}}}'
    for cases in (5, "null", "[5]", "[null]", "[{}]", '[{"out_mask": [1]}]', '["x"]')
]


@pytest.mark.parametrize("content", UNKNOWN)
def test_unknown_files_are_called_unknown(content: str, tmp_path: Path) -> None:
    """They are no disagreement; alone in a folder they are nothing to replay."""
    (tmp_path / "other.json").write_text(content)
    assert replay_file(tmp_path / "other.json") == Replay("other.json", None)
    assert isinstance(run(tmp_path).exception, ConfigError)
    (tmp_path / "drop.json").write_bytes((GOLDEN / "rigl_drop_fraction.json").read_bytes())
    done = run(tmp_path)
    assert done.exit_code == 0
    assert "other.json" in done.output


@pytest.mark.parametrize("content", DAMAGED)
def test_damaged_files_are_named(content: str, tmp_path: Path) -> None:
    """They are no disagreement either, and end the command with the status of damaged data."""
    (tmp_path / "broken.json").write_text(content, encoding="latin-1")
    (tmp_path / "drop.json").write_bytes((GOLDEN / "rigl_drop_fraction.json").read_bytes())
    done = run(tmp_path, "--quiet")
    assert isinstance(done.exception, DataError)
    assert str(tmp_path / "broken.json") in str(done.exception)
    assert len(str(done.exception)) < 500
    assert "drop.json" in done.output


@pytest.mark.parametrize("path", FILES, ids=[path.stem for path in FILES])
@pytest.mark.parametrize("value", [None, 5, "x", [[]], [None], {"x": None}])
def test_sections_of_other_types_raise_nothing(path: Path, value: Any, tmp_path: Path) -> None:
    data = json.loads(path.read_text())
    # What is slow or huge is compared like everything else.
    data.pop("threshold_trajectory_no_gradient", None)
    for key in data.keys() - {"format"}:
        (tmp_path / "changed.json").write_text(json.dumps({**data, key: value}))
        assert replay_file(tmp_path / "changed.json").format == data["format"]


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
