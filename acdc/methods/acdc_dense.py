"""AC/DC's dense model, fine-tuned: training goes on dense where the final sparse phase would begin.

Peste, Iofinova, Vladu and Alistarh, NeurIPS 2021, Section 4 and Appendix C.1; the ``_ftdense``
configurations of the released code.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import TYPE_CHECKING

from acdc.errors import ConfigError
from acdc.methods.acdc import ACDC, Settings, released_flops
from acdc.methods.contract import Densities, Product, SparseMethod, Start
from acdc.sparsity.flops import LayerCost
from acdc.step import Step

if TYPE_CHECKING:
    from acdc.config.run import RunConfig
    from workflow.forecast import Outlook


class ACDCDense(SparseMethod):
    """Goes on from the best dense model of an AC/DC run, with its optimizer and learning rates.

    The AC/DC run of the same settings is trained first where it is not there yet. The training
    FLOPs are those of the whole process, its sparse model included (paper, Section 4: 58 % + 15 %).
    """

    name = "acdc_dense"
    label = "AC/DC dense, fine-tuned"
    source = ACDC.source
    products = ("dense",)
    Settings = Settings
    flops_formula = ACDC.flops_formula

    @classmethod
    def check(cls, config: RunConfig) -> None:
        ACDC.check(config)
        settings = config.settings
        assert isinstance(settings, Settings)
        if all(phase.kind == "sparse" for phase in settings.resolve(config.epochs)):
            raise ConfigError(
                "settings.phases: none is dense, so that there is no dense model to fine-tune; at "
                "least one dense phase is accepted"
            )

    @classmethod
    def starts_from(cls, config: RunConfig) -> Start | None:
        sparse = type(config).model_validate(config.model_dump() | {"method": "acdc"})
        return Start(sparse, product="dense", which="best", epoch=None)

    @classmethod
    def forecast(cls, outlook: Outlook) -> Iterable[Densities]:
        return itertools.repeat(Densities({}, {}), outlook.config.epochs)

    @classmethod
    def state_bytes(cls, config: RunConfig) -> tuple[int, ...]:
        return ()

    def published_flops(self, costs: tuple[LayerCost, ...]) -> float:
        return released_flops(costs, self.densities())

    def product(self, step: Step) -> Product | None:
        return "dense"
