"""The compiled products (``products.cpp``), in the variant that fits this processor.

The package is built once for each instruction set; without a compiler, only speed is missing.
Tensors are on the CPU, in single or double precision, and contiguous. A blocked tensor is (blocks,
channels, height, width * lanes), where a lane is one image of a block.
"""

from __future__ import annotations

import ctypes
import functools
import sysconfig
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

LANES = (16, 8)
"""How many images a block can have."""
TOKENS = 128
"""Rows of a linear layer's input that a block has at most."""
STRIDES = (1, 2)
"""Steps along a row that there are products for."""

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4  # malloc.h
_VARIANTS: dict[str, tuple[str, ...]] = {
    "AVX512": ("avx512", "avx2", "portable"),
    "AVX2": ("avx2", "portable"),
    "DEFAULT": ("portable",),
}
"""The variants for what torch says of the processor, the best first."""
_NAMES = {torch.float32: "float", torch.float64: "double"}


class Product(ctypes.Structure):
    """Where the non-zeros of a sparse matrix and the planes that it is multiplied with lie.

    All steps are in numbers, not bytes. The rows and offsets have to outlive it.
    """

    _fields_ = (
        ("starts", ctypes.c_void_p),
        ("offsets", ctypes.c_void_p),
        *(
            (name, ctypes.c_int64)
            for name in (
                *("groups", "rows", "tile_columns", "tile_log_rows", "blocks", "height", "width"),
                *("x_block", "x_height", "x_width", "y_block", "y_row", "y_height", "y_width"),
            )
        ),
    )


class _Layout(ctypes.Structure):
    _fields_ = tuple(
        (name, ctypes.c_int64)
        for name in (
            *("outer", "inner", "columns", "x_outer", "x_inner", "x_row"),
            *("y_outer", "y_inner", "y_column", "rows"),
        )
    )


class _Batch(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_int64) for name in ("blocks", "channels", "plane"))


@functools.cache
def library() -> ctypes.CDLL | None:
    """Return the compiled products, or None where they were not built."""
    capability = torch.backends.cpu.get_cpu_capability()
    for variant in _VARIANTS.get(capability, _VARIANTS["DEFAULT"]):
        suffix = sysconfig.get_config_var("EXT_SUFFIX")
        path = Path(__file__).with_name(f"_{variant}{suffix}")
        if path.exists():
            return ctypes.CDLL(str(path))
    return None


@functools.cache
def tile() -> int:
    """Return how many numbers of a tile fit into the registers."""
    found = library()
    return 0 if found is None else int(found.acdc_tile())


@functools.cache
def keep_memory() -> None:
    """Let this process keep the memory of freed tensors (glibc).

    By default tensors of more than a few megabytes are mapped afresh each time, and their pages are
    zeroed one by one as they are written (docs/performance.md).
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_MAX, 0)
        mallopt(_TRIM_THRESHOLD, 2**31 - 1)
        mallopt(_TOP_PAD, 2**26)


def supports(dtype: torch.dtype) -> bool:
    """Return whether there are products in a precision."""
    return dtype in _NAMES


def _call(name: str, dtype: torch.dtype, *arguments: Any) -> None:
    if _function(name, dtype)(*arguments, torch.get_num_threads()):
        raise ValueError(f"acdc_{name}: no kernel for these lanes and this stride")


@functools.cache
def _function(name: str, dtype: torch.dtype) -> Any:
    found = library()
    assert found is not None
    function = getattr(found, f"acdc_{name}_{_NAMES[dtype]}")
    pointer, number = ctypes.c_void_p, ctypes.c_int
    kinds = {
        "forward": (pointer,) * 5 + (number,) * 3,
        "weights": (pointer,) * 4 + (number,) * 3,
        "pack": (pointer,) * 3 + (number,) * 2,
        "unpack": (pointer,) * 3 + (number,) * 2,
        "pad": (pointer,) * 2 + (ctypes.c_int64,) * 7 + (number,),
        "normalize": (pointer, ctypes.c_double) + (pointer,) * 7 + (number,) * 2,
        "normalize_backward": (pointer, ctypes.c_double) + (pointer,) * 10 + (number,) * 2,
    }
    function.argtypes = kinds[name]
    return function


def multiply(
    product: Product,
    values: Tensor,
    bias: Tensor | None,
    x: Tensor,
    y: Tensor,
    lanes: int,
    stride: int,
    start: int = 0,
) -> None:
    """Write the products of a sparse matrix with every tile of x into y.

    Args:
        product: where everything lies.
        values: of the non-zeros.
        bias: of each row, or None.
        x: the input.
        y: the output.
        lanes: 8 or 16.
        stride: positions of the input from one output position to the next, 1 or 2.
        start: the first number of y that is written.
    """
    _call(
        "forward",
        *(
            x.dtype,
            ctypes.byref(product),
            values.data_ptr(),
            _pointer(bias),
        ),
        *(x.data_ptr(), y.data_ptr() + start * y.element_size(), lanes, stride),
    )


def correlate(
    product: Product, gradients: Tensor, x: Tensor, y: Tensor, lanes: int, stride: int
) -> None:
    """Write the gradient of each non-zero: the sum of x times y over all output positions."""
    _call(
        "weights",
        *(x.dtype, ctypes.byref(product), gradients.data_ptr()),
        *(x.data_ptr(), y.data_ptr(), lanes, stride),
    )


def pad(x: Tensor, top: int, bottom: int, left: int, right: int) -> Tensor:
    """Return a blocked tensor with zeros around its planes; left and right in numbers."""
    blocks, channels, height, width = x.shape
    y = x.new_empty(blocks, channels, top + height + bottom, left + width + right)
    _call(
        "pad",
        *(x.dtype, x.data_ptr(), y.data_ptr(), blocks * channels, height, width),
        *(top, bottom, left, right),
    )
    return y


def normalize(
    x: Tensor, other: Tensor | None, weight: Tensor, bias: Tensor, eps: float, relu: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Return a blocked batch, normalised, and each channel's mean and (biased) variance.

    Args:
        x: the batch.
        other: what is added afterwards, or None.
        weight: of each channel.
        bias: of each channel.
        eps: added to the variance.
        relu: whether ReLU follows.
    """
    y = torch.empty_like(x)
    mean, variance = torch.empty_like(weight), torch.empty_like(weight)
    _call(
        "normalize",
        *(x.dtype, ctypes.byref(_batch(x)), eps, x.data_ptr(), _pointer(other), y.data_ptr()),
        *(weight.data_ptr(), bias.data_ptr(), mean.data_ptr(), variance.data_ptr(), relu),
    )
    return y, mean, variance


