"""Masks are the same on every rank when gradients are averaged before a method sees them."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

from acdc.schedules import Step
from tests.support import METHODS, Drive, tiny_config

RANKS = 2


class RankDrive(Drive):
    """Sees other batches on every rank, and none outside of training."""

    def batch(self, iteration: int) -> tuple[Tensor, Tensor]:
        # What a method samples by itself (iterations from 1000 on) is drawn alike on all ranks.
        return super().batch(iteration + 50 * dist.get_rank() * (iteration < 1000))


def digest(masks: dict[str, Tensor]) -> str:
    """Return a hash of masks."""
    packed = [mask.cpu().numpy().tobytes() for mask in masks.values()]
    return hashlib.sha256(b"".join(packed)).hexdigest()


def drive(rank: int, folder: str, average: bool) -> None:
    torch.set_num_threads(1)
    rendezvous = f"file://{folder}/rendezvous"
    dist.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=RANKS)
    seen: dict[str, list[str]] = {}
    for method in METHODS:
        this = RankDrive(tiny_config(method), batches=5)

        def exchange(step: Step, this: RankDrive = this) -> None:
            for parameter in this.model.parameters():
                if average and parameter.grad is not None:
                    dist.all_reduce(parameter.grad)
                    parameter.grad /= RANKS

        digests = seen.setdefault(method, [digest(this.method.masks)])
        this.run(
            lambda step, this=this, digests=digests: digests.append(digest(this.method.masks)),
            before_step=exchange,
        )
    torch.save(seen, os.path.join(folder, f"rank{rank}.pt"))  # noqa: PTH118
    dist.destroy_process_group()


def masks_by_rank(folder: Path, average: bool) -> list[dict[str, Any]]:
    mp.spawn(drive, args=(str(folder), average), nprocs=RANKS)
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(RANKS)]


def test_masks_are_equal_on_all_ranks_after_every_step(tmp_path: Path) -> None:
    first, second = masks_by_rank(tmp_path, average=True)
    assert list(first) == list(METHODS)
    for method in METHODS:
        assert len(first[method]) == 21
        assert first[method] == second[method], method


def test_without_averaged_gradients_they_would_not_be(tmp_path: Path) -> None:
    first, second = masks_by_rank(tmp_path, average=False)
    differing = {method for method in METHODS if first[method] != second[method]}
    assert {"acdc", "gmp", "rigl", "top_kast"} <= differing
