"""A run that is killed, at whatever moment and however often, ends as if it had not been."""

import itertools
import multiprocessing
import os
import random
import signal
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal

import pytest
import torch

from acdc.config.run import RunConfig
from acdc.models import MODELS, Architecture
from acdc.models.wide_resnet import WideResNet
from acdc.run.lifecycle import Options, run
from tests.support import (
    At,
    Silent,
    Uninterrupted,
    assert_same_run,
    epochs,
    interrupt,
    resumptions,
    tiny_config,
    train_broken,
)

CONTEXT = multiprocessing.get_context("forkserver")
# A process is then there at once, with torch imported and yet with no thread of another test.
CONTEXT.set_forkserver_preload(["tests.run.test_kill"])


class Counted(Silent):
    """Tells the process that watches of each step."""

    def __init__(self, watcher: Connection) -> None:
        super().__init__()
        self.watcher = watcher

    def step(self) -> None:
        self.watcher.send_bytes(b"step")


def train_watched(config: RunConfig, runs: Path, watcher: Connection) -> None:
    torch.set_num_threads(1)
    run(config, Options(runs, checkpoint_interval_s=0), Counted(watcher))


def killed_after(steps: int, moment: float, config: RunConfig, runs: Path) -> bool:
    """Kill a run some seconds after some steps; return false if it ended before that."""
    ours, theirs = CONTEXT.Pipe(duplex=False)
    process = CONTEXT.Process(target=train_watched, args=(config, runs, theirs))
    process.start()
    theirs.close()
    try:
        for _ in range(steps):
            ours.recv_bytes()
        time.sleep(moment)
    except EOFError:
        process.join()
    process.kill()
    process.join()
    assert process.exitcode in (0, -signal.SIGKILL)
    return process.exitcode != 0


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


@pytest.mark.slow
@pytest.mark.parametrize("method", ["acdc", "woodfisher"])
def test_kills_at_random_moments(method: str, tmp_path: Path, uninterrupted: Uninterrupted) -> None:
    config = tiny_config(method)
    seed = random.randrange(2**32)
    moments = random.Random(seed)
    kills = 0
    while killed_after(moments.randint(0, 6), moments.uniform(0, 0.03), config, tmp_path):
        kills += 1
    note = f"killed {kills} times at moments of seed {seed}"
    assert kills > 1, note
    folder = tmp_path / config.run_name
    expected, whole = uninterrupted(config)
    try:
        assert_same_run(folder, run(config, Options(tmp_path), Silent()), expected, whole)
        assert files(folder) == files(expected)
    except AssertionError as error:
        error.add_note(note)
        raise


# What changes a folder, or says that a change is on the disk.
CALLS = ("fsync", "replace", "link", "unlink")
When = Literal["before", "after"]


def train_until_call(
    config: RunConfig, runs: Path, last: int, when: When, counted: Connection
) -> None:
    """Train until a call by its number, before or after which this process kills itself."""
    torch.set_num_threads(1)
    count = itertools.count(1)

    def wrapped(call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            fatal = next(count) == last
            if fatal and when == "before":
                os.kill(os.getpid(), signal.SIGKILL)
            try:
                return call(*args, **kwargs)
            finally:
                if fatal:
                    os.kill(os.getpid(), signal.SIGKILL)

        return wrapper

    for name in CALLS:
        setattr(os, name, wrapped(getattr(os, name)))
    run(config, Options(runs, checkpoint_interval_s=0), Silent())
    counted.send(next(count) - 1)


def killed_at_call(config: RunConfig, runs: Path, last: int, when: When) -> int | None:
    ours, theirs = CONTEXT.Pipe(duplex=False)
    process = CONTEXT.Process(target=train_until_call, args=(config, runs, last, when, theirs))
    process.start()
    theirs.close()
    process.join()
    assert process.exitcode == (-signal.SIGKILL if last else 0)
    return None if last else int(ours.recv())


@pytest.mark.slow
@pytest.mark.parametrize("when", ["before", "after"])
def test_kills_while_it_writes_a_checkpoint(
    when: When, tmp_path: Path, uninterrupted: Uninterrupted
) -> None:
    config = tiny_config("acdc")
    expected, whole = uninterrupted(config)
    calls = killed_at_call(config, tmp_path / "survived", 0, when)
    assert calls > 20 * len(CALLS)
    seed = random.randrange(2**32)
    draw = random.Random(seed)
    # One of each third of the run, the last of which has all that follows the training.
    bounds = itertools.pairwise(calls * third // 3 for third in range(4))
    for last in (draw.randint(first + 1, end) for first, end in bounds):
        runs = tmp_path / str(last)
        killed_at_call(config, runs, last, when)
        reporter = Silent()
        result = run(config, Options(runs), reporter)
        folder = runs / config.run_name
        try:
            assert not any("damaged" in line for line in reporter.said)
            assert_same_run(folder, result, expected, whole)
            assert not [name for name in files(folder) if name.endswith(".tmp")]
            assert epochs(folder) == [0, 1, 2, 3]
        except AssertionError as error:
            error.add_note(f"killed {when} call {last} of {calls}, seed {seed}")
            raise


@pytest.mark.parametrize("method", ["acdc", "rigl"])
def test_a_run_resumed_at_every_batch(
    method: str, tmp_path: Path, uninterrupted: Uninterrupted
) -> None:
    config = tiny_config(method)
    reporter = At(interrupt, steps=range(20))
    for _ in range(20):
        train_broken(config, tmp_path, reporter)
    result = run(config, Options(tmp_path), reporter)
    folder = tmp_path / config.run_name
    assert_same_run(folder, result, *uninterrupted(config))
    assert epochs(folder) == [0, 1, 2, 3]
    # The first attempt had nothing to resume.
    assert resumptions(folder) == [divmod(iteration, 5) for iteration in range(1, 20)]
    assert reporter.said[0] == "resumed after epoch 0 of 4, 1 of 5 batches"
    assert reporter.said[4] == "resumed after epoch 1 of 4"


def test_dropout_draws_from_the_seed_and_not_from_what_ran_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uninterrupted: Uninterrupted
) -> None:
    network = Architecture(lambda c, k: WideResNet(10, 1, c, k, dropout=0.5))
    monkeypatch.setitem(MODELS, "wrn10_1", network)
    # Its setup passes images through the network, too.
    config = tiny_config("snip", model="wrn10_1", recipe={"lr": 0.05})
    expected, whole = uninterrupted(config)
    train_broken(config, tmp_path, At(interrupt, steps=[7]))
    torch.rand(3)
    state = torch.get_rng_state()
    result = run(config, Options(tmp_path), Silent())
    assert torch.equal(torch.get_rng_state(), state), "a run leaves the caller's generator alone"
    assert resumptions(tmp_path / config.run_name) == [(1, 2)]
    assert_same_run(tmp_path / config.run_name, result, expected, whole)
