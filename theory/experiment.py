"""Experiments: their settings, and how to load one by its name."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Annotated, Any, Protocol

from pydantic import AfterValidator, Field, ValidationError

from acdc.errors import ConfigError
from acdc.frozen import Frozen
from acdc.messages import config_error, explain
from theory.layout import EXPERIMENTS
from theory.outcome import Outcome
from theory.problems.sine import cpl_constant


def ascending(values: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return values in ascending order.

    Raises:
        ValueError: two of them are equal.
    """
    if len(set(values)) < len(values):
        raise ValueError("has a value twice")
    return tuple(sorted(values))


# Bounds belong here, or into an Annotated of the field: pydantic drops those of a Field that is the
# default of a field whose type has bounds of the same kind.


def _small(weight: float) -> float:
    cpl_constant(weight)
    return weight


Ascending = AfterValidator(ascending)
Several = Field(min_length=1, max_length=100)
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Steps = Annotated[int, Field(ge=0, le=1_000_000)]
Trials = Annotated[int, Field(ge=2, le=10_000)]
Count = Annotated[int, Field(ge=1, le=1_000_000)]
Size = Annotated[Count, Field(ge=2)]
Counts = Annotated[tuple[Count, ...], Several, Ascending]
Positive = Annotated[float, Field(gt=0, le=1e6)]
Factors = Annotated[tuple[Positive, ...], Several, Ascending]
Fraction = Annotated[float, Field(gt=0, lt=1)]
Level = Annotated[float, Field(ge=0, le=1e6)]
Sigmas = Annotated[tuple[Level, ...], Several, Ascending]
"""Noise levels, the square root of E||g - grad f||^2."""
Condition = Annotated[float, Field(ge=1, le=1e6)]
Kappas = Annotated[tuple[Condition, ...], Several, Ascending]
"""Condition numbers beta/alpha."""
Weight = Annotated[float, Field(strict=True), AfterValidator(_small)]
"""The weight c of the sine in F2, such that only 0 is stationary."""
Weights = Annotated[tuple[Weight, ...], Several, Ascending]


class Settings(Frozen):
    """Settings of an experiment; the defaults are those of the smoke scale.

    Several numbers are in ascending order, each once.
    """

    seed: Seed = Field(0, description="Of all random numbers.")
    trials: Trials = Field(20, description="Independent problems of each point of the sweep.")

    def require(self, true: bool, key: str, allowed: str) -> None:
        """Check a combination of settings.

        Raises:
            ConfigError: it is not true; names the key and what is allowed.
        """
        if not true:
            problem = "does not fit the other settings"
            raise config_error(key, getattr(self, key), problem, allowed)


class Experiment(Protocol):
    """A module of theory.experiments."""

    Settings: type[Settings]

    def run(self, settings: Any) -> Outcome:
        """Run it; equal settings give an equal outcome."""
        ...


def load(name: str) -> Experiment:
    """Return an experiment by its name.

    Raises:
        ConfigError: there is no experiment of this name.
    """
    if name not in EXPERIMENTS:
        raise config_error("theory", name, "unknown experiment", EXPERIMENTS)
    module: Any = importlib.import_module(f"theory.experiments.{name}")
    return module  # type: ignore[no-any-return]


def parse(name: str, data: Mapping[str, Any]) -> Settings:
    """Return an experiment's validated settings.

    Raises:
        ConfigError: there is no such experiment, or a key is wrong; names each wrong key.
    """
    schema = load(name).Settings
    try:
        return schema.model_validate(dict(data))
    except ValidationError as error:
        raise ConfigError(explain(error, schema)) from None
