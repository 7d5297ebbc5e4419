"""Activations in the layout of the sparse products, which behave like the images that they are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from acdc.kernels import library
from acdc.kernels.functions import block, unblock

_ELEMENTWISE = {
    *(torch.relu, torch.relu_, functional.relu, Tensor.relu, Tensor.relu_),
    *(torch.add, Tensor.add, Tensor.add_, Tensor.__add__, Tensor.__iadd__, Tensor.__radd__),
}
_BY_CHANNEL = {functional.batch_norm}
"""Functions of images whose statistics do not depend on the order of images and positions."""


class Blocked:
    """Images (N, C, H, W) that are kept as (N / lanes, C, H, W * lanes).

    ReLU, sums, batch normalisation and dropout keep the layout. Everything else gets the images
    themselves, so that a network need not know.

    Args:
        data: (blocks, channels, height, width * lanes).
        lanes: images of a block.
    """

    def __init__(self, data: Tensor, lanes: int) -> None:
        self.data = data
        self.lanes = lanes
        self._images: tuple[int, Tensor] | None = None

    def images(self) -> Tensor:
        """Return them as an ordinary tensor, channels_last."""
        version = self.data._version
        if self._images is None or self._images[0] != version:
            self._images = version, unblock(self.data, self.lanes)
        return self._images[1]

    @property
    def shape(self) -> torch.Size:
        """The shape as images."""
        blocks, channels, height, width = self.data.shape
        return torch.Size((blocks * self.lanes, channels, height, width // self.lanes))

    def dim(self) -> int:
        """Return 4."""
        return 4

    def numel(self) -> int:
        """Return the number of elements."""
        return self.data.numel()

    @property
    def dtype(self) -> torch.dtype:
        """The type of the elements."""
        return self.data.dtype

    @property
    def device(self) -> torch.device:
        """The CPU."""
        return self.data.device

    def is_contiguous(
        self, *, memory_format: torch.memory_format = torch.contiguous_format
    ) -> bool:
        """Return whether the memory is in a format: in neither."""
        return False

    def __getattr__(self, name: str) -> Any:
        return getattr(self.images(), name)

    def __add__(self, other: Any) -> Any:
        return torch.add(self, other)  # type: ignore[call-overload]

    __radd__ = __iadd__ = __add__

    def __getitem__(self, index: Any) -> Tensor:
        return self.images()[index]

    def __mul__(self, other: Any) -> Any:
        return self.images() * _plain(other)

    __rmul__ = __mul__

    def __sub__(self, other: Any) -> Any:
        return self.images() - _plain(other)

    @classmethod
    def __torch_function__(
        cls,
        function: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if function is functional.dropout:
            return _dropout(*args, **kwargs)
        if function in _ELEMENTWISE or function in _BY_CHANNEL:
            operands = args if function in _ELEMENTWISE else args[:1]
            tensors = [a for a in operands if isinstance(a, Blocked | Tensor)]
            first = next((a for a in tensors if isinstance(a, Blocked)), None)
            if first is not None and all(_joins(a, first) for a in tensors):
                data = [_data(a, first.lanes) for a in operands]
                return Blocked(function(*data, *args[len(data) :], **kwargs), first.lanes)
        return function(
            *(_plain(a) for a in args), **{name: _plain(value) for name, value in kwargs.items()}
        )


def _dropout(x: Blocked, p: float = 0.5, training: bool = True, inplace: bool = False) -> Any:
    """Return dropout that draws what it draws for channels_last images, in their order."""
    if not training or p == 0:
        return x
    noise = torch.empty(x.shape, dtype=x.dtype, memory_format=torch.channels_last)
    noise.bernoulli_(1 - p)
    if p < 1:
        noise.div_(1 - p)
    return Blocked(x.data * library.block(noise, x.lanes), x.lanes)


def _plain(value: Any) -> Any:
    return value.images() if isinstance(value, Blocked) else value


def _joins(value: Blocked | Tensor, first: Blocked) -> bool:
    """Return whether operands have one shape and type, so that torch broadcasts none."""
    same = value.shape == first.shape and value.dtype == first.dtype
    return same and (not isinstance(value, Blocked) or value.lanes == first.lanes)


def _data(value: Any, lanes: int) -> Any:
    if isinstance(value, Blocked):
        return value.data
    return block(value, lanes) if isinstance(value, Tensor) else value
