"""Worker processes that decode images into memory shared with the training process.

Processes, since threads share Python's lock with the training loop; and a standard-library pool
instead of torch's DataLoader, which copies every batch once more, lets one worker decode a whole
batch, and reports a worker's death from a signal handler that may interrupt the main program
anywhere.
"""

from __future__ import annotations

import math
import multiprocessing.connection
import multiprocessing.forkserver
import multiprocessing.resource_tracker
import os
import signal
import sys
import threading
import warnings
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from types import ModuleType
from typing import Any

import numpy as np
import torch
import torch.multiprocessing
from torch import Tensor

from acdc.data.decode import Draw, View, read
from acdc.errors import DataError

# Images per task: enough that dispatching is cheap, few enough that all workers share a batch.
_TASK = 16


class WorkerError(DataError):
    """A worker process was killed."""

    recurs = False


Request = tuple[str, Draw | None]
"""The path of an image to decode, and the draw of its crop."""


class Workers:
    """A pool of processes and the batches that they fill.

    Args:
        count: processes.
        size: images in the largest batch.
        view: the size of the decoded images.
        device: where batches go; for a GPU their memory is page-locked, for asynchronous copies.
    """

    def __init__(self, count: int, size: int, view: View, device: torch.device) -> None:
        self.count = count
        self.device = device
        # One batch is copied or used while the others are filled, three tasks per worker.
        self.depth = 1 + max(2, math.ceil(3 * count * _TASK / size))
        # One more, so that samples can be read while a training epoch is suspended.
        shape = (self.depth + 1, size, view.size, view.size, 3)
        memory = torch.empty(shape, dtype=torch.uint8)
        try:
            self.batches: Tensor = memory.share_memory_()  # type: ignore[no-untyped-call]
            self.pool = ProcessPoolExecutor(count, _server(), _begin, (self.batches, view))
        except (RuntimeError, OSError) as error:
            raise WorkerError(
                f"data workers: no {memory.nbytes >> 20} MiB of shared memory in /dev/shm "
                f"({error}); provide more (docker run --shm-size=1g), or use fewer --workers or "
                "smaller batches"
            ) from None
        self.free = list(range(len(self.batches)))
        if device.type == "cuda":
            _lock(self.batches)

    def stream(self, batches: Iterator[Sequence[Request]]) -> Iterator[Tensor]:
        """Yield each batch as bytes (N, 3, H, W) on the device, channels last in memory.

        Raises:
            DataError: a file cannot be read, or a worker was killed.
        """
        mine = [self.free.pop() for _ in range(min(self.depth, len(self.free)))]
        if not mine:
            raise RuntimeError("too many streams of images are open at a time")
        idle: deque[tuple[int, torch.cuda.Event | None]] = deque((place, None) for place in mine)
        waiting: deque[tuple[int, int, list[Future[None]]]] = deque()
        try:
            while True:
                while idle and (batch := next(batches, None)) is not None:
                    place, copied = idle.popleft()
                    if copied is not None:
                        copied.synchronize()
                    waiting.append((place, len(batch), self._submit(place, batch)))
                if not waiting:
                    return
                place, size, tasks = waiting[0]
                for task in tasks:
                    task.result()
                waiting.popleft()
                pixels = self.batches[place, :size].permute(0, 3, 1, 2)
                copied = None
                if self.device.type == "cuda":
                    pixels = pixels.to(self.device, non_blocking=True)
                    copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
                    copied.record(torch.cuda.current_stream(self.device))
                yield pixels
                idle.append((place, copied))
        except BrokenProcessPool:
            raise WorkerError(
                "data workers: one was killed, perhaps for lack of memory; use fewer than "
                f"{self.count} or provide more memory (including /dev/shm)"
            ) from None
        finally:
            wait([task for _, _, tasks in waiting for task in tasks if not task.cancel()])
            if self.device.type == "cuda":
                torch.cuda.current_stream(self.device).synchronize()
            self.free += mine

    def _submit(self, place: int, batch: Sequence[Request]) -> list[Future[None]]:
        # Processes are started here as they are needed. They would import the main module, though
        # they need nothing of it, and a script without a guard would start to train again.
        main, sys.modules["__main__"] = sys.modules["__main__"], ModuleType("__main__")
        try:
            return [
                self.pool.submit(_fill, place, first, batch[first : first + _TASK])
                for first in range(0, len(batch), _TASK)
            ]
        finally:
            sys.modules["__main__"] = main

    def close(self) -> None:
        """Terminate the processes."""
        self.pool.shutdown(cancel_futures=True)
        if self.device.type == "cuda":
            _unlock(self.batches)


def _server() -> Any:
    """Return a context that forks processes from a server with the imports they need.

    Not from this process, which has threads and a GPU.
    """
    context: Any = torch.multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _NOT_FOR_WORKERS)
    try:  # processes inherit the blocked signals
        multiprocessing.resource_tracker.ensure_running()
        signal.pthread_sigmask(signal.SIG_BLOCK, _NOT_FOR_WORKERS)  # undone by the line before
        multiprocessing.forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return context


# Terminals and schedulers signal whole process groups; the training process handles the signal and
# needs its workers until it has finished.
_NOT_FOR_WORKERS = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)

_batches: np.ndarray
_view: View


def _begin(batches: Tensor, view: View) -> None:
    """Initialise a worker."""
    global _batches, _view
    _batches, _view = batches.numpy(), view
    os.setsid()
    for number in _NOT_FOR_WORKERS:
        signal.signal(number, signal.SIG_IGN)  # pending ones included
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # the pool terminates its processes with it
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _NOT_FOR_WORKERS)
    # Some of ImageNet's files carry broken EXIF data.
    warnings.filterwarnings("ignore", module="PIL")
    threading.Thread(target=_exit_with_parent, daemon=True).start()


def _exit_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    multiprocessing.connection.wait([parent.sentinel])
    os._exit(1)


def _fill(place: int, first: int, requests: Sequence[Request]) -> None:
    """Decode images into a batch, starting at position ``first``."""
    for number, (path, draw) in enumerate(requests, first):
        _batches[place, number] = read(path, _view, draw)


def _lock(memory: Tensor) -> None:
    """Page-lock shared memory, so that a GPU copies from it asynchronously."""
    cuda: Any = torch.cuda.cudart()  # type: ignore[no-untyped-call]
    torch.cuda.check_error(cuda.cudaHostRegister(memory.data_ptr(), memory.nbytes, 0))


def _unlock(memory: Tensor) -> None:
    cuda: Any = torch.cuda.cudart()  # type: ignore[no-untyped-call]
    torch.cuda.check_error(cuda.cudaHostUnregister(memory.data_ptr()))
