"""Step: a position in training. Epochs and iterations count from 0, intervals are half-open."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, order=True)
class Step:
    """A position in training: the batch about to be, or just being, processed."""

    epoch: int
    batch: int
    batches_per_epoch: int

    @property
    def iteration(self) -> int:
        """Batches consumed before this one since the start of training."""
        return self.epoch * self.batches_per_epoch + self.batch
