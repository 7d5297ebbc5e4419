"""What sparse products make of a training step: measured beside dense ones, with a run's masks."""

from __future__ import annotations

import contextlib
import statistics
import time
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from acdc.config.run import parse_run
from acdc.distributed import Ranks
from acdc.errors import RunDirectoryError
from acdc.files import write_text
from acdc.kernels.layers import SparseLayers
from acdc.kernels.library import keep_memory, library
from acdc.run.checkpoints import Checkpoints
from acdc.run.provenance import hardware
from acdc.run.reader import STEP_TIME, Hardware, StepTime
from acdc.run.result import finished
from acdc.training.state import Engine, TrainState

if TYPE_CHECKING:
    from acdc.training.task import Forward

_WARM_UP = 15
"""Turns before the first that counts; ``auto`` needs them to choose."""
_FEWEST, _MOST, _BUDGET_S = 5, 25, 0.2
"""Turns that count: as many as fit into the budget, within limits."""


def measure(state: TrainState) -> StepTime | None:
    """Time forward and backward passes with the masks as they are, dense and sparse in turns.

    Layers multiply as with ``--kernels auto``. Weights stay, running statistics do not.

    Args:
        state: of a run, on one rank.

    Returns:
        None without masks, off the CPU, in reduced precision, and where there are no kernels.
    """
    method, masks = state.method, state.method.masks
    exact = state.arithmetic.dtype is None and state.ranks.count == 1
    if not masks or not exact or state.device.type != "cpu" or library() is None:
        return None
    keep_memory()
    layers = state.sparse_layers or SparseLayers(state.model, "auto")
    chosen = torch.arange(state.config.recipe.batch_size) % state.loader.examples
    inputs, targets = state.loader.samples(chosen)
    if inputs.dim() == 4:
        inputs = inputs.contiguous(memory_format=torch.channels_last)
    state.model.train()

    def compute() -> tuple[Forward, Tensor]:
        forward = state.task.forward(state.model, inputs, targets)
        return forward, forward.loss

    dense: list[float] = []
    sparse: list[float] = []
    contexts = (
        (dense, contextlib.nullcontext),
        (sparse, lambda: layers.active(masks, method.needed_gradients())),
    )
    with state.seeded("dropout", state.config.epochs):
        while len(dense) < _WARM_UP + _MOST:
            if len(dense) >= _WARM_UP + _FEWEST and sum(dense + sparse) > _BUDGET_S:
                break
            # What comes second in a turn may find other memory.
            for times, context in contexts[:: 1 if len(dense) % 2 else -1]:
                started = time.perf_counter()
                with context():
                    state.arithmetic.gradients(compute, state.optimizer)
                times.append(time.perf_counter() - started)
    state.optimizer.zero_grad(set_to_none=True)
    dense, sparse = dense[_WARM_UP:], sparse[_WARM_UP:]
    return StepTime(
        dense_s=statistics.median(dense),
        sparse_s=statistics.median(sparse),
        speedup=statistics.median(d / s for d, s in zip(dense, sparse, strict=True)),
        masked_layers=len(masks),
        sparse_layers=sum(how == "sparse" for how in layers.used.values()),
        threads=torch.get_num_threads(),
        hardware=Hardware(**hardware(state.device)),
    )


def write(state: TrainState, folder: Path) -> StepTime | None:
    """Measure, and write what was found to the run's folder."""
    found = measure(state)
    if found is not None:
        write_text(folder / STEP_TIME, found.model_dump_json(indent=1) + "\n")
    return found


def remeasure(folder: Path) -> StepTime | None:
    """Measure a run that has finished, from the checkpoint that it keeps.

    Raises:
        RunDirectoryError: it has not finished, or has no checkpoint.
    """
    config = parse_run(dict(finished(folder).config))
    checkpoints = Checkpoints(folder / "checkpoint", config.fingerprint)
    if not checkpoints.paths():
        raise RunDirectoryError(f"{folder}: no checkpoint")
    state = TrainState(config, Engine(), Ranks())
    try:
        state.begin()
        state.load_state_dict(checkpoints.read(checkpoints.paths()[0], state.device)["trainer"])
        return write(state, folder)
    finally:
        state.loader.close()
