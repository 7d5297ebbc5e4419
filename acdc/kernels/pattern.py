"""Which weights of a layer are not zero, as the tables that the products read."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from acdc.kernels.library import Product, tile


@dataclass(frozen=True)
class Geometry:
    """How a convolution moves over its input; each pair is height, width."""

    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1

    def output(self, size: tuple[int, int], kernel: tuple[int, int]) -> tuple[int, int]:
        """Return height and width of the output for those of the input."""
        height, width = (
            (n + 2 * p - d * (k - 1) - 1) // s + 1
            for n, p, d, k, s in zip(
                size, self.padding, self.dilation, kernel, self.stride, strict=True
            )
        )
        return height, width


@dataclass(frozen=True)
class Call:
    """One product, and what has to live as long as it."""

    product: Product
    tables: tuple[Tensor, ...]
    index: Tensor
    """Where each non-zero lies in the weight's memory."""
    start: int
    """The first number of the output."""
    lanes: int
    """Of a vector; 16 where two neighbouring positions of 8 images make one."""


@dataclass(frozen=True)
class Backward:
    """The products that give the gradient of a convolution's input from that of its output."""

    border: tuple[int, int, int, int]
    """Zeros around the output's gradient: top, bottom, left, right, in positions."""
    calls: list[Call]


