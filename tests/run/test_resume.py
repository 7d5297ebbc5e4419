"""A run that is interrupted, killed, damaged or started twice ends as if it had not been."""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from acdc.config.run import RunConfig
from acdc.errors import CheckpointError, RunDirectoryError
from acdc.run import checkpoints
from acdc.step import Step
from tests.support import (
    METHODS,
    Silent,
    Uninterrupted,
    assert_same_run,
    epochs,
    resumptions,
    tiny_config,
    train,
)


class Interrupter(Silent):
    """Interrupts each run once at the end of each of the given epochs."""

    def __init__(self, *epochs: int, only: str | None = None) -> None:
        super().__init__()
        self.at = epochs
        self.only = only
        self.interrupted: set[tuple[str, int]] = set()

    def start(self, config: RunConfig, first: Step) -> None:
        super().start(config, first)
        self.run = config.run_name

    def epoch(self, record: dict[str, Any]) -> None:
        super().epoch(record)
        point = (self.run, record["epoch"])
        wanted = record["epoch"] in self.at and self.only in (None, self.run)
        if wanted and point not in self.interrupted:
            self.interrupted.add(point)
            raise KeyboardInterrupt


def chain(config: RunConfig, uninterrupted: Uninterrupted) -> dict[str, list[int]]:
    """Return the epochs that each run trains, of those that it starts from and then of its own."""
    folder, _ = uninterrupted(config)
    before = chain(config.parent, uninterrupted) if config.parent else {}
    return before | {config.run_name: epochs(folder)}


@pytest.mark.parametrize("method", METHODS)
def test_a_run_interrupted_after_every_epoch_ends_as_if_it_had_not_been(
    method: str, tmp_path: Path, uninterrupted: Uninterrupted
) -> None:
    config = tiny_config(method)
    runs = chain(config, uninterrupted)
    reporter = Interrupter(0, 1, 2, 3)
    for _ in itertools.chain(*runs.values()):
        with pytest.raises(KeyboardInterrupt):
            train(config, tmp_path, reporter)
        assert not (tmp_path / config.run_name / "result.json").exists()
    result = train(config, tmp_path, reporter)
    assert reporter.epochs == [e for epochs in runs.values() for e in epochs for _ in range(2)]
    assert_same_run(tmp_path / config.run_name, result, *uninterrupted(config))
    for run, trained in runs.items():
        assert resumptions(tmp_path / run) == [(epoch, 0) for epoch in trained[1:]]
        record = json.loads((tmp_path / run / "result.json").read_text())
        # Of one attempt more than epochs, the first left no checkpoint and is not counted.
        assert record["timings"]["attempts"] == max(len(trained), 1)


@pytest.mark.parametrize("method", METHODS)
def test_a_run_resumed_from_its_second_to_last_checkpoint_is_the_same(
    method: str, tmp_path: Path, uninterrupted: Uninterrupted
) -> None:
    config = tiny_config(method)
    # One that only prunes, or that only fine-tunes, has too few epochs: then the one before it.
    runs = chain(config, uninterrupted)
    trained = [run for run, epochs in runs.items() if len(epochs) == 4][-1]
    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path, Interrupter(3, only=trained))
    checkpoints = sorted((tmp_path / trained / "checkpoint").glob("step-*.pt"))
    assert [path.name for path in checkpoints] == ["step-0000000010.pt", "step-0000000015.pt"]
    checkpoints[-1].unlink()
    reporter = Silent()
    result = train(config, tmp_path, reporter)
    assert reporter.epochs[:2] == [2, 3]
    assert_same_run(tmp_path / config.run_name, result, *uninterrupted(config))


