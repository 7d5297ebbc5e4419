"""MobileNetV1 (Howard et al. 2017): 4,231,976 parameters, 568,740,352 multiply-adds at 224."""

from __future__ import annotations

from torch import Tensor, nn

# Outputs and stride of each depthwise-separable block (Table 1 of the paper).
_BLOCKS = (
    (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2),
    (512, 1), (512, 1), (512, 1), (512, 1), (512, 1), (1024, 2), (1024, 1),
)  # fmt: skip


def _convolution(inputs: int, outputs: int, kernel: int, stride: int, groups: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


class MobileNetV1(nn.Module):
    """A first convolution, depthwise-separable blocks and a linear classifier.

    Args:
        channels: of the input images.
        classes: number of outputs.
        multiplier: factor on the channels of every layer, the width multiplier of the paper.
        blocks: how many of the thirteen there are, counted from the first.
        stem_stride: stride of the first convolution.
        norm_eps: added to the variance by batch normalisation.
    """

    def __init__(
        self,
        channels: int,
        classes: int,
        *,
        multiplier: float = 1.0,
        blocks: int = len(_BLOCKS),
        stem_stride: int = 2,
        norm_eps: float = 1e-5,
    ) -> None:
        super().__init__()
        inputs = round(32 * multiplier)
        self.stem = _convolution(channels, inputs, 3, stem_stride, groups=1)
        self.blocks = blocks
        for number, (width, stride) in enumerate(_BLOCKS[:blocks]):
            outputs = round(width * multiplier)
            depthwise = _convolution(inputs, inputs, 3, stride, groups=inputs)
            pointwise = _convolution(inputs, outputs, 1, 1, groups=1)
            self.add_module(f"block{number}", nn.Sequential(depthwise, pointwise))
            inputs = outputs
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(inputs, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, nn.BatchNorm2d):
                module.eps = norm_eps

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for number in range(self.blocks):
            x = self.get_submodule(f"block{number}")(x)
        logits: Tensor = self.fc(self.pool(x).flatten(1))
        return logits
