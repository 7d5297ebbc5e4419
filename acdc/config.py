"""RunConfig: the frozen, validated description of one run, its fingerprint and its name."""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Iterable
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializeAsAny,
    ValidationError,
    field_validator,
    model_validator,
)

from acdc.data import DATASETS
from acdc.errors import ConfigError
from acdc.layers import Layers
from acdc.method import MethodSettings, SparseMethod, Start, get_method, method_names
from acdc.models import MODELS, layers_of


class Frozen(BaseModel):
    """A validated value: unknown keys are refused, and nothing changes after construction."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False
    )


_LONGEST_VARIANT = 60

Augmentation = Literal["none", "shift", "shift_flip", "crop_flip"]
Precision = Literal["fp32", "tf32", "bf16", "fp16"]


class Recipe(Frozen):
    """How the dense network would be trained; the same for every method of a comparison."""

    batch_size: int = Field(default=128, ge=2)
    """Images per step; the last, smaller batch of an epoch is left out."""
    lr: float = Field(default=0.1, gt=0)
    """Base learning rate of SGD."""
    momentum: float = Field(default=0.9, ge=0, lt=1)
    """Momentum of SGD."""
    nesterov: bool = False
    """Nesterov's momentum."""
    weight_decay: float = Field(default=5e-4, ge=0)
    """L2 penalty on all parameters, biases and normalisation included, as in the released code."""
    lr_schedule: Literal["cosine", "step", "constant"] = "cosine"
    """How the learning rate changes from epoch to epoch."""
    warmup: float = Field(default=0.05, ge=0, lt=1)
    """Fraction of the epochs over which the learning rate rises linearly (cosine schedule)."""
    milestones: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = ()
    """Fractions of the epochs at which the learning rate is multiplied by gamma (step schedule)."""
    gamma: float = Field(default=0.1, gt=0, le=1)
    """Factor at each milestone."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    """Label smoothing of the cross entropy."""
    augmentation: Augmentation = "none"
    """Random shifts by up to an eighth of the image, alone or with horizontal flips; or, of images
    in files, random crops of 8 to 100 % of the area with horizontal flips."""

    @model_validator(mode="after")
    def _nothing_without_effect(self) -> Self:
        if self.lr_schedule == "step" and not self.milestones:
            raise ConfigError(
                "recipe.milestones: none are given for the step schedule; fractions of the epochs "
                "are accepted"
            )
        if self.lr_schedule != "step" and self.milestones:
            raise ConfigError(
                f"recipe.milestones: they mean nothing to the {self.lr_schedule} schedule; they "
                "are accepted with recipe.lr_schedule step"
            )
        return self

    @model_validator(mode="after")
    def _nesterov_has_momentum(self) -> Self:
        if self.nesterov and self.momentum == 0:
            raise ConfigError(
                "recipe.nesterov: true goes only with a recipe.momentum above 0; false is accepted"
            )
        return self


class RunConfig(Frozen):
    """One training run: everything that its result depends on, and nothing else."""

    model: str
    """Network architecture."""
    dataset: str
    """Data set."""
    method: str
    """Training method."""
    settings: SerializeAsAny[MethodSettings] = MethodSettings()
    """Settings of the method."""
    sparsity: float = Field(default=0.0, ge=0, lt=1)
    """Fraction of the prunable weights that are zero in the end."""
    recipe: Recipe = Recipe()
    """Optimizer, learning rate, augmentation."""
    epochs: int = Field(ge=1)
    """Passes over the training images."""
    seed: int = Field(default=1, ge=0)
    """Seed of initial weights, data order, augmentation and mask randomness."""
    precision: Precision = "fp32"
    """Arithmetic of the forward and backward pass; weights and masks are in single precision."""

    @field_validator("model")
    @classmethod
    def _known_model(cls, value: str) -> str:
        if value not in MODELS:
            raise ValueError(f"is unknown; {accepted(value, MODELS)}")
        return value

    @field_validator("dataset")
    @classmethod
    def _known_dataset(cls, value: str) -> str:
        if value not in DATASETS:
            raise ValueError(f"is unknown; {accepted(value, DATASETS)}")
        return value

    @model_validator(mode="before")
    @classmethod
    def _typed_settings(cls, data: Any) -> Any:
        """Validate the settings with the class that the method declares."""
        if not isinstance(data, dict) or not isinstance(data.get("method"), str):
            return data
        settings = {} if data.get("settings") is None else data["settings"]
        if isinstance(settings, MethodSettings):
            settings = settings.model_dump()
        if data["method"] not in method_names():
            hint = accepted(data["method"], method_names())
            raise ConfigError(f"method: {data['method']!r} is unknown; {hint}")
        schema = get_method(data["method"]).Settings
        try:
            return {**data, "settings": schema.model_validate(settings)}
        except ValidationError as error:
            raise ConfigError(explain(error, schema, prefix="settings.")) from None

    @model_validator(mode="after")
    def _can_be_carried_out(self) -> Self:
        images = DATASETS[self.dataset].training_images
        if self.recipe.batch_size > images:
            raise ConfigError(
                f"recipe.batch_size: {self.recipe.batch_size} is more than the {images} training "
                f"images of {self.dataset}; 1 to {images} is accepted"
            )
        self._check_augmentation()
        if not self.layers:
            raise ConfigError(
                f"model: {self.model} has no convolution and no linear layer to prune; a model "
                "with one is accepted"
            )
        self.method_class.check(self)
        return self

    def _check_augmentation(self) -> None:
        augmentation = self.recipe.augmentation
        possible = DATASETS[self.dataset].augmentations
        if augmentation in possible:
            return
        if augmentation == "crop_flip":
            why = f"is for images in files, those of {self.dataset} are held in memory"
        elif "crop_flip" in possible:
            why = f"is for images held in memory, those of {self.dataset} are in files"
        else:
            why = (
                f"would make other images of {self.dataset}, a mirrored one is no longer of its "
                "class"
            )
        raise ConfigError(
            f"recipe.augmentation: {augmentation} {why}; {' and '.join(possible)} are accepted"
        )

    @property
    def layers(self) -> Layers:
        """The prunable layers of the model, known without building its weights."""
        return layers_of(self.model, self.dataset)

    @property
    def method_class(self) -> type[SparseMethod]:
        """The class that carries out the method."""
        return get_method(self.method)

    @property
    def starts_from(self) -> Start | None:
        """The run that this one starts from, if it does not start from initial weights."""
        return self.method_class.starts_from(self)

    @property
    def fingerprint(self) -> str:
        """Twelve hexadecimal digits that identify the resolved configuration."""
        return hashlib.sha256(self.canonical_json().encode()).hexdigest()[:12]

    @property
    def slug(self) -> str:
        """A name for people, such as ``resnet20_cifar10_acdc_s90_seed1``."""
        # The fingerprint tells runs apart; file systems allow names of 255 characters.
        variant = self.settings.variant()[:_LONGEST_VARIANT].rstrip("-._")
        method = f"{self.method}-{variant}" if variant else self.method
        return f"{self.model}_{self.dataset}_{method}_s{100 * self.sparsity:g}_seed{self.seed}"

    @property
    def run_name(self) -> str:
        """The name of the run's directory: slug and fingerprint."""
        return f"{self.slug}-{self.fingerprint}"

    def with_seed(self, seed: int) -> RunConfig:
        """Return the run with another seed, which needs no validation of the rest."""
        return self.model_copy(update={"seed": seed})

    def plain(self) -> dict[str, Any]:
        """Return the resolved configuration as plain data."""
        return self.model_dump(mode="json")

    def canonical_json(self) -> str:
        """Return the resolved configuration as JSON, the same text for the same configuration."""
        return json.dumps(self.plain(), sort_keys=True, separators=(",", ":"))


