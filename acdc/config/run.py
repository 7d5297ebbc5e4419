"""RunConfig: the frozen, validated description of one run, its fingerprint and its name."""

from __future__ import annotations

from typing import Any, Self

from pydantic import (
    Field,
    SerializeAsAny,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from acdc.config.recipe import Precision, Recipe
from acdc.data import DATASETS
from acdc.errors import ConfigError
from acdc.frozen import Frozen, fingerprint
from acdc.messages import config_error, explain
from acdc.methods.contract import SparseMethod, Start
from acdc.methods.plan import Plan
from acdc.methods.registry import get_method
from acdc.methods.settings import MethodSettings
from acdc.models import MODELS, layers_of
from acdc.sparsity.layers import Layers

_LONGEST_VARIANT = 60


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
    epochs: int = Field(ge=1, le=1_000_000)
    """Passes over the training images."""
    seed: int = Field(default=1, ge=0, lt=2**63)
    """Seed of initial weights, data order, augmentation and mask randomness."""
    precision: Precision = "fp32"
    """Arithmetic of the forward and backward pass; weights and masks are in single precision."""

    @field_validator("model", "dataset")
    @classmethod
    def _is_known(cls, value: str, info: ValidationInfo) -> str:
        key = str(info.field_name)
        names = list(MODELS if key == "model" else DATASETS)
        if value not in names:
            raise config_error(key, value, f"unknown {key}", names)
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
        schema = get_method(data["method"]).Settings
        try:
            return {**data, "settings": schema.model_validate(settings)}
        except ValidationError as error:
            raise ConfigError(explain(error, schema, prefix="settings.")) from None

    @model_validator(mode="after")
    def _can_be_carried_out(self) -> Self:
        dataset = DATASETS[self.dataset]
        if MODELS[self.model].kind != dataset.kind:
            problem = f"does not suit the {dataset.kind} of {self.dataset}"
            suiting = [name for name, model in MODELS.items() if model.kind == dataset.kind]
            raise config_error("model", self.model, problem, suiting)
        augmentation = self.recipe.augmentation
        if augmentation not in dataset.augmentations:
            problem = f"does not suit the {dataset.kind} of {self.dataset}"
            raise config_error("recipe.augmentation", augmentation, problem, dataset.augmentations)
        for key in dataset.unused:
            value, default = getattr(self.recipe, key), Recipe.model_fields[key].default
            if value != default:
                problem, allowed = f"no effect on {dataset.kind}", f"{default}, the default"
                raise config_error(f"recipe.{key}", value, problem, allowed)
        if not self.layers:
            problem = "has no layer to prune"
            allowed = "a model with convolutions or linear layers"
            raise config_error("model", self.model, problem, allowed)
        self.method_class.check(self.plan)
        return self

    @property
    def layers(self) -> Layers:
        """The prunable layers of the model, known without building its weights."""
        return layers_of(self.model, self.dataset)

    @property
    def method_class(self) -> type[SparseMethod[Any]]:
        """The class that carries out the method."""
        return get_method(self.method)

    @property
    def plan(self) -> Plan[MethodSettings]:
        """What the method knows of the run."""
        recipe, spec = self.recipe, DATASETS[self.dataset]
        return Plan(
            layers=self.layers,
            sparsity=self.sparsity,
            settings=self.settings,
            epochs=self.epochs,
            batches_per_epoch=spec.steps(recipe.batch_size, recipe.segment, recipe.memory),
            seed=self.seed,
        )

    @property
    def starts_from(self) -> Start | None:
        """Which model of its parent the run starts from; None: initial weights."""
        return self.method_class.starts_from(self.plan)

    @property
    def parent(self) -> RunConfig | None:
        """The run that this one starts from."""
        start = self.starts_from
        if start is None:
            return None
        return RunConfig.model_validate({**self.model_dump(), **start.changes})

    @property
    def fingerprint(self) -> str:
        """Twelve hexadecimal digits that identify the resolved configuration."""
        return fingerprint(self.plain())

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


def parse_run(data: Any) -> RunConfig:
    """Return a validated run from plain data.

    Raises:
        ConfigError: names each wrong key, its value and the allowed values.
    """
    try:
        return RunConfig.model_validate(data)
    except ValidationError as error:
        raise ConfigError(explain(error, RunConfig)) from None
