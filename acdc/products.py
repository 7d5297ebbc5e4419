"""The models that a run leaves in its directory, each file known by its digest."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import nn

from acdc.errors import RunDirectoryError
from acdc.files import write_atomically


def weights_name(product: str, which: str) -> str:
    """Return the file name of a product's weights, such as ``sparse_best.safetensors``."""
    return f"{product}_{which}.safetensors"


def optimizer_name(product: str) -> str:
    """Return the file name of the optimizer that goes with a product's best weights."""
    return f"{product}_best.optimizer.pt"


def save_weights(model: nn.Module, path: Path) -> None:
    """Write parameters and buffers atomically as safetensors."""
    state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    write_atomically(path, lambda file: file.write(save(state)))


def save_optimizer(optimizer: torch.optim.Optimizer, path: Path) -> None:
    """Write an optimizer's state atomically, as tensors and numbers without pickled code."""
    buffer = io.BytesIO()
    torch.save(optimizer.state_dict(), buffer)
    content = buffer.getvalue()
    write_atomically(path, lambda file: file.write(content))


def digests(folder: Path) -> dict[str, str]:
    """Return the sha256 of each file of weights, or of an optimizer, that a run has left."""
    found = sorted([*folder.glob("*.safetensors"), *folder.glob("*.optimizer.pt")])
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


def verified(folder: Path, name: str, result: Mapping[str, Any]) -> bytes:
    """Return a file that a finished run has left.

    Raises:
        RunDirectoryError: it is not there, or not as the run left it.
    """
    path = folder / name
    content = path.read_bytes() if path.exists() else b""
    if hashlib.sha256(content).hexdigest() != result["files"].get(name):
        raise RunDirectoryError(
            f"{path} is missing or damaged; remove {folder} to train that run again"
        )
    return content
