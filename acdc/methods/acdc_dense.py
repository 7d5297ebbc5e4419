"""AC/DC's dense model, fine-tuned: dense training in place of the final sparse phase.

Peste, Iofinova, Vladu and Alistarh, NeurIPS 2021, Section 4 and Appendix C.1; the ``_ftdense``
configurations of the released code.
"""

from __future__ import annotations

from acdc.messages import config_error
from acdc.methods.acdc import ACDC, Settings, released_flops
from acdc.methods.contract import Product, SparseMethod, Start
from acdc.methods.plan import Plan
from acdc.sparsity.flops import LayerCost
from acdc.step import Step


class ACDCDense(SparseMethod[Settings]):
    """Continues from the best dense model of an AC/DC run, with its optimizer and learning rates.

    The AC/DC run of the same settings is trained first unless it exists. The training FLOPs are
    those of both runs, the sparse model included (paper, Section 4: 58 % + 15 %).
    """

    name = "acdc_dense"
    label = "AC/DC dense, fine-tuned"
    source = ACDC.source
    products = ("dense",)
    flops_formula = ACDC.flops_formula

    @classmethod
    def check(cls, plan: Plan[Settings]) -> None:
        ACDC.check(plan)
        if all(phase.kind == "sparse" for phase in plan.settings.resolve(plan.epochs)):
            raise config_error(
                "settings.phases", None, "no dense model to fine-tune", "at least one dense phase"
            )

    @classmethod
    def starts_from(cls, plan: Plan[Settings]) -> Start | None:
        return Start({"method": "acdc"}, product="dense", which="best", epoch=None)

    def published_flops(self, costs: tuple[LayerCost, ...]) -> float:
        return released_flops(costs, self.densities())

    def product(self, step: Step) -> Product | None:
        return "dense"
