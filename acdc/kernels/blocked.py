"""Activations in the layout of the sparse products, which behave like the images that they are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from acdc.kernels.functions import block, normalize, unblock

_RELU = {torch.relu, torch.relu_, functional.relu, Tensor.relu, Tensor.relu_}
_SUM = {torch.add, Tensor.add, Tensor.__add__, Tensor.__radd__}
_ELEMENTWISE = _RELU | _SUM | {Tensor.add_, Tensor.__iadd__, torch.mul}


@dataclass(frozen=True)
class _Normalized:
    """A batch that is yet to be normalised, so that a sum and ReLU are one pass with it."""

    x: Tensor
    weight: Tensor
    bias: Tensor
    eps: float
    track: Callable[[Tensor, Tensor], None]
    """Is given mean and variance; what it does is done once."""
    other: Tensor | None = None

    def output(self, relu: bool) -> Tensor:
        y, mean, variance = normalize(self.x, self.other, self.weight, self.bias, self.eps, relu)
        self.track(mean, variance)
        return y


class Blocked:
    """Images (N, C, H, W) that are kept as (N / lanes, C, H, W * lanes).

    ReLU, sums, products by element and batch normalisation keep the layout. Everything else gets
    the images themselves, so that a network need not know.

    Args:
        data: (blocks, channels, height, width * lanes).
        lanes: images of a block.
    """

    def __init__(self, data: Tensor | _Normalized, lanes: int) -> None:
        self._data = data
        self.lanes = lanes
        self._images: tuple[int, Tensor] | None = None

    @property
    def data(self) -> Tensor:
        """The blocked tensor."""
        if isinstance(self._data, _Normalized):
            self._data = self._data.output(relu=False)
        return self._data

    @property
    def _like(self) -> Tensor:
        return self._data.x if isinstance(self._data, _Normalized) else self._data

    def images(self) -> Tensor:
        """Return them as an ordinary tensor, channels_last."""
        version = self.data._version
        if self._images is None or self._images[0] != version:
            self._images = version, unblock(self.data, self.lanes)
        return self._images[1]

    @property
    def shape(self) -> torch.Size:
        """The shape as images."""
        blocks, channels, height, width = self._like.shape
        return torch.Size((blocks * self.lanes, channels, height, width // self.lanes))

    def dim(self) -> int:
        """Return 4."""
        return 4

    def numel(self) -> int:
        """Return the number of elements."""
        return self._like.numel()

    @property
    def dtype(self) -> torch.dtype:
        """The type of the elements."""
        return self._like.dtype

    @property
    def device(self) -> torch.device:
        """The CPU."""
        return self._like.device

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

    def __mul__(self, other: Any) -> Any:
        return torch.mul(self, other)  # type: ignore[arg-type]

    __rmul__ = __mul__

    @classmethod
    def __torch_function__(
        cls,
        function: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if function is functional.batch_norm and isinstance(args[0], Blocked):
            return _batch_norm(*args, **kwargs)
        if function in _ELEMENTWISE:
            tensors = [a for a in args if isinstance(a, Blocked | Tensor)]
            first = next((a for a in tensors if isinstance(a, Blocked)), None)
            if first is not None and all(_joins(a, first) for a in tensors):
                return _elementwise(function, first, args, kwargs)
        return function(
            *(_plain(a) for a in args), **{name: _plain(value) for name, value in kwargs.items()}
        )


def _elementwise(
    function: Callable[..., Any], first: Blocked, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> Blocked:
    pending = first._data
    if isinstance(pending, _Normalized):
        if function in _RELU:
            result = Blocked(pending.output(relu=True), first.lanes)
            if function in (torch.relu_, Tensor.relu_) or kwargs.get("inplace"):
                first._data = result.data
            return result
        others = [a for a in args if a is not first and isinstance(a, Blocked | Tensor)]
        if function in _SUM and not kwargs and pending.other is None and len(others) == 1:
            other = _data(others[0], first.lanes)
            return Blocked(replace(pending, other=other), first.lanes)
    data = [_data(a, first.lanes) for a in args]
    return Blocked(function(*data, **kwargs), first.lanes)


def _batch_norm(
    x: Blocked,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Blocked:
    """Return batch normalisation, put off until it is known what follows."""
    if not training or weight is None or bias is None or weight.dtype != x.dtype:
        given = (running_mean, running_var, weight, bias, training, momentum, eps)
        return Blocked(functional.batch_norm(x.data, *given), x.lanes)
    count = x.numel() // x.shape[1]
    tracked = False

    def track(mean: Tensor, variance: Tensor) -> None:
        nonlocal tracked
        if running_mean is not None and running_var is not None and not tracked:
            with torch.no_grad():
                running_mean.lerp_(mean, momentum)
                running_var.lerp_(variance * (count / (count - 1)), momentum)
        tracked = True

    return Blocked(_Normalized(x.data, weight, bias, eps, track), x.lanes)


def _plain(value: Any) -> Any:
    if isinstance(value, list | tuple):  # such as those of torch.cat
        return type(value)(map(_plain, value))
    return value.images() if isinstance(value, Blocked) else value


def _of_images(name: str) -> Callable[..., Any]:
    def operate(self: Blocked, *operands: Any) -> Any:
        return getattr(self.images(), name)(*map(_plain, operands))

    return operate


# Python looks operators up in the class, past __getattr__.
for _name in (
    *("getitem", "len", "iter", "neg", "abs", "sub", "rsub", "truediv"),
    *("rtruediv", "pow", "matmul", "gt", "ge", "lt", "le"),
):
    setattr(Blocked, f"__{_name}__", _of_images(f"__{_name}__"))


def _joins(value: Blocked | Tensor, first: Blocked) -> bool:
    """Return whether operands have one shape and type, so that torch broadcasts none."""
    same = value.shape == first.shape and value.dtype == first.dtype
    return same and (not isinstance(value, Blocked) or value.lanes == first.lanes)


def _data(value: Any, lanes: int) -> Any:
    if isinstance(value, Blocked):
        return value.data
    return block(value, lanes) if isinstance(value, Tensor) else value
