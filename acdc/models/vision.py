"""torchvision's architectures, imported also where its wheel does not match the torch beside it."""

from __future__ import annotations

import importlib
from types import ModuleType

import torch

_LIBRARY: torch.library.Library | None = None


def torchvision_models() -> ModuleType:
    """Return the module ``torchvision.models``.

    With a CPU-only torch, a torchvision built for CUDA cannot register its operators, and its
    import fails as it describes those of detection to the compiler. Declaring the two that it asks
    for lets the import go through; nothing here calls them.

    Raises:
        ImportError: torchvision is not installed.
        RuntimeError: its import fails for another reason.
    """
    global _LIBRARY
    try:
        return importlib.import_module("torchvision.models")
    except RuntimeError as error:
        mismatch = "operator torchvision::nms does not exist" in str(error)
        if not mismatch or torch.version.cuda is not None:
            raise
    # Kept for good: the declarations go with the object.
    _LIBRARY = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
    arguments = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
    for name in ("nms", "qnms"):
        _LIBRARY.define(name + arguments)  # type: ignore[no-untyped-call]
    return importlib.import_module("torchvision.models")
