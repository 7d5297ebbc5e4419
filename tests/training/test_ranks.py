"""A run that several ranks share is the run of one: the same masks, sums and, nearly, weights."""

import contextlib
import hashlib
import itertools
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.multiprocessing.spawn import ProcessExitedException

from acdc.config.run import RunConfig
from acdc.data.memory import MemoryLoader
from acdc.distributed import Ranks, from_environment
from acdc.errors import ConfigError
from acdc.models.normalization import share_statistics
from acdc.run.lifecycle import Options, run
from acdc.step import Step
from acdc.training.state import Engine
from tests.support import (
    METHODS,
    OPTIMIZERS,
    Drive,
    Silent,
    journal,
    resumptions,
    tiny_config,
    tiny_text,
)

RANKS = 2


class RankDrive(Drive):
    """Sees other batches on every rank, and none outside of training."""

    def batch(self, iteration: int) -> tuple[Tensor, Tensor]:
        # What a method samples by itself (iterations from 1000 on) is drawn alike on all ranks.
        return super().batch(iteration + 50 * dist.get_rank() * (iteration < 1000))


def digest(masks: dict[str, Tensor]) -> str:
    packed = [mask.cpu().numpy().tobytes() for mask in masks.values()]
    return hashlib.sha256(b"".join(packed)).hexdigest()


def drive(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    rendezvous = f"file://{folder}/rendezvous"
    dist.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=RANKS)
    seen: dict[str, list[str]] = {}
    for method, averages in itertools.product(METHODS, (True, False)):
        this = RankDrive(tiny_config(method), batches=5)

        def exchange(step: Step, this: RankDrive = this, averages: bool = averages) -> None:
            for parameter in this.model.parameters():
                if averages and parameter.grad is not None:
                    dist.all_reduce(parameter.grad)
                    parameter.grad /= RANKS

        digests = seen.setdefault(method + ("" if averages else " alone"), [])
        digests.append(digest(this.method.masks))
        this.run(
            lambda step, this=this, digests=digests: digests.append(digest(this.method.masks)),
            before_step=exchange,
        )
    torch.save(seen, Path(folder) / f"rank{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
def test_masks_are_equal_on_all_ranks_after_every_step(tmp_path: Path) -> None:
    mp.spawn(drive, args=(str(tmp_path),), nprocs=RANKS)
    first, second = (torch.load(tmp_path / f"rank{r}.pt", weights_only=True) for r in range(RANKS))
    for method in METHODS:
        assert len(first[method]) == 21
        assert first[method] == second[method], method
    # Without averaged gradients they would not be.
    for method in ("acdc", "gmp", "rigl", "top_kast"):
        assert first[f"{method} alone"] != second[f"{method} alone"]


DROPOUT = {"model": "wrn10_2_w8_s4", "epochs": 2}
# SNIP's own gradients are of 63 images, which two ranks share unequally.
CONFIGS = [*map(tiny_config, METHODS), *(tiny_config(m, **DROPOUT) for m in ("dense", "snip"))]
CONFIGS += [tiny_config("acdc", recipe=OPTIMIZERS["lamb"]), tiny_text("acdc")]


class Killed(Silent):
    """Ends the process without a word after some steps."""

    def __init__(self, steps: int | None) -> None:
        super().__init__()
        self.left = steps

    def step(self) -> None:
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                os._exit(1)


def train_shared(
    rank: int, count: int, folder: str, configs: list[RunConfig], steps: int | None
) -> None:
    """Train on ``count`` ranks in double precision, where rounding is negligible."""
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count)}
    port = (Path(folder) / "port").read_text()
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    torch.set_default_dtype(torch.float64)
    single = MemoryLoader.normalise
    MemoryLoader.normalise = lambda loader, pixels: single(loader, pixels).double()  # type: ignore[method-assign]
    ranks = from_environment()
    reporter = Killed(steps)
    with ranks.joined(torch.device("cpu")):
        for config in configs:
            # Checkpoints within epochs are sums over ranks, and must change nothing.
            interval = 0.1 if steps is None else 0.0
            run(config, Options(Path(folder) / "runs", Engine(), interval), reporter, ranks)
        if ranks.first:
            assert reporter.epochs
    # Only the first rank writes: a file of another's would be one too many.
    (Path(folder) / f"done{rank}").write_text("")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def shared(
    count: int, folder: Path, configs: list[RunConfig] = CONFIGS, steps: int | None = None
) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "port").write_text(str(free_port()))
    killed = contextlib.nullcontext() if steps is None else pytest.raises(ProcessExitedException)
    with killed:
        mp.spawn(train_shared, args=(count, str(folder), configs, steps), nprocs=count)
    assert len(list(folder.glob("done*"))) == (count if steps is None else 0)
    return folder / "runs"