class Pattern:
    """The non-zeros of a convolution or of a linear layer (a kernel of 1 x 1).

    Args:
        mask: of the weight, (outputs, inputs / groups, height, width) or (outputs, inputs).
        geometry: of the convolution.
        strides: of the weight, whose memory has no gaps; None: those of the mask.

    Attributes:
        index: where each non-zero lies in the weight's memory, row by row.
    """

    def __init__(
        self, mask: Tensor, geometry: Geometry, strides: tuple[int, ...] | None = None
    ) -> None:
        self.geometry = geometry
        self.outputs = mask.shape[0]
        self.inputs = mask.shape[1] * geometry.groups
        steps = torch.tensor(strides or mask.stride())
        positions = mask.nonzero().T
        self.index = (positions * steps[:, None]).sum(0)
        row, channel, *tap = positions
        self.row = row
        self.channel = channel + row // (self.outputs // geometry.groups) * mask.shape[1]
        zero = torch.zeros_like(row)
        height, width = tap or (zero, zero)
        self.kernel = (mask.shape[2], mask.shape[3]) if tap else (1, 1)
        self.tap = (height * geometry.dilation[0], width * geometry.dilation[1])
        self._forward: dict[tuple[int, ...], Call] = {}
        self._backward: dict[tuple[int, ...], Backward] = {}

    def forward(self, blocks: int, height: int, width: int, lanes: int) -> Call:
        """Return the product with a padded input of these sizes.

        Its output is (blocks, outputs, height, width * lanes). The gradient of the weights reads
        the same tables.
        """
        key = blocks, height, width, lanes
        if key not in self._forward:
            geometry = self.geometry
            padded = (height + 2 * geometry.padding[0], width + 2 * geometry.padding[1])
            plane, line = padded[0] * padded[1] * lanes, padded[1] * lanes
            self._forward[key] = self._call(
                (self.inputs, self.outputs),
                (self.row, self.channel, self.index),
                (plane, line, lanes),
                self.tap,
                (blocks, *geometry.output((height, width), self.kernel)),
                geometry.stride,
            )
        return self._forward[key]

    def backward(self, blocks: int, height: int, width: int, lanes: int) -> Backward:
        """Return the products for the gradient of an input of these sizes.

        With a stride, output positions of one parity share their taps: each is a product.
        """
        key = blocks, height, width, lanes
        if key not in self._backward:
            self._backward[key] = self._transposed(blocks, (height, width), lanes)
        return self._backward[key]

    def _transposed(self, blocks: int, size: tuple[int, int], lanes: int) -> Backward:
        geometry = self.geometry
        out = geometry.output(size, self.kernel)
        # Of each axis and each first position: the source position relative to the target's.
        shifts = [
            [(first + pad - tap) for first in range(stride)]
            for pad, tap, stride in zip(geometry.padding, self.tap, geometry.stride, strict=True)
        ]
        border = []
        for axis in range(2):
            stride = geometry.stride[axis]
            low, high = 0, out[axis] - 1
            for first in range(min(stride, size[axis])):
                for tap in range(self.kernel[axis]):
                    shift = first + geometry.padding[axis] - tap * geometry.dilation[axis]
                    if shift % stride == 0:
                        last = (size[axis] - 1 - first) // stride
                        low, high = min(low, shift // stride), max(high, last + shift // stride)
            border += [-low, high - out[axis] + 1]
        line = (out[1] + border[2] + border[3]) * lanes
        plane = (out[0] + border[0] + border[1]) * line
        order = self.channel.argsort(stable=True)
        calls = []
        for top in range(min(geometry.stride[0], size[0])):
            for left in range(min(geometry.stride[1], size[1])):
                down, right = shifts[0][top][order], shifts[1][left][order]
                chosen = (down % geometry.stride[0] == 0) & (right % geometry.stride[1] == 0)
                kept = order[chosen]
                down = down[chosen] // geometry.stride[0] + border[0]
                right = right[chosen] // geometry.stride[1] + border[2]
                count = (
                    (size[0] - 1 - top) // geometry.stride[0] + 1,
                    (size[1] - 1 - left) // geometry.stride[1] + 1,
                )
                calls.append(
                    self._call(
                        (self.outputs, self.inputs),
                        (self.channel[kept], self.row[kept], self.index[kept]),
                        (plane, line, lanes),
                        (down, right),
                        (blocks, *count),
                        (1, 1),
                        (size, (top, left), geometry.stride),
                    )
                )
        return Backward((border[0], border[1], border[2], border[3]), calls)

    @staticmethod
    def _call(
        channels: tuple[int, int],
        nonzeros: tuple[Tensor, Tensor, Tensor],
        steps: tuple[int, int, int],
        taps: tuple[Tensor, Tensor],
        shape: tuple[int, int, int],
        stride: tuple[int, int],
        target: tuple[tuple[int, int], tuple[int, int], tuple[int, int]] | None = None,
    ) -> Call:
        """Return a product.

        Args:
            channels: how many go in and come out.
            nonzeros: row, channel that goes in, and place in memory of each, by rising rows.
            steps: of the input between channels, rows and positions.
            taps: which position of the input each non-zero reads: down and right.
            shape: blocks, height and width of what comes out.
            stride: over the input.
            target: the plane that the output is a part of: its size, the first position, and the
                stride; None: the output is all of it.
        """
        inputs, rows = channels
        blocks, height, width = shape
        plane, line, lanes = steps
        size, first, apart = target or ((height, width), (0, 0), (1, 1))
        row, channel, index = nonzeros
        pair = lanes == 8 and stride[1] == apart[1] == 1 and width % 2 == 0
        vector = 16 if pair else lanes
        width = width * lanes // vector
        columns, log_rows = _tile(height, width, vector)
        window = 1
        for axis, tiles in enumerate((1 << log_rows, columns)):
            reach = int(taps[axis].max() - taps[axis].min()) if len(index) else 0
            window *= (tiles - 1) * stride[axis] + 1 + reach
        group = channel // max(1, CACHE // (window * vector * 4))
        groups = int(group.max()) + 1 if len(index) else 1
        order = (group * rows + row).argsort(stable=True)
        offsets = (channel * plane + taps[0] * line + taps[1] * lanes)[order]
        if len(offsets) and int(offsets.max()) >= 2**31:
            raise OverflowError("a block of images has more than 2^31 numbers")
        offsets = offsets.to(torch.int32)
        counts = torch.bincount(group * rows + row, minlength=groups * rows)
        starts = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        across = size[0] * size[1] * lanes
        made = Product(
            *(starts.data_ptr(), offsets.data_ptr(), groups, rows, columns, log_rows),
            *(blocks, height, width),
            *(inputs * plane, stride[0] * line, stride[1] * vector),
            *(rows * across, across, apart[0] * size[1] * lanes, apart[1] * vector),
        )
        start = (first[0] * size[1] + first[1]) * lanes
        return Call(made, (starts, offsets), index[order], start, vector)


CACHE = 64 * 1024
"""Bytes of the input that a tile reads at a time, so that they stay close to the core.

Larger than the first cache, since each group of channels also reads and writes the output.
"""


def _tile(height: int, width: int, lanes: int) -> tuple[int, int]:
    """Return columns and binary logarithm of the rows of the tiles of a plane.

    Equal ones, as large as the registers allow; several rows of a narrow plane together.
    """
    most = min(16, tile() // lanes)
    pieces = -(-width // most)
    columns = -(-width // pieces)
    log_rows = 0
    while log_rows < 2 and columns << log_rows + 1 <= most and 1 << log_rows + 1 <= height:
        log_rows += 1
    return columns, log_rows