def normalize_backward(
    dy: Tensor,
    x: Tensor,
    y: Tensor | None,
    weight: Tensor,
    mean: Tensor,
    variance: Tensor,
    eps: float,
    added: bool,
) -> tuple[Tensor, Tensor | None, Tensor, Tensor]:
    """Return the gradients of x, of what was added (or None), of weight and of bias.

    Args:
        dy: gradient of the output.
        x: the batch.
        y: the output where ReLU followed, else None.
        weight: of each channel.
        mean: of each channel.
        variance: of each channel.
        eps: added to the variance.
        added: whether something was added.
    """
    dx = torch.empty_like(x)
    other = torch.empty_like(x) if added else None
    dweight, dbias = torch.empty_like(weight), torch.empty_like(weight)
    _call(
        "normalize_backward",
        *(x.dtype, ctypes.byref(_batch(x)), eps, dy.data_ptr(), x.data_ptr(), _pointer(y)),
        *(dx.data_ptr(), _pointer(other), weight.data_ptr(), mean.data_ptr(), variance.data_ptr()),
        *(dweight.data_ptr(), dbias.data_ptr(), y is not None),
    )
    return dx, other, dweight, dbias


def _batch(x: Tensor) -> _Batch:
    blocks, channels, height, width = x.shape
    return _Batch(blocks, channels, height * width)


def _pointer(x: Tensor | None) -> int | None:
    return None if x is None else x.data_ptr()


def block(x: Tensor, lanes: int) -> Tensor:
    """Return images (N, C, H, W), contiguous or channels_last, as a blocked tensor."""
    images, channels, height, width = x.shape
    y = x.new_empty(images // lanes, channels, height, width * lanes)
    layout, x = _images(x, lanes)
    _call("pack", x.dtype, ctypes.byref(layout), x.data_ptr(), y.data_ptr(), lanes)
    return y


def unblock(y: Tensor, lanes: int) -> Tensor:
    """Return a blocked tensor as images in the channels_last format."""
    y = y.contiguous()
    blocks, channels, height, width = y.shape
    x = torch.empty(
        (blocks * lanes, channels, height, width // lanes),
        dtype=y.dtype,
        memory_format=torch.channels_last,
    )
    layout, _ = _images(x, lanes)
    _call("unpack", y.dtype, ctypes.byref(layout), x.data_ptr(), y.data_ptr(), lanes)
    return x


def _images(x: Tensor, lanes: int) -> tuple[_Layout, Tensor]:
    images, channels, height, width = x.shape
    positions = height * width
    size = channels * positions
    outer = (images // lanes, lanes * size, size * lanes)
    if x.is_contiguous(memory_format=torch.channels_last):
        # Each position is a matrix of images x channels.
        inner = (positions, channels, lanes)
        columns = (channels, positions * lanes)
    else:
        x = x.contiguous()
        # Each channel is a matrix of images x positions.
        inner = (channels, positions, positions * lanes)
        columns = (positions, lanes)
    return _Layout(
        *(outer[0], inner[0], columns[0], outer[1], inner[1], size),
        *(outer[2], inner[2], columns[1], outer[0] * inner[0] * lanes),
    ), x


def pack_rows(x: Tensor) -> Tensor:
    """Return the rows (T, C) of a linear layer's input as (blocks, C, 1, tokens), filled up."""
    x = x.contiguous()
    rows, channels = x.shape
    tokens = min(TOKENS, -(-rows // 16) * 16)
    y = x.new_empty(-(-rows // tokens), channels, 1, tokens)
    _call(
        "pack",
        *(x.dtype, ctypes.byref(_rows(rows, channels, tokens)), x.data_ptr(), y.data_ptr(), 16),
    )
    return y


def unpack_rows(y: Tensor, rows: int) -> Tensor:
    """Return the first rows (T, C) of what ``pack_rows`` returned."""
    y = y.contiguous()
    _, channels, _, tokens = y.shape
    x = y.new_empty(rows, channels)
    _call(
        "unpack",
        *(x.dtype, ctypes.byref(_rows(rows, channels, tokens)), x.data_ptr(), y.data_ptr(), 16),
    )
    return x


def _rows(rows: int, channels: int, tokens: int) -> _Layout:
    return _Layout(
        *(-(-rows // tokens), tokens // 16, channels, tokens * channels, 16 * channels, channels),
        *(tokens * channels, 16, tokens, rows),
    )
