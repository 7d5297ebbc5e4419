"""A run that is interrupted, killed, damaged or started twice ends as if it had not been."""

import hashlib
import io
import json
import pickle
import random
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from acdc.config.run import RunConfig
from acdc.errors import CheckpointError, RunDirectoryError
from acdc.run import checkpoints
from acdc.run.reader import read_run
from acdc.step import Step
from tests.support import (
    METHODS,
    OPTIMIZERS,
    Silent,
    Uninterrupted,
    assert_same_run,
    epochs,
    resumptions,
    tiny_config,
    train,
)

ALL = [0, 1, 2, 3]


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


@pytest.mark.parametrize(
    ("method", "optimizer"),
    [*((method, "sgd") for method in METHODS), ("acdc_dense", "lamb"), ("top_kast", "adamw")],
)
def test_a_run_interrupted_after_epochs_ends_as_if_it_had_not_been(
    method: str, optimizer: str, tmp_path: Path, uninterrupted: Uninterrupted
) -> None:
    config = tiny_config(method, recipe=OPTIMIZERS.get(optimizer, {}))
    runs = chain(config, uninterrupted)
    torch.manual_seed(random.randrange(2**31))  # global random state must not matter
    # The method's state at every step: tests/methods/test_methods.py.
    at = ALL if method == "acdc" or config.parent else [2]
    reporter = Interrupter(*at)
    for _ in [epoch for trained in runs.values() for epoch in trained if epoch in at]:
        with pytest.raises(KeyboardInterrupt):
            train(config, tmp_path, reporter)
        assert not (tmp_path / config.run_name / "result.json").exists()
    result = train(config, tmp_path, reporter)
    assert reporter.epochs == [
        epoch for trained in runs.values() for epoch in trained for _ in range(1 + (epoch in at))
    ]
    assert_same_run(tmp_path / config.run_name, result, *uninterrupted(config))
    for run, trained in runs.items():
        # An attempt that was interrupted in its first epoch left no checkpoint.
        resumed = [(epoch, 0) for epoch in trained[1:] if epoch in at]
        assert resumptions(tmp_path / run) == resumed
        record = json.loads((tmp_path / run / "result.json").read_text())
        assert record["timings"]["attempts"] == 1 + len(resumed)


def test_a_run_with_a_checkpoint_resumes_without_the_run_it_started_from(
    tmp_path: Path, uninterrupted: Uninterrupted
) -> None:
    """Also from its second to last checkpoint."""
    config = tiny_config("woodfisher")
    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path, Interrupter(3, only=config.run_name))
    shutil.rmtree(tmp_path / config.parent.run_name)
    checkpoints = sorted((tmp_path / config.run_name / "checkpoint").glob("step-*.pt"))
    assert [path.name for path in checkpoints] == ["step-0000000010.pt", "step-0000000015.pt"]
    checkpoints[-1].unlink()
    reporter = Silent()
    result = train(config, tmp_path, reporter)
    assert reporter.epochs == [2, 3]
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
    parent = config.parent
    folder = tmp_path / parent.run_name
    shutil.copytree(uninterrupted(parent)[0], folder)
    if how == "removed":
        (folder / file).unlink()
    else:
        damage(folder / file, how)
    with pytest.raises(RunDirectoryError, match=f"{parent.run_name}/{file}"):
        train(config, tmp_path)


def test_a_result_of_another_schema_is_refused(
    tmp_path: Path, uninterrupted: Uninterrupted
) -> None:
    config = tiny_config("dense")
    shutil.copytree(uninterrupted(config)[0], tmp_path / config.run_name)
    path = tmp_path / config.run_name / "result.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema": 1}))
    with pytest.raises(RunDirectoryError, match="schema=1"):
        train(config, tmp_path)


Damage = Callable[[Path], object]
NEWEST, MODEL = "checkpoint/step-0000000015.pt", "checkpoint/dense-000002.safetensors"


def content(data: bytes) -> Damage:
    return partial(Path.write_bytes, data=data)


def checkpoint_of(data: bytes) -> Damage:
    """Return a damage that leaves a checkpoint whose digest is right, whatever its content."""
    return content(hashlib.sha256(data).digest() + data)