def parse_run(data: Any) -> RunConfig:
    """Return a validated run from plain data.

    Raises:
        ConfigError: one sentence that names each wrong key, its value and what is accepted.
    """
    try:
        return RunConfig.model_validate(data)
    except ValidationError as error:
        raise ConfigError(explain(error, RunConfig)) from None


def accepted(value: str, names: Iterable[str]) -> str:
    """Return the end of a sentence: the names there are, first the one that was perhaps meant."""
    names = sorted(names)
    close = difflib.get_close_matches(value, names, n=1)
    hint = f"did you mean {close[0]}? " if close else ""
    return f"{hint}{', '.join(names) or 'no keys'} are accepted"


_MESSAGES = {
    "finite_number": "a finite number is accepted",
    "greater_than": "more than {gt} is accepted",
    "greater_than_equal": "{ge} or more is accepted",
    "less_than": "less than {lt} is accepted",
    "less_than_equal": "{le} or less is accepted",
    "literal_error": "{expected} are accepted",
}


def explain(error: ValidationError, schema: type[BaseModel], prefix: str = "") -> str:
    """Return a validation error as plain sentences, one a wrong key, joined by semicolons."""
    return "; ".join(_explain_one(dict(item), schema, prefix) for item in error.errors())


def _explain_one(item: dict[str, Any], schema: type[BaseModel], prefix: str) -> str:
    location = [str(part) for part in item["loc"]]
    key = (prefix + ".".join(location)).removesuffix(".") or "the description"
    kind = item["type"]
    if kind == "extra_forbidden":
        return f"{key}: unknown key; {accepted(location[-1], _keys_at(schema, location[:-1]))}"
    if kind == "missing":
        return f"{key}: missing; a value is needed"
    value = repr(item["input"])
    bounds = _bounds_at(schema, location)
    if kind in _MESSAGES and bounds:
        return f"{key}: {value} is out of range; {bounds} is accepted"
    context = item.get("ctx", {})
    if kind in _MESSAGES:
        return f"{key}: got {value}; {_MESSAGES[kind].format(**context)}"
    if kind == "value_error":
        return f"{key}: {value} {context['error']}" if location else str(context["error"])
    if kind in ("model_type", "model_attributes_type", "dict_type"):
        return f"{key}: got {value}; a mapping of keys to values is accepted"
    return f"{key}: got {value}; {item['msg'][:1].lower()}{item['msg'][1:]}"


