"""Dropout: drawn fast on CPUs, and by several processes as one does that has the whole batch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from acdc.distributed import Ranks

_LEVELS = 2**16


class Dropout(nn.Dropout):
    """Dropout that on a CPU takes four draws from each number of torch's generator.

    ``p`` is rounded to a multiple of 2^-16, and outputs are scaled accordingly. torch draws a
    double for each element, on one thread, which takes ten times as long.
    """

    def forward(self, input: Tensor) -> Tensor:
        dropped = round(self.p * _LEVELS)
        if not self.training or not dropped:
            return input
        if dropped == _LEVELS or input.device.type != "cpu":
            return super().forward(input)
        numbers = torch.empty(-(-input.numel() // 4), dtype=torch.int64)
        draws = numbers.random_(-(2**63), None).view(torch.int16)[: input.numel()]
        kept = (draws >= dropped - _LEVELS // 2).to(input.dtype)
        kept.mul_(_LEVELS / (_LEVELS - dropped))
        if input.dim() == 4:  # in the order of channels_last
            images, channels, height, width = input.shape
            return input * kept.view(images, height, width, channels).permute(0, 3, 1, 2)
        return input * kept.view(input.shape)


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
