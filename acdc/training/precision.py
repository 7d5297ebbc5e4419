"""The arithmetic of the forward and backward pass: single, or mixed with 16-bit precision."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from acdc.config.recipe import Precision
from acdc.messages import config_error

T = TypeVar("T")

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
_FIRST_SCALE, _SMALLEST_SCALE = 2.0**16, 2.0**-24
_STEPS_TO_GROWTH = 2000


class Arithmetic:
    """Applies a precision on a device; weights, gradients and masks stay in single precision.

    In fp16 the loss is scaled by torch's rule, so that small gradients do not vanish: half the
    scale after an overflow, twice after 2,000 steps without one. Unlike torch's GradScaler, a batch
    whose gradients overflow is recomputed instead of skipped: a method sees every step of its
    schedule, and only finite gradients.
    """

    def __init__(self, precision: Precision, device: torch.device) -> None:
        if precision == "tf32" and device.type != "cuda":
            raise config_error(
                "precision", "tf32", f"not on device {device.type}", ("fp32", "bf16", "fp16")
            )
        self.device = device
        self.dtype = _DTYPES.get(precision)
        self.scale = _FIRST_SCALE if precision == "fp16" else None
        self.steps = 0
        """Steps since the scale changed."""
        if device.type == "cuda":
            # By default cuDNN rounds inputs to ten bits of mantissa.
            torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
            torch.backends.cudnn.allow_tf32 = precision == "tf32"

    def forward(self) -> contextlib.AbstractContextManager[Any]:
        """Return the context of a forward pass and its loss."""
        if self.dtype is None:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, self.dtype)

    def gradients(
        self,
        compute: Callable[[], tuple[T, Tensor]],
        optimizer: torch.optim.Optimizer,
        buffers: Iterable[Tensor] = (),
    ) -> tuple[T, Tensor]:
        """Leave the gradients of a batch in the parameters, and return its outputs and loss.

        Args:
            compute: the forward pass, which returns outputs and loss; may be called repeatedly.
            optimizer: of the parameters.
            buffers: changed by the forward pass; restored before a batch is recomputed.

        Raises:
            FloatingPointError: the gradients overflow at any scale.
        """
        buffers = list(buffers) if self.scale is not None else []
        before = [buffer.clone() for buffer in buffers]
        while True:
            optimizer.zero_grad(set_to_none=True)
            with self.forward():
                outputs, loss = compute()
            if self.scale is None:
                loss.backward()  # type: ignore[no-untyped-call]
                return outputs, loss
            (loss * self.scale).backward()  # type: ignore[no-untyped-call]
            if self._unscale(optimizer):
                return outputs, loss
            for buffer, value in zip(buffers, before, strict=True):
                buffer.copy_(value)

    def _unscale(self, optimizer: torch.optim.Optimizer) -> bool:
        assert self.scale is not None
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        gradients = [p.grad for p in parameters if p.grad is not None]
        torch._foreach_mul_(gradients, 1 / self.scale)
        largest = torch._foreach_norm(gradients, torch.inf)
        if bool(torch.stack(largest).isfinite().all()):
            self.steps += 1
            if self.steps == _STEPS_TO_GROWTH:
                self.scale, self.steps = 2 * self.scale, 0
            return True
        self.scale, self.steps = self.scale / 2, 0
        if self.scale < _SMALLEST_SCALE:
            raise FloatingPointError("the gradients overflow at any scale")
        return False

    def state_dict(self) -> dict[str, Any]:
        """Return the state that resuming needs."""
        return {"scale": self.scale, "steps": self.steps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a saved state."""
        self.scale, self.steps = state["scale"], state["steps"]


def zero_unseen_taps(model: nn.Module) -> None:
    """Set the gradients of kernel taps that see nothing but padding to zero, which they are.

    In 16 bits on a CPU, oneDNN leaves them as it found the memory (seen with torch 2.13). Only
    convolutions with numeric padding are handled; their inputs are taken to have one size.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and not isinstance(module.padding, str):
            _watch(module)


def _watch(module: nn.Conv2d) -> None:
    def first(module: nn.Conv2d, inputs: tuple[Tensor, ...]) -> None:
        handle.remove()
        assert not isinstance(module.padding, str)
        rows, columns = map(
            _seen,
            *(inputs[0].shape[2:], module.kernel_size, module.stride),
            *(module.padding, module.dilation),
        )
        unseen = ~(rows[:, None] & columns)
        if unseen.any():
            zeroed = partial(torch.masked_fill, mask=unseen, value=0)
            module.weight.register_hook(zeroed)  # type: ignore[no-untyped-call]

    handle = module.register_forward_pre_hook(first)


def _seen(size: int, kernel: int, stride: int, padding: int, dilation: int) -> Tensor:
    """Return which taps along an axis are within the image at any output position."""
    outputs = (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
    places = torch.arange(outputs)[:, None] * stride - padding + torch.arange(kernel) * dilation
    return ((places >= 0) & (places < size)).any(dim=0)
