"""Dropout over several processes: one draw for the whole batch, of which each takes its share."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from acdc.distributed import Ranks


class WholeBatch:
    """Lets the dropout layers of a network draw as one process does that has the whole batch.

    All processes draw from the same seed. Each layer sees a batch of the whole size, zero but for
    the images of this process, so that it draws what it would draw for all of them.

    Attributes:
        images: size of the whole batch of the next forward pass.
    """

    def __init__(self, model: nn.Module, ranks: Ranks, images: int) -> None:
        self.ranks = ranks
        self.images = images
        for module in model.modules() if ranks.count > 1 else ():
            if isinstance(module, nn.modules.dropout._DropoutNd):
                module.register_forward_pre_hook(self._widen)
                module.register_forward_hook(self._narrow)

    def _widen(self, module: nn.Module, inputs: tuple[Tensor]) -> Tensor | None:
        if not module.training:
            return None
        (own,) = inputs
        mine = self.ranks.slice(self.images)
        around = [mine.start, self.images - mine.stop]
        return nn.functional.pad(own, [0, 0] * (own.dim() - 1) + around)

    def _narrow(self, module: nn.Module, inputs: Any, output: Tensor) -> Tensor | None:
        return output[self.ranks.slice(self.images)] if module.training else None
