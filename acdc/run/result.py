"""The result of a run: how it ended, what it cost, and its evaluated models. Imports no torch."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AllowInfNan,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    TypeAdapter,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_validator,
)

from acdc.data import DATASETS
from acdc.errors import RunDirectoryError
from acdc.files import write_json
from acdc.frozen import fingerprint, tuples
from acdc.messages import shown

RESULT = "result.json"
SCHEMA: Literal[2] = 2


def _nan_for_null(value: Any) -> Any:
    return math.nan if value is None else value


def _none_if_unreadable(value: Any, validate: ValidatorFunctionWrapHandler) -> Any:
    try:
        return validate(tuples(value))
    except ValidationError:
        return None


Number = Annotated[float, AllowInfNan(), BeforeValidator(_nan_for_null)]
"""A float; JSON has no NaN and no infinity, which are written as null and read as NaN."""
Count = Annotated[int, Field(ge=0)]
Positive = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]


class Record(BaseModel):
    """What a run has written, of this version or an older one: types and ranges are validated."""

    model_config = ConfigDict(
        frozen=True, populate_by_name=True, strict=True, allow_inf_nan=False, extra="ignore"
    )


class CertifiedLayer(Record):
    """The counts of one prunable layer."""

    name: str
    weights: Count
    kept: Count
    """Weights that the mask keeps."""
    nonzeros: Count
    """Weights that were not zero at the evaluation."""
    flops: Count
    """Of one sample, at these non-zero weights."""


class Certificate(Record):
    """The sparsity certificate of an evaluated model; see ``acdc.sparsity.certificate``."""

    holds: bool
    failures: tuple[str, ...]
    requested: Annotated[float, Field(ge=0, lt=1)]
    tolerance: Fraction
    pruned: Fraction
    """Sparsity over the layers that are not exempt."""
    achieved: Fraction
    """Sparsity over all prunable weights."""
    dead_filters: Count
    exempt: tuple[str, ...]
    layers: tuple[CertifiedLayer, ...]


class Evaluation(Record):
    """The metrics of one saved model; accuracies are fractions, FLOPs those of one sample.

    Tasks without classes have no accuracy.
    """

    epoch: Count
    val_accuracy: Fraction | None = None
    val_loss: Positive
    test_accuracy: Fraction | None = None
    test_loss: Positive
    inference_flops: Positive
    certificate: Annotated[Certificate | None, WrapValidator(_none_if_unreadable)] = None
    """None if the file holds none that can be read."""


class Evaluations(Record):
    """The evaluations of a product: after its last epoch and at its best validation score."""

    last: Evaluation
    best: Evaluation


class TrainingFlops(Record):
    """FLOPs: ``dense_inference`` of one sample, the others of the whole run."""

    dense_inference: Count
    dense_training: Count
    training: Positive
    training_published: Positive
    """By the accounting of the method's own publication."""
    published_formula: str


class MaskChange(Record):
    """How much a pruning changed the masks of the pruning before it."""

    epoch: Count
    relative: Number
    of_kept: Number
    jaccard: Number


class Timings(Record):
    """Seconds that the run took in all its attempts."""

    wall_s: Positive
    train_s: Positive
    checkpoint_s: Positive
    attempts: Count
    test_s: Positive = 0.0


class _Ended(Record):
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
    prunable_weights: Count
    timings: Timings
    journal_lines: Count | None = None
    """Lines of the journal, resumptions left out; None where it was not recorded."""


class FinishedResult(_Trained):
    """The result of a run that trained to its end."""

    status: Literal["finished"] = "finished"
    products: dict[str, Evaluations]
    files: dict[str, Annotated[str, Field(pattern="^[0-9a-f]{64}$")]]
    """The sha256 of each file of weights and of optimizer state."""

    @model_validator(mode="after")
    def _has_its_metric(self) -> Self:
        spec = DATASETS.get(str(self.config.get("dataset")))
        for key in spec.metric.keys("val", "test") if spec else ():
            for product in self.products.values():
                if None in (getattr(product.last, key), getattr(product.best, key)):
                    raise ValueError(f"{key} is missing")
        return self


class DivergedResult(_Trained):
    """The result of a run whose loss became infinite or NaN."""

    status: Literal["diverged"] = "diverged"
    products: dict[str, Evaluations] = {}
    diverged_at: Count
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
        RunDirectoryError: it is damaged, of another schema, or of another run or configuration.
    """
    path = folder / RESULT
    try:
        content = path.read_bytes()
        schema = json.loads(content)["schema"]
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise RunDirectoryError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, TypeError, KeyError, RecursionError):
        raise RunDirectoryError(f"{path}: damaged. Delete it to train the run again") from None
    if schema != SCHEMA:
        raise RunDirectoryError(
            f"{path}: schema={shown(schema)}: written by another version. Allowed: {SCHEMA}; "
            f"delete {path.parent} to train the run again"
        )
    try:
        result = _RESULT.validate_json(content)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise RunDirectoryError(
            f"{path}: damaged ({key}: {first['msg']}). Delete it to train the run again"
        ) from None

    for key, value, expected in (
        ("run", result.run, folder.name),
        ("fingerprint", result.fingerprint, folder.name.rpartition("-")[2]),
        ("config", fingerprint(result.config), result.fingerprint),
    ):
        if value != expected:
            raise RunDirectoryError(
                f"{path}: {key}={shown(value)}: the result of another run, not of {expected}. "
                "Delete it to train the run again"
            )
    return result


def finished(folder: Path) -> FinishedResult:
    """Return the result of a run that has finished.

    Raises:
        RunDirectoryError: it has not, or its result is damaged.
    """
    result = read_result(folder)
    if not isinstance(result, FinishedResult):
        raise RunDirectoryError(f"{folder}: no run that has finished")
    return result


def write_result(folder: Path, result: Result) -> None:
    """Write a result atomically; a run with this file has ended."""
    write_json(folder / RESULT, result.model_dump(by_alias=True))
