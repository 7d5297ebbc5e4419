"""The processes that share one run: who they are, what each takes, and how they come to agree.

``torchrun`` starts them and says who they are in the environment. Every rank holds the whole model
and takes an equal share of each batch. What is averaged or summed over ranks is the same on all of
them to the last bit, so that what they decide by it, masks above all, is the same too.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from acdc.errors import SuiteError
from acdc.messages import config_error

T = TypeVar("T")


class Ranks:
    """The processes of a run; a run in a single process is one rank of one."""

    def __init__(self, rank: int = 0, count: int = 1) -> None:
        self.rank = rank
        self.count = count
        self._group: Any = None
        self._pending: tuple[Any, Tensor] | None = None

    @property
    def first(self) -> bool:
        """Whether this is the rank that writes files and talks to people."""
        return self.rank == 0

    def slice(self, length: int) -> slice:
        """Return this rank's share of ``length`` things; shares differ by at most one."""
        return slice(self.rank * length // self.count, (self.rank + 1) * length // self.count)

    def check_batch(self, size: int) -> None:
        """Refuse a batch that the ranks cannot share equally.

        Raises:
            ConfigError: the batch is not a multiple of the number of ranks.
        """
        if size % self.count:
            problem = f"cannot be split equally among {self.count} processes"
            raise config_error("recipe.batch_size", size, problem, "a multiple of their number")

    def sum(self, tensors: Iterable[Tensor]) -> None:
        """Replace tensors by their sums over all ranks."""
        if self.count > 1:
            for tensor in tensors:
                dist.all_reduce(tensor)

    def on_rank0(self, do: Callable[[], T]) -> T:
        """Call a function on rank 0, and return its value, or raise its error, on every rank."""
        if self.count == 1:
            return do()
        box: list[Any] = [None, None]
        if self.first:
            try:
                box[0] = do()
            except Exception as error:
                # As a sentence and a status; the first rank has the rest.
                status = error.exit_status if isinstance(error, SuiteError) else 1
                told = [None, (str(error), status)]
                dist.broadcast_object_list(told, src=0, group=self._group)
                raise
        dist.broadcast_object_list(box, src=0, group=self._group)
        if box[1] is not None:
            raise Rank0Error(*box[1])
        value: T = box[0]
        return value

    def largest(self, value: int) -> int:
        """Return the largest value of all ranks' previous calls; a single process: this value.

        Called once a step by every rank. The exchange runs while the next step is computed, so that
        no rank waits for it.
        """
        if self.count == 1:
            return value
        agreed = 0
        if self._pending is not None:
            work, largest = self._pending
            work.wait()
            agreed = int(largest)
        largest = torch.tensor(value)
        work = dist.all_reduce(largest, op=dist.ReduceOp.MAX, group=self._group, async_op=True)
        self._pending = work, largest
        return agreed

    def cancel(self, below: int) -> None:
        """Drop the exchange that is under way if its result is below a number.

        Called by every rank at the same step, when the request has just been fulfilled.
        """
        if self._pending is not None:
            work, largest = self._pending
            work.wait()
            if int(largest) < below:
                self._pending = None

    @contextlib.contextmanager
    def joined(self, device: torch.device) -> Iterator[None]:
        """Meet the other ranks, and part in the end: over NCCL on GPUs, over gloo on CPUs."""
        if self.count == 1:
            yield
            return
        gpu = device.type == "cuda"
        if gpu:
            torch.cuda.set_device(device)
        dist.init_process_group("nccl" if gpu else "gloo", device_id=device if gpu else None)
        # What ranks say to each other is on the CPU, whatever the gradients are; and the first one
        # may take its time, waiting for another process or reading a large set.
        self._group = dist.new_group(backend="gloo", timeout=timedelta(days=1))
        try:
            yield
        finally:
            dist.destroy_process_group()


def from_environment() -> Ranks:
    """Return what torchrun says of this process, or a single rank.

    Raises:
        ConfigError: the environment says a part of it only, left over from something else.
    """
    found = {name: os.environ.get(name) for name in ("RANK", "WORLD_SIZE")}
    if set(found.values()) == {None}:
        return Ranks()
    if found["WORLD_SIZE"] not in (None, "0", "1"):
        found |= {name: os.environ.get(name) for name in ("LOCAL_RANK", "MASTER_PORT")}
    wrong = [name for name, value in found.items() if not re.fullmatch("[0-9]{1,5}", value or "")]
    if not wrong and int(found["RANK"] or 0) >= int(found["WORLD_SIZE"] or 0):
        wrong = ["RANK"]
    if wrong:
        allowed = "unset RANK and WORLD_SIZE, or all that torchrun sets"
        raise config_error(wrong[0], found[wrong[0]], "not as torchrun sets it", allowed)
    return Ranks(int(found["RANK"] or 0), int(found["WORLD_SIZE"] or 0))


def local_device(name: str) -> str:
    """Return the device of this rank, where ``cuda`` stands for one GPU a process of a machine."""
    of_torchrun = name == "cuda" and "RANK" in os.environ
    return f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if of_torchrun else name


class Rank0Error(SuiteError):
    """The error that rank 0 raised, on the other ranks."""

    def __init__(self, text: str, exit_status: int) -> None:
        super().__init__(text)
        self.exit_status = exit_status
