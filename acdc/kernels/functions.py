"""Sparse convolutions and linear layers that autograd differentiates."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from acdc.kernels import library
from acdc.kernels.pattern import Call, Pattern


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


class _Linear(torch.autograd.Function):
    """A linear layer of rows, (T, inputs)."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        pattern: Pattern,
        support: Pattern,
    ) -> Tensor:
        packed = library.pack_rows(x.contiguous())
        size = (packed.shape[0], 1, packed.shape[3] // 16, 16)
        call = pattern.forward(*size)
        values = _flat(weight).index_select(0, call.index)
        y = packed.new_empty(packed.shape[0], pattern.outputs, 1, packed.shape[3])
        bias = None if bias is None else bias.detach().contiguous()
        library.multiply(call.product, values, bias, packed, y, 16, 1)
        ctx.save_for_backward(packed, weight)
        ctx.pattern, ctx.support, ctx.size, ctx.rows = pattern, support, size, len(x)
        return library.unpack_rows(y, len(x))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        packed, weight = ctx.saved_tensors
        pattern, support, size = ctx.pattern, ctx.support, ctx.size
        errors = library.pack_rows(dy.contiguous())
        dx = dw = db = None
        if ctx.needs_input_grad[0]:
            (call,) = pattern.backward(*size).calls
            x = torch.empty_like(packed)
            library.multiply(
                call.product, _flat(weight).index_select(0, call.index), None, errors, x, 16, 1
            )
            dx = library.unpack_rows(x, ctx.rows)
        if ctx.needs_input_grad[1]:
            dw = _gradient(support.forward(*size), weight, packed, errors, 1)
        if ctx.needs_input_grad[2]:
            db = dy.sum(dim=0)
        return dx, dw, db, None, None


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
    y: Tensor = _Linear.apply(rows, weight, bias, pattern, support or pattern)  # type: ignore[no-untyped-call]
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


class _Block(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, lanes: int) -> Tensor:
        ctx.lanes = lanes
        return library.block(x, lanes)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None]:
        return library.unblock(dy.contiguous(), ctx.lanes), None


class _Unblock(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, y: Tensor, lanes: int) -> Tensor:
        ctx.lanes = lanes
        return library.unblock(y.contiguous(), lanes)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dx: Tensor) -> tuple[Tensor, None]:
        return library.block(dx, ctx.lanes), None


def block(x: Tensor, lanes: int) -> Tensor:
    """Return images (N, C, H, W) as a blocked tensor (N / lanes, C, H, W * lanes)."""
    result: Tensor = _Block.apply(x, lanes)  # type: ignore[no-untyped-call]
    return result


def unblock(y: Tensor, lanes: int) -> Tensor:
    """Return a blocked tensor as images, channels_last."""
    result: Tensor = _Unblock.apply(y, lanes)  # type: ignore[no-untyped-call]
    return result


def _flat(weight: Tensor) -> Tensor:
    """View a weight as its memory."""
    return weight.detach().as_strided((weight.numel(),), (1,))


def _gradient(call: Call, weight: Tensor, x: Tensor, dy: Tensor, stride: int) -> Tensor:
    found = x.new_empty(len(call.index))
    library.correlate(call.product, found, x, dy, call.lanes, stride)
    gradient = torch.zeros_like(weight)
    _flat(gradient).index_copy_(0, call.index, found)
    return gradient