def lose_key(key: str) -> Damage:
    def lose(path: Path) -> None:
        state = torch.load(io.BytesIO(path.read_bytes()[32:]), weights_only=True)
        del state[key]
        checkpoint_of(saved(state))(path)

    return lose


def saved(value: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def journal(change: Callable[[list[bytes]], list[bytes]]) -> Damage:
    def rewrite(path: Path) -> None:
        lines = path.read_bytes().splitlines(keepends=True)
        last = [n for n, text in enumerate(lines) if json.loads(text).get("val_loss")][2]
        path.write_bytes(b"".join(change(lines[: last + 1])))

    return rewrite


# What is damaged and how, the epochs that are trained again, and the file that is reported.
SURVIVED: dict[str, tuple[Damage, list[int], str]] = {
    **{
        f"checkpoint {how}": (partial(damage, how=how), [2, 3], NEWEST)
        for how in ("one bit flipped", "cut short", "emptied")
    },
    "checkpoint of text": (checkpoint_of(b"text"), [2, 3], NEWEST),
    "checkpoint of pickled code": (checkpoint_of(pickle.dumps(print)), [2, 3], NEWEST),
    "checkpoint of a list": (checkpoint_of(saved([1, 2])), [2, 3], NEWEST),
    "checkpoint without state": (lose_key("trainer"), [2, 3], NEWEST),
    "checkpoint without length": (lose_key("journal_length"), [2, 3], NEWEST),
    # Of the last dense phase: only the newest checkpoint has it.
    "model one bit flipped": (partial(damage, how="one bit flipped"), [2, 3], MODEL),
    "model removed": (Path.unlink, [2, 3], MODEL),
    "all checkpoints cut": (
        lambda path: [damage(each, "cut short") for each in path.glob("step-*.pt")],
        ALL,
        "checkpoint",
    ),
    "no checkpoint": (shutil.rmtree, ALL, "checkpoint"),
    **{
        f"provenance {data[:6]!r}": (content(data), [3], "provenance.json")
        for data in (b"", b'{"resumed": 7}')
    },
    "no provenance": (Path.unlink, [3], "provenance.json"),
    "journal up to the checkpoint": (journal(lambda lines: lines), [3], "journal.jsonl"),
    "journal without its last byte": (
        journal(lambda lines: [*lines[:-1], lines[-1][:-1]]),
        [2, 3],
        "journal.jsonl",
    ),
    "journal without its last line": (journal(lambda lines: lines[:-1]), [2, 3], "journal.jsonl"),
    "journal with a damaged end": (
        journal(lambda lines: [*lines[:-1], b"x" * (len(lines[-1]) - 1), b"\n"]),
        [2, 3],
        "journal.jsonl",
    ),
    "journal of other bytes": (
        lambda path: path.write_bytes(b"\0" * path.stat().st_size),
        ALL,
        "journal.jsonl",
    ),
    "no journal": (Path.unlink, ALL, "journal.jsonl"),
}


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a run that was interrupted at its end, before its last checkpoint."""
    config, runs = tiny_config("acdc"), tmp_path_factory.mktemp("interrupted")
    with pytest.raises(KeyboardInterrupt):
        train(config, runs, Interrupter(3))
    return runs / config.run_name


@pytest.mark.parametrize("case", SURVIVED)
def test_what_is_damaged_is_trained_again_and_reported(
    case: str, interrupted: Path, tmp_path: Path, uninterrupted: Uninterrupted
) -> None:
    act, left, name = SURVIVED[case]
    config = tiny_config("acdc")
    folder = shutil.copytree(interrupted, tmp_path / config.run_name)
    act(folder / name)
    reporter = Silent()
    result = train(config, tmp_path, reporter)
    assert reporter.epochs == left
    assert_same_run(folder, result, *uninterrupted(config))
    record = read_run(folder)
    assert (record.problems, record.journal.problem) == ((), None)
    reported = [line for line in reporter.said if Path(name).name in line]
    assert bool(reported) == (left != [3] and case != "no checkpoint")
    # An attempt that nothing is known of counts as other code.
    assert (record.source_digest is None) == ("provenance" in name)


def test_a_checkpoint_of_another_schema(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny_config("dense")
    monkeypatch.setattr(checkpoints, "SCHEMA", 0)
    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path, Interrupter(1))
    monkeypatch.undo()
    with pytest.raises(CheckpointError, match="another version"):
        train(config, tmp_path)
