"""Results as runs leave them, without training."""

from pathlib import Path
from typing import Any

from acdc.frozen import fingerprint
from acdc.run.result import (
    DivergedResult,
    FailedResult,
    FinishedResult,
    Timings,
    TrainingFlops,
    write_result,
)

NOTHING = fingerprint({})
"""The fingerprint of an empty configuration, with which the names of made-up runs end."""


def end(
    folder: Path,
    kind: type[FinishedResult | DivergedResult | FailedResult],
    config: dict[str, Any] | None = None,
    wall_s: float = 1.0,
    **more: Any,
) -> None:
    """Write the result of a run.

    Args:
        folder: of the run, which is made.
        kind: how it ended.
        config: the run's configuration.
        wall_s: the seconds that it took.
        more: further fields of the result.
    """
    ended: dict[str, Any] = {"run": folder.name, "config": config or {}}
    ended["fingerprint"] = fingerprint(ended["config"])
    ended |= {"label": "", "variant": "", "primary": "sparse", "products": {}}
    if kind is not FailedResult:
        flops = {"dense_inference": 1, "dense_training": 1, "training": 1, "training_published": 1}
        ended["flops"] = TrainingFlops(**flops, published_formula="")
        ended["timings"] = Timings(wall_s=wall_s, train_s=wall_s, checkpoint_s=0, attempts=1)
        ended |= {"mask_changes": (), "prunable_weights": 1}
    if kind is FinishedResult:
        ended["files"] = {}
    folder.mkdir(parents=True, exist_ok=True)
    write_result(folder, kind(**ended | more))
