"""Wide residual networks (Zagoruyko and Komodakis 2016), in the variant of AC/DC's experiments.

That variant has biases in its convolutions and its stride in the second convolution of a block
(IST-DASLab/ACDC, models/wide_resnet_cifar.py), which costs more than the usual stride in the first.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from acdc.models.dropout import Dropout


class Block(nn.Module):
    """Normalisation, ReLU, convolution, twice, with dropout between, and a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int, dropout: float) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.dropout = Dropout(dropout)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, stride, padding=1)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Conv2d(inputs, outputs, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.dropout(self.conv1(torch.relu(self.bn1(x))))
        hidden = self.conv2(torch.relu(self.bn2(hidden)))
        output: Tensor = hidden + self.shortcut(x)
        return output


class WideResNet(nn.Module):
    """Three stages of pre-activation blocks of 1, 2 and 4 times ``width * widening`` channels.

    Args:
        depth: 6 n + 4 for n blocks a stage.
        widening: factor on the channels.
        channels: of the input images.
        classes: number of outputs.
        dropout: between the convolutions of a block.
        width: channels of the first convolution.
        stem_stride: stride of the first convolution.
        stem_kernel: its size, odd.
        stem_pool: whether the maximum over 3 x 3 follows, with a stride of 2.

    Raises:
        ValueError: the depth is not 6 n + 4.
    """

    def __init__(
        self,
        depth: int,
        widening: int,
        channels: int,
        classes: int,
        *,
        dropout: float = 0.3,
        width: int = 16,
        stem_stride: int = 1,
        stem_kernel: int = 3,
        stem_pool: bool = False,
    ) -> None:
        super().__init__()
        blocks, rest = divmod(depth - 4, 6)
        if rest or blocks < 1:
            raise ValueError(f"depth {depth} is not 6 n + 4")
        padding = stem_kernel // 2
        self.conv1 = nn.Conv2d(channels, width, stem_kernel, stem_stride, padding)
        self.pool = nn.MaxPool2d(3, stride=2, padding=1) if stem_pool else nn.Identity()
        inputs = width
        for stage in range(3):
            outputs = width * widening * 2**stage
            layers = []
            for block in range(blocks):
                stride = 2 if stage > 0 and block == 0 else 1
                layers.append(Block(inputs, outputs, stride, dropout))
                inputs = outputs
            self.add_module(f"layer{stage + 1}", nn.Sequential(*layers))
        self.bn = nn.BatchNorm2d(inputs, momentum=0.9)  # sic: only this one differs
        self.fc = nn.Linear(inputs, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.conv1(x))
        for stage in range(3):
            x = self.get_submodule(f"layer{stage + 1}")(x)
        logits: Tensor = self.fc(torch.relu(self.bn(x)).mean(dim=(2, 3)))
        return logits
