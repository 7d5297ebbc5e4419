"""Import torchvision, even if its wheel does not match the installed torch."""

from __future__ import annotations

import importlib
from types import ModuleType

import torch

_LIBRARY: torch.library.Library | None = None


def torchvision_models() -> ModuleType:
    """Return the module ``torchvision.models``; see ``torchvision_module``."""
    return torchvision_module("torchvision.models")


def torchvision_module(name: str) -> ModuleType:
    """Return a module of torchvision, such as ``torchvision.datasets``.

    With a CPU-only torch, a torchvision built for CUDA cannot register its operators, and its
    import fails when it describes those of detection to the compiler. Declaring the two operators
    lets the import succeed; nothing here calls them.

    Raises:
        ImportError: torchvision is not installed.
        RuntimeError: its import fails for another reason.
    """
    global _LIBRARY
    try:
        return importlib.import_module(name)
    except RuntimeError as error:
        mismatch = "operator torchvision::nms does not exist" in str(error)
        if not mismatch or torch.version.cuda is not None:
            raise
    # Kept alive: the declarations are removed with the object.
    _LIBRARY = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
    arguments = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
    for operator in ("nms", "qnms"):
        _LIBRARY.define(operator + arguments)  # type: ignore[no-untyped-call]
    return importlib.import_module(name)
