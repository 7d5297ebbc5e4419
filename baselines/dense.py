"""Dense training, the baseline of every table."""

from __future__ import annotations

from typing import TYPE_CHECKING

from acdc.errors import ConfigError
from acdc.methods.contract import Product, SparseMethod
from acdc.step import Step

if TYPE_CHECKING:
    from acdc.config.run import RunConfig


class Dense(SparseMethod):
    """Trains every weight; yields a dense model."""

    name = "dense"
    label = "Dense"
    source = "Ordinary SGD."
    products = ("dense",)

    @classmethod
    def check(cls, config: RunConfig) -> None:
        super().check(config)
        if config.sparsity != 0:
            raise ConfigError(
                f"sparsity: {config.sparsity} does not go with method dense; 0 is accepted"
            )

    @classmethod
    def state_bytes(cls, config: RunConfig) -> tuple[int, ...]:
        return ()

    def product(self, step: Step) -> Product | None:
        return "dense"
