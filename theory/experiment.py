"""Experiments: their settings, how to load one by name, and the files that it writes."""

from __future__ import annotations

import csv
import importlib
import io
import math
import platform
import time
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any, Protocol

import torch
from pydantic import AfterValidator, Field, ValidationError

from acdc.errors import ConfigError, DeviceMemoryError
from acdc.files import write_bytes, write_json
from acdc.frozen import Frozen
from acdc.messages import config_error, explain
from acdc.run.provenance import git_revision, hardware
from theory.layout import EXPERIMENTS, SERIES, TRIAL
from theory.outcome import Outcome
from theory.problems.sine import cpl_constant
from theory.results import Series

PACKAGES = ("torch", "numpy", "scipy", "scikit-learn")


def ascending(values: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return values in ascending order.

    Raises:
        ValueError: two of them are equal.
    """
    if len(set(values)) < len(values):
        raise ValueError("has a value twice")
    return tuple(sorted(values))


def several(values: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return one to a hundred values.

    Raises:
        ValueError: there are none, or more.
    """
    if not 1 <= len(values) <= 100:
        raise ValueError("is not 1 to 100 values")
    return values


def _small(weight: float) -> float:
    cpl_constant(weight)
    return weight


# Bounds belong to the type, here or in an Annotated of the field: beside a bound of the same kind,
# pydantic drops that of a Field which is the default.
Ascending = AfterValidator(ascending)
Several = AfterValidator(several)
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Steps = Annotated[int, Field(ge=0, le=100_000)]
Trials = Annotated[int, Field(ge=2, le=10_000)]
Count = Annotated[int, Field(ge=1, le=100_000)]
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
Weight = Annotated[float, AfterValidator(_small)]
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


def write(name: str, settings: Settings, out: Path) -> Outcome:
    """Run an experiment, and write trials.csv, series.csv and statements.json into a folder.

    Floats have ten digits; a cell that does not apply is empty. provenance.json holds the software,
    the hardware and the time. Each file is replaced as a whole, statements.json last.

    Raises:
        OSError: the folder cannot be written; before the experiment runs.
        DeviceMemoryError: it does not fit the memory.
    """
    started = time.perf_counter()
    out.mkdir(parents=True, exist_ok=True)
    probe = out / "probe"
    write_bytes(probe, bytes(4096))
    probe.unlink()
    try:
        outcome = load(name).run(settings)
    except (MemoryError, RuntimeError) as error:
        if not (isinstance(error, MemoryError) or "allocate memory" in str(error)):
            raise
        problem = f"theory {name} does not fit this machine's memory with these settings"
        raise DeviceMemoryError(f"{problem}; set fewer trials or smaller dimensions") from None
    series = _csv(outcome.series, SERIES)
    write_bytes(out / "trials.csv", _csv(outcome.trials, TRIAL))
    write_bytes(out / "series.csv", series)
    about = {
        "git": git_revision(),
        "python": platform.python_version(),
        "packages": {package: metadata.version(package) for package in PACKAGES},
        "hardware": hardware(torch.device("cpu")),
        "threads": torch.get_num_threads(),
        "wall_s": round(time.perf_counter() - started, 2),
    }
    write_json(out / "provenance.json", about)
    results = {
        "experiment": name,
        "settings": settings.model_dump(mode="json"),
        "series": Series.of(series).model_dump(),
        "statements": [statement.plain() for statement in outcome.statements],
    }
    write_json(out / "statements.json", results)
    return outcome


def _csv(found: Sequence[Mapping[str, Any]], first: Sequence[str]) -> bytes:
    columns = list(dict.fromkeys([*first, *(name for row in found[:1] for name in row)]))
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([_cell(row.get(name)) for name in columns] for row in found)
    return buffer.getvalue().encode()


def _cell(value: object) -> object:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.10g}"
    return value