@pytest.mark.slow
def test_a_run_on_two_ranks_is_that_on_one_within_rounding(tmp_path: Path) -> None:
    alone, together = (shared(count, tmp_path / str(count)) for count in (1, 2))
    for config in CONFIGS:
        method, name = config.method, config.run_name
        one, two = (json.loads((f / name / "result.json").read_text()) for f in (alone, together))
        assert one["products"].keys() == two["products"].keys()
        for product in one["products"]:
            for which in ("last", "best"):
                here, there = one["products"][product][which], two["products"][product][which]
                assert here["test_accuracy"] == there["test_accuracy"], method
                assert here["test_loss"] == pytest.approx(there["test_loss"], rel=1e-6)
                assert here["certificate"] == there["certificate"]
                weights, others = (
                    load_file(folder / name / f"{product}_{which}.safetensors")
                    for folder in (alone, together)
                )
                for key, tensor in weights.items():
                    assert torch.allclose(tensor, others[key], rtol=1e-6, atol=1e-9), (method, key)
                    assert torch.equal(tensor == 0, others[key] == 0), (method, key)
        lines = [journal(folder / name) for folder in (alone, together)]
        for mine, theirs in zip(*lines, strict=True):
            assert mine.keys() == theirs.keys()
            for key in ("nonzeros", "val_accuracy", "train_accuracy", "event", "mask_change"):
                assert mine.get(key) == theirs.get(key), (method, key)
            if "train_loss" in mine:
                assert mine["train_loss"] == pytest.approx(theirs["train_loss"], rel=1e-6)


IMAGES = tiny_config("gmp", model="wrn10_2_w8_s4", recipe={"batch_size": 258})
TEXT = tiny_text("dense", epochs=1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "first", "then"),
    [(IMAGES, 1, 2), (IMAGES, 3, 1), (TEXT, 2, 2)],
    ids=lambda value: value.dataset if isinstance(value, RunConfig) else str(value),
)
def test_any_number_of_ranks_resumes_an_epoch(
    config: RunConfig, first: int, then: int, tmp_path: Path
) -> None:
    whole = shared(1, tmp_path / "whole", [config]) / config.run_name
    shared(first, tmp_path / "parts", [config], steps=12)
    parts = shared(then, tmp_path / "parts", [config]) / config.run_name
    assert resumptions(parts) == [divmod(12, config.plan.batches_per_epoch)]
    for mine, theirs in zip(journal(parts), journal(whole), strict=True):
        for key in {"train_loss", "train_accuracy", "val_loss"} & mine.keys():
            assert mine[key] == pytest.approx(theirs[key], rel=1e-6), (mine["epoch"], key)


@pytest.mark.slow
def test_ranks_share_a_run_in_sixteen_bits(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "acdc", "train", "--method", "rigl", "--epochs", "2"]
    command += ["--set", "precision=fp16", "--runs", str(tmp_path), "--device", "cpu"]
    done = subprocess.run([*command, "--processes", "2"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (result,) = tmp_path.glob("*/result.json")
    (sparse,) = json.loads(result.read_text())["products"].values()
    assert sparse["last"]["certificate"]["holds"]
    assert sparse["best"]["val_accuracy"] > 0.2  # guessing gives 0.1


def test_a_batch_that_ranks_cannot_share_is_refused() -> None:
    Ranks(0, 4).check_batch(256)
    with pytest.raises(ConfigError, match=r"recipe.batch_size=250"):
        Ranks(0, 4).check_batch(250)


@given(st.integers(0, 1000), st.integers(1, 9))
def test_shares_are_disjoint_whole_and_even(length: int, count: int) -> None:
    shares = [range(length)[Ranks(rank, count).slice(length)] for rank in range(count)]
    assert [i for share in shares for i in share] == list(range(length))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_normalisation_that_ranks_cannot_share_is_refused() -> None:
    for layer in (nn.BatchNorm1d(3), nn.BatchNorm2d(3, momentum=None)):
        with pytest.raises(ConfigError, match=r"model: 0 is a BatchNorm.d that processes cannot"):
            share_statistics(nn.Sequential(layer), torch.device("cpu"))
