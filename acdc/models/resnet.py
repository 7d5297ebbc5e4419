"""Residual networks for small images (He et al. 2015, Section 4.2; with bottlenecks: 2016)."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def _shortcut(inputs: int, outputs: int, stride: int) -> nn.Module:
    if stride == 1 and inputs == outputs:
        return nn.Identity()
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))


class Block(nn.Module):
    """Two 3 x 3 convolutions and a shortcut, a 1 x 1 convolution where the shape changes."""

    expansion = 1
    convolutions = 2

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.shortcut = _shortcut(inputs, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(hidden)) + self.shortcut(x))


class Bottleneck(nn.Module):
    """A 3 x 3 convolution between 1 x 1 convolutions that narrow and widen, and a shortcut.

    As in torchvision's ResNet-50: four times ``width`` channels come out, the stride is that of the
    3 x 3 convolution, and the shortcut is a 1 x 1 convolution where the shape changes.
    """

    expansion = 4
    convolutions = 3

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        outputs = self.expansion * width
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.shortcut = _shortcut(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.relu(self.bn1(self.conv1(x)))
        hidden = torch.relu(self.bn2(self.conv2(hidden)))
        return torch.relu(self.bn3(self.conv3(hidden)) + self.shortcut(x))


class ResNet(nn.Module):
    """Stages of residual blocks of 1, 2 and 4 times ``width`` channels.

    Args:
        depth: two more than the convolutions of all stages, which have the same number of blocks:
            6 n + 2 for n blocks in each of three stages, 9 n + 2 with bottlenecks.
        channels: of the input images.
        classes: number of outputs.
        bottlenecks: whether the stages are made of bottlenecks.
        stages: how many there are; each but the first begins with a stride of 2.
        width: channels of the stem and of the first stage's 3 x 3 convolutions.
        stem_stride: stride of the first convolution; 2 makes the network four times cheaper.
        stem_kernel: its size, odd.
        stem_pool: whether the maximum over 3 x 3 follows, with a stride of 2, as in ResNet-50.
        norm_eps: added to the variance by batch normalisation.

    Raises:
        ValueError: no number of blocks gives the depth.
    """

    def __init__(
        self,
        depth: int,
        channels: int,
        classes: int,
        *,
        bottlenecks: bool = False,
        stages: int = 3,
        width: int = 16,
        stem_stride: int = 1,
        stem_kernel: int = 3,
        stem_pool: bool = False,
        norm_eps: float = 1e-5,
    ) -> None:
        super().__init__()
        block = Bottleneck if bottlenecks else Block
        together = stages * block.convolutions
        blocks, rest = divmod(depth - 2, together)
        if rest or blocks < 1:
            raise ValueError(f"depth {depth} is not {together} n + 2")
        padding = stem_kernel // 2
        self.conv1 = nn.Conv2d(channels, width, stem_kernel, stem_stride, padding, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.pool = nn.MaxPool2d(3, stride=2, padding=1) if stem_pool else nn.Identity()
        inputs = width
        self.stages = stages
        for stage in range(stages):
            layers = []
            for number in range(blocks):
                stride = 2 if stage > 0 and number == 0 else 1
                layers.append(block(inputs, width * 2**stage, stride))
                inputs = block.expansion * width * 2**stage
            self.add_module(f"layer{stage + 1}", nn.Sequential(*layers))
        self.fc = nn.Linear(inputs, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, nn.BatchNorm2d):
                module.eps = norm_eps

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(torch.relu(self.bn1(self.conv1(x))))
        for stage in range(self.stages):
            x = self.get_submodule(f"layer{stage + 1}")(x)
        logits: Tensor = self.fc(x.mean(dim=(2, 3)))
        return logits