def _schema_at(schema: type[BaseModel], location: list[str]) -> type[BaseModel] | None:
    current: type[BaseModel] | None = schema
    for part in location:
        field = current.model_fields.get(part) if current else None
        annotation = field.annotation if field else None
        current = next(
            (
                option
                for option in (annotation, *get_args(annotation))
                if isinstance(option, type) and issubclass(option, BaseModel)
            ),
            None,
        )
    return current


def _keys_at(schema: type[BaseModel], location: list[str]) -> list[str]:
    owner = _schema_at(schema, location)
    return list(owner.model_fields) if owner else []


def _bounds_at(schema: type[BaseModel], location: list[str]) -> str:
    """Return the accepted interval of a number, such as ``[0, 1)``, or nothing."""
    owner = _schema_at(schema, location[:-1])
    field = owner.model_fields.get(location[-1]) if owner and location else None
    if field is None:
        return ""
    low, high = "(-inf", "inf)"
    for constraint in field.metadata:
        for name, text in (("ge", "[{}"), ("gt", "({}")):
            if getattr(constraint, name, None) is not None:
                low = text.format(getattr(constraint, name))
        for name, text in (("le", "{}]"), ("lt", "{})")):
            if getattr(constraint, name, None) is not None:
                high = text.format(getattr(constraint, name))
    return "" if (low, high) == ("(-inf", "inf)") else f"{low}, {high}"
