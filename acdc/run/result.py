"""The result of a run: how it ended, what it cost, and its evaluated models. Imports no torch."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    TypeAdapter,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)

from acdc.errors import RunDirectoryError
from acdc.files import write_json

RESULT = "result.json"
SCHEMA: Literal[2] = 2


def _nan_for_null(value: Any) -> Any:
    return math.nan if value is None else value


def _none_if_unreadable(value: Any, validate: ValidatorFunctionWrapHandler) -> Any:
    try:
        return validate(value)
    except ValidationError:
        return None


Number = Annotated[float, BeforeValidator(_nan_for_null)]
"""A float; JSON has no NaN and no infinity, which are written as null and read as NaN."""


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, populate_by_name=True)


class CertifiedLayer(_Record):
    """The counts of one prunable layer."""

    name: str
    weights: int
    kept: int
    """Weights that the mask keeps."""
    nonzeros: int
    """Weights that were not zero at the evaluation."""
    flops: int
    """Of one image, at these non-zero weights."""


class Certificate(_Record):
    """The sparsity certificate of an evaluated model; see ``acdc.sparsity.certificate``."""

    holds: bool
    failures: tuple[str, ...]
    requested: float
    tolerance: float
    pruned: float
    """Sparsity over the layers that are not exempt."""
    achieved: float
    """Sparsity over all prunable weights."""
    dead_filters: int
    exempt: tuple[str, ...]
    layers: tuple[CertifiedLayer, ...]


class Evaluation(_Record):
    """The metrics of one saved model; accuracies are fractions, FLOPs those of one image."""

    epoch: int
    val_accuracy: float
    val_loss: Number
    test_accuracy: float
    test_loss: Number
    inference_flops: float
    certificate: Annotated[Certificate | None, WrapValidator(_none_if_unreadable)] = None
    """None if the file holds none that can be read."""


class Evaluations(_Record):
    """The evaluations of a product: after its last epoch and at its best validation accuracy."""

    last: Evaluation
    best: Evaluation


class TrainingFlops(_Record):
    """FLOPs: ``dense_inference`` of one image, the others of the whole run."""

    dense_inference: int
    dense_training: int
    training: float
    training_published: float
    """By the accounting of the method's own publication."""
    published_formula: str


class MaskChange(_Record):
    """How much a pruning changed the masks of the pruning before it."""

    epoch: int
    relative: Number
    of_kept: Number
    jaccard: Number


class Timings(_Record):
    """Seconds that the run took in all its attempts."""

    wall_s: float
    train_s: float
    checkpoint_s: float
    attempts: int
    test_s: float = 0.0


class _Ended(_Record):
    """What every result holds."""

    version: Literal[2] = Field(default=SCHEMA, alias="schema")
    status: str
    run: str
    fingerprint: str
    config: dict[str, Any]
    """The resolved configuration as plain data."""
    label: str
    """The method's name in tables."""
    variant: str
    primary: str
    """The product that the method is about."""


class _Trained(_Ended):
    flops: TrainingFlops
    mask_changes: tuple[MaskChange, ...]
    prunable_weights: int
    timings: Timings


class FinishedResult(_Trained):
    """The result of a run that trained to its end."""

    status: Literal["finished"] = "finished"
    products: dict[str, Evaluations]
    files: dict[str, str]
    """The sha256 of each file of weights and of optimizer state."""


class DivergedResult(_Trained):
    """The result of a run whose loss became infinite or NaN."""

    status: Literal["diverged"] = "diverged"
    products: dict[str, Evaluations] = {}
    diverged_at: int
    """The epoch."""
    diverged: str


class FailedResult(_Ended):
    """The result of a run of a study that ended with an error that would recur."""

    status: Literal["failed"] = "failed"
    products: dict[str, Evaluations] = {}
    error: str
    exit_status: int


Result = Annotated[FinishedResult | DivergedResult | FailedResult, Discriminator("status")]

_RESULT: TypeAdapter[FinishedResult | DivergedResult | FailedResult] = TypeAdapter(Result)


def read_result(folder: Path) -> Result | None:
    """Return the result of the run in a folder, None if the run has not ended.

    Raises:
        RunDirectoryError: it is damaged, of another schema, or of another run.
    """
    path = folder / RESULT
    try:
        data = json.loads(path.read_bytes())
        schema = data["schema"]
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, TypeError, KeyError):
        raise RunDirectoryError(f"{path}: damaged. Delete it to train the run again") from None
    if schema != SCHEMA:
        raise RunDirectoryError(
            f"{path}: schema={schema}: written by another version. Allowed: {SCHEMA}; delete "
            f"{path.parent} to train the run again"
        )
    try:
        result = _RESULT.validate_python(data)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise RunDirectoryError(
            f"{path}: damaged ({key}: {first['msg']}). Delete it to train the run again"
        ) from None

    if result.run != folder.name:
        raise RunDirectoryError(
            f"{path}: run={result.run}: the result of another run. Delete it to train the run again"
        )
    return result


def write_result(folder: Path, result: Result) -> None:
    """Write a result atomically; a run with this file has ended."""
    write_json(folder / RESULT, result.model_dump(by_alias=True))