def damage(path: Path, how: str) -> None:
    content = bytearray(path.read_bytes())
    if how == "one bit flipped":
        content[len(content) // 2] ^= 1
    elif how == "cut short":
        del content[len(content) // 2 :]
    else:
        content.clear()
    path.write_bytes(content)


@pytest.mark.parametrize("method", ["acdc_dense", "woodfisher"])
def test_a_run_with_a_checkpoint_goes_on_without_the_run_it_started_from(
    method: str, tmp_path: Path, uninterrupted: Uninterrupted
) -> None:
    phases = [["dense", 0, 1], ["sparse", 1, 2], ["dense", 2, 3], ["sparse", 3, 6]]
    changes: dict[str, Any] = {}
    if method == "acdc_dense":
        changes = {"settings": {"schedule": None, "phases": phases}, "epochs": 6}
    config = tiny_config(method, **changes)
    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path, Interrupter(config.epochs - 1, only=config.run_name))
    assert config.parent is not None
    shutil.rmtree(tmp_path / config.parent.run_name)
    reporter = Silent()
    result = train(config, tmp_path, reporter)
    assert reporter.epochs == [config.epochs - 1]
    assert_same_run(tmp_path / config.run_name, result, *uninterrupted(config))


@pytest.mark.parametrize(
    ("method", "file", "how"),
    [
        ("acdc_dense", "dense_best.safetensors", "one bit flipped"),
        ("acdc_dense", "dense_best.optimizer.pt", "cut short"),
        ("acdc_dense", "dense_best.optimizer.pt", "removed"),
        ("one_shot", "dense_last.safetensors", "emptied"),
        ("woodfisher", "dense_last.safetensors", "removed"),
        ("woodfisher", "result.json", "cut short"),
    ],
)
def test_what_a_run_starts_from_is_verified(
    method: str, file: str, how: str, tmp_path: Path, uninterrupted: Uninterrupted
) -> None:
    config = tiny_config(method)
    assert config.parent is not None
    parent = config.parent
    folder = tmp_path / parent.run_name
    shutil.copytree(uninterrupted(parent)[0], folder)
    if how == "removed":
        (folder / file).unlink()
    else:
        damage(folder / file, how)
    with pytest.raises(RunDirectoryError, match=f"{parent.run_name}/{file}"):
        train(config, tmp_path)


def test_a_result_of_another_version_is_refused(
    tmp_path: Path, uninterrupted: Uninterrupted
) -> None:
    config = tiny_config("dense")
    shutil.copytree(uninterrupted(config)[0], tmp_path / config.run_name)
    path = tmp_path / config.run_name / "result.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema": 1}))
    with pytest.raises(RunDirectoryError, match="schema=1"):
        train(config, tmp_path)


@pytest.mark.parametrize("how", ["one bit flipped", "cut short", "emptied"])
def test_a_damaged_newest_checkpoint_is_passed_over_and_said_to_be(
    how: str, tmp_path: Path, uninterrupted: Uninterrupted
) -> None:
    config = tiny_config("acdc")
    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path, Interrupter(3))
    newest = tmp_path / config.run_name / "checkpoint" / "step-0000000015.pt"
    damage(newest, how)
    reporter = Silent()
    result = train(config, tmp_path, reporter)
    assert f"checkpoint {newest} is damaged; resuming from the one before it" in reporter.said
    assert reporter.epochs == [2, 3]
    assert_same_run(tmp_path / config.run_name, result, *uninterrupted(config))


@pytest.mark.parametrize("how", ["one bit flipped", "removed"])
def test_a_checkpoint_whose_models_are_damaged_is_passed_over(
    how: str, tmp_path: Path, uninterrupted: Uninterrupted
) -> None:
    config = tiny_config("acdc")
    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path, Interrupter(3))
    folder = tmp_path / config.run_name / "checkpoint"
    model = folder / "dense-000002.safetensors"  # of the last dense phase: only the newest has it
    if how == "removed":
        model.unlink()
    else:
        damage(model, how)
    reporter = Silent()
    result = train(config, tmp_path, reporter)
    assert reporter.epochs == [2, 3]
    assert reporter.said[0] == (
        f"checkpoint {folder / 'step-0000000015.pt'} refers to {model.name}, which is missing or "
        "damaged; resuming from the one before it"
    )
    assert_same_run(tmp_path / config.run_name, result, *uninterrupted(config))


def test_a_checkpoint_of_another_version_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config("dense")
    monkeypatch.setattr(checkpoints, "SCHEMA", 0)
    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path, Interrupter(1))
    monkeypatch.undo()
    with pytest.raises(CheckpointError, match="another version"):
        train(config, tmp_path)


def test_with_all_checkpoints_damaged_a_run_starts_anew(
    tmp_path: Path, uninterrupted: Uninterrupted
) -> None:
    config = tiny_config("gmp")
    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path, Interrupter(3))
    paths = sorted((tmp_path / config.run_name / "checkpoint").glob("step-*.pt"))
    for path in paths:
        damage(path, "cut short")
    reporter = Silent()
    result = train(config, tmp_path, reporter)
    assert sum("is damaged" in line for line in reporter.said) == len(paths) == 2
    assert reporter.epochs == [0, 1, 2, 3]
    assert_same_run(tmp_path / config.run_name, result, *uninterrupted(config))
