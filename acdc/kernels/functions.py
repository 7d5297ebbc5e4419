"""Sparse convolutions and linear layers that autograd differentiates."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from acdc.kernels import library
from acdc.kernels.pattern import Call, Pattern

_Layout = Callable[[Tensor], Tensor]


class _Convolution(torch.autograd.Function):
    """A convolution of a blocked input, (blocks, channels, height, width * lanes)."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        pattern: Pattern,
        support: Pattern,
        lanes: int,
    ) -> Tensor:
        x = x.contiguous()
        blocks, _, height, width = x.shape
        size = (blocks, height, width // lanes, lanes)
        geometry = pattern.geometry
        top, left = geometry.padding[0], geometry.padding[1] * lanes
        padded = library.pad(x, top, top, left, left) if top or left else x
        call = pattern.forward(*size)
        values = _flat(weight).index_select(0, call.index)
        y = x.new_empty(
            blocks, pattern.outputs, call.product.height, call.product.width * call.lanes
        )
        library.multiply(
            *(
                call.product,
                values,
                None if bias is None else bias.detach().contiguous(),
                padded,
                y,
            ),
            *(call.lanes, geometry.stride[1]),
        )
        ctx.save_for_backward(padded, weight)
        ctx.pattern, ctx.support, ctx.size = pattern, support, size
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        padded, weight = ctx.saved_tensors
        pattern, support, size = ctx.pattern, ctx.support, ctx.size
        blocks, height, width, lanes = size
        dy = dy.contiguous()
        dx = dw = db = None
        if ctx.needs_input_grad[0]:
            backward = pattern.backward(*size)
            top, bottom, left, right = backward.border
            errors = dy
            if any(backward.border):
                errors = library.pad(dy, top, bottom, left * lanes, right * lanes)
            dx = dy.new_empty(blocks, pattern.inputs, height, width * lanes)
            for call in backward.calls:
                library.multiply(
                    call.product,
                    _flat(weight).index_select(0, call.index),
                    None,
                    errors,
                    dx,
                    call.lanes,
                    1,
                    call.start,
                )
        if ctx.needs_input_grad[1]:
            stride = pattern.geometry.stride[1]
            dw = _gradient(support.forward(*size), weight, padded, dy, stride)
        if ctx.needs_input_grad[2]:
            db = dy.sum(dim=(0, 2, 3))
        return dx, dw, db, None, None, None


def convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    pattern: Pattern,
    lanes: int,
    support: Pattern | None = None,
) -> Tensor:
    """Return the convolution of a blocked input with a sparse weight, as a blocked tensor.

    Args:
        x: (blocks, channels, height, width * lanes).
        weight: zero outside the pattern.
        bias: (outputs,) or None.
        pattern: the weight's non-zeros.
        lanes: images of a block, 8 or 16.
        support: which weights get a gradient; None: those of the pattern.
    """
    result: Tensor = _Convolution.apply(x, weight, bias, pattern, support or pattern, lanes)  # type: ignore[no-untyped-call]
    return result


def linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    pattern: Pattern,
    support: Pattern | None = None,
) -> Tensor:
    """Return the product of inputs (..., inputs) with a sparse weight; see ``convolution``."""
    rows = x.reshape(-1, x.shape[-1])
    count = len(rows)
    packed = _relaid(rows, library.pack_rows, lambda dx: library.unpack_rows(dx, count))
    y = convolution(packed, weight, bias, pattern, library.LANES[0], support)
    y = _relaid(y, lambda y: library.unpack_rows(y, count), library.pack_rows)
    return y.view(*x.shape[:-1], pattern.outputs)


class _Normalize(torch.autograd.Function):
    """Batch normalisation of a blocked batch, plus another, then ReLU."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        other: Tensor | None,
        weight: Tensor,
        bias: Tensor,
        eps: float,
        relu: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        x = x.contiguous()
        added = None if other is None else other.contiguous()
        y, mean, variance = library.normalize(x, added, weight, bias, eps, relu)
        ctx.save_for_backward(x, y if relu else None, weight, mean, variance)
        ctx.eps, ctx.added = eps, other is not None
        ctx.mark_non_differentiable(mean, variance)
        return y, mean, variance

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        x, y, weight, mean, variance = ctx.saved_tensors
        gradients = library.normalize_backward(
            dy.contiguous(), x, y, weight, mean, variance, ctx.eps, ctx.added
        )
        return *gradients, None, None


def normalize(
    x: Tensor, other: Tensor | None, weight: Tensor, bias: Tensor, eps: float, relu: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Return what ``library.normalize`` does, differentiably."""
    found: tuple[Tensor, Tensor, Tensor] = _Normalize.apply(  # type: ignore[no-untyped-call]
        x, other, weight, bias, eps, relu
    )
    return found


class _Relaid(torch.autograd.Function):
    """Numbers in another layout, and their gradient in the old one."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, there: _Layout, back: _Layout) -> Tensor:
        ctx.back = back
        return there(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None, None]:
        return ctx.back(dy), None, None


def _relaid(x: Tensor, there: _Layout, back: _Layout) -> Tensor:
    result: Tensor = _Relaid.apply(x, there, back)  # type: ignore[no-untyped-call]
    return result


def block(x: Tensor, lanes: int) -> Tensor:
    """Return images (N, C, H, W) as a blocked tensor (N / lanes, C, H, W * lanes)."""
    return _relaid(x, lambda x: library.block(x, lanes), lambda dy: library.unblock(dy, lanes))


def unblock(y: Tensor, lanes: int) -> Tensor:
    """Return a blocked tensor as images, channels_last."""
    return _relaid(y, lambda y: library.unblock(y, lanes), lambda dx: library.block(dx, lanes))


def _flat(weight: Tensor) -> Tensor:
    """View a weight as its memory."""
    return weight.detach().as_strided((weight.numel(),), (1,))


def _gradient(call: Call, weight: Tensor, x: Tensor, dy: Tensor, stride: int) -> Tensor:
    found = x.new_empty(len(call.index))
    library.correlate(call.product, found, x, dy, call.lanes, stride)
    gradient = torch.zeros_like(weight)
    _flat(gradient).index_copy_(0, call.index, found)
    return gradient
