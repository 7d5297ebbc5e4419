"""Dense training, the baseline of every table."""

from __future__ import annotations

from acdc.messages import config_error
from acdc.methods.contract import Product, SparseMethod
from acdc.methods.plan import Plan
from acdc.methods.settings import MethodSettings
from acdc.step import Step

DENSE = {"method": "dense", "settings": {}, "sparsity": 0.0}
"""How the configuration of a run's dense counterpart differs from its own."""


class Dense(SparseMethod):
    """Trains every weight; yields a dense model."""

    name = "dense"
    label = "Dense"
    source = "Ordinary SGD."
    products = ("dense",)

    @classmethod
    def check(cls, plan: Plan[MethodSettings]) -> None:
        super().check(plan)
        if plan.sparsity != 0:
            raise config_error("sparsity", plan.sparsity, "method dense prunes nothing", "0")

    def product(self, step: Step) -> Product | None:
        return "dense"
