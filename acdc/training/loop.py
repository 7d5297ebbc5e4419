"""The one training loop: every method, data set and model goes through it."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import torch
from torch import Tensor

from acdc import seeds
from acdc.distributed import Ranks
from acdc.errors import Diverged
from acdc.methods.rules import check_state, checked_product, checked_rate, checked_step
from acdc.step import Step
from acdc.training.optimizers import clip_gradients
from acdc.training.state import TrainState
from acdc.training.task import Forward


@dataclass
class Totals:
    """Sums over the batches of an epoch, kept on the device until they are needed."""

    loss: Tensor
    """Of this rank's part of each batch's mean loss, so that ranks add up whatever their number."""
    correct: Tensor
    seconds: float = 0.0

    @classmethod
    def zero(cls, device: torch.device) -> Totals:
        """Return the sums over no batch."""
        return cls(
            torch.zeros((), dtype=torch.float64, device=device),
            torch.zeros((), dtype=torch.int64, device=device),
        )

    def summed(self, ranks: Ranks) -> Totals:
        """Return the sums over all ranks."""
        loss, correct = self.loss.clone(), self.correct.clone()
        ranks.sum([loss, correct])
        return Totals(loss, correct, self.seconds)

    def check(self, epoch: int) -> None:
        """Raise Diverged if a loss was not finite."""
        loss = float(self.loss)
        if not math.isfinite(loss):
            raise Diverged(epoch, f"the training loss is {loss}")


class Callbacks:
    """What is called around the steps of the loop; by default only the loss is checked."""

    def epoch_start(self, epoch: int) -> None:
        """Act before the first batch of an epoch; not called where training resumes within it."""

    def step_end(self, step: Step, totals: Totals) -> None:
        """Act after a batch.

        Args:
            step: the position of the batch.
            totals: this rank's sums over the epoch so far.
        """

    def epoch_end(self, epoch: int, totals: Totals) -> None:
        """Act after the last batch of an epoch."""
        totals.check(epoch)


def train(
    state: TrainState,
    callbacks: Callbacks,
    start: Step,
    end: int | None = None,
    totals: Totals | None = None,
) -> None:
    """Train from a position to the end of training, or up to an epoch.

    Args:
        state: what is trained.
        callbacks: are called around its steps.
        start: position of the first batch.
        end: the first epoch that is not trained; None: the length of the run.
        totals: sums over the batches of the first epoch before ``start``; None at its beginning.

    Raises:
        Diverged: a loss is not finite, or in fp16 the gradients overflow at any scale.
    """
    for epoch in range(start.epoch, state.config.epochs if end is None else end):
        first = start.batch if epoch == start.epoch else 0
        if totals is None:
            totals = Totals.zero(state.device)
            begin_epoch(state, epoch)
            callbacks.epoch_start(epoch)
        state.model.train()
        draws = seeds.derive_many(state.config.seed, "dropout", epoch, 0, count=state.batches)
        # Each batch has a seed of its own, so that an epoch can be resumed at any of them.
        with state.seeded("dropout", epoch):
            started = time.perf_counter()
            batches = state.loader.training(epoch, first)
            for batch, (inputs, targets) in enumerate(batches, first):
                step = Step(epoch, batch, state.batches)
                forward = train_step(state, step, inputs, targets, draws[batch])
                totals.loss.add_(forward.loss.detach(), alpha=1 / state.ranks.count)
                totals.correct += forward.correct
                if batch == first:  # before much has been spent on a method that breaks a rule
                    check_state(state.method)
                    checked_product(state.method, Step(epoch, state.batches - 1, state.batches))
                if batch + 1 == state.batches and state.device.type == "cuda":
                    torch.cuda.synchronize(state.device)  # so that the seconds are those it took
                totals.seconds += time.perf_counter() - started
                callbacks.step_end(step, totals)
                started = time.perf_counter()
        callbacks.epoch_end(epoch, totals)
        totals = None


def begin_epoch(state: TrainState, epoch: int) -> None:
    """Let the method act before the first batch of an epoch."""
    step = Step(epoch, 0, state.batches)
    set_learning_rate(state, step)
    state.task.epoch_start()
    state.method.epoch_start(step)


def set_learning_rate(state: TrainState, step: Step) -> None:
    """Set the learning rate of a step: the recipe's, adjusted by the method."""
    rate = state.config.recipe.learning_rate(step, state.config.epochs)
    rate = checked_rate(state.method, step, rate)
    for group in state.optimizer.param_groups:
        group["lr"] = rate


def train_step(
    state: TrainState, step: Step, inputs: Tensor, targets: Tensor, draw: int
) -> Forward:
    """Train on one batch.

    Args:
        state: what is trained.
        step: the position of the batch.
        inputs: of the task, such as images, (N, C, H, W).
        targets: of the task, such as classes, (N,).
        draw: the seed of what draws in the forward pass, such as dropout.

    Raises:
        Diverged: the gradients overflow at any scale, in fp16.
    """

    def compute() -> tuple[Forward, Tensor]:
        seeds.seed_device(state.device, draw)
        forward = state.task.forward(state.network, inputs, targets)
        return forward, forward.loss

    set_learning_rate(state, step)
    try:
        with state.kernels():
            forward, _ = state.arithmetic.gradients(compute, state.optimizer, state.model.buffers())
    except FloatingPointError as error:
        raise Diverged(step.epoch, str(error)) from None
    if checked_step(state.method, step):
        clip_gradients(state.optimizer, state.config.recipe.clip_norm)
        state.optimizer.step()
    state.method.after_step(step)
    state.task.step_end(forward)
    return forward
