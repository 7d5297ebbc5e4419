"""What an experiment of the theory is, the list of them, and the files that each leaves."""

from __future__ import annotations

import csv
import importlib
import io
import math
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any, Protocol

import numpy as np
import torch
from pydantic import AfterValidator, Field, ValidationError

from acdc.config.recipe import Frozen
from acdc.errors import ConfigError
from acdc.files import write_json, write_text
from acdc.messages import accepted, explain
from acdc.run.provenance import git_revision, hardware
from theory.layout import EXPERIMENTS, SERIES, TRIAL, Role
from theory.statistics import Statement

PACKAGES = ("torch", "numpy", "scipy", "scikit-learn")


def _distinct(values: tuple[Any, ...]) -> tuple[Any, ...]:
    if len(set(values)) < len(values):
        raise ValueError("has a value twice; each once is accepted")
    return values


def ascending(values: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return values in ascending order, and refuse one that stands twice."""
    return tuple(sorted(_distinct(values)))


Condition = Annotated[float, Field(ge=1, le=1e6)]
Several = Field(min_length=1)
Kappas = Annotated[tuple[Condition, ...], Several, AfterValidator(ascending)]
"""Condition numbers beta/alpha, each at least 1, in ascending order."""
Sigmas = Annotated[
    tuple[Annotated[float, Field(ge=0, le=1e6)], ...], Several, AfterValidator(ascending)
]
"""Noise levels, the square root of E||g - grad f||^2, in ascending order."""
Counts = Annotated[tuple[Annotated[int, Field(ge=1)], ...], Several, AfterValidator(ascending)]
"""Whole numbers from 1 on, in ascending order."""


class Settings(Frozen):
    """What an experiment is asked for; its defaults are those of the smoke scale."""

    seed: int = Field(default=0, ge=0)
    """Of all random numbers."""
    trials: int = Field(default=20, ge=2)
    """Independent problems, or repetitions, of each point of the sweep."""

    def require(self, true: bool, key: str, expected: str) -> None:
        """Refuse a combination of settings.

        Raises:
            ConfigError: it is not true; says what is accepted.
        """
        if not true:
            raise ConfigError(f"{key}: got {getattr(self, key)!r}; {expected} is accepted")


@dataclass
class Outcome:
    """What an experiment has found."""

    trials: list[dict[str, Any]] = field(default_factory=list)
    """One row a trial: the columns TRIAL, then its own."""
    series: list[dict[str, Any]] = field(default_factory=list)
    """What its figure draws: the columns SERIES."""
    statements: list[Statement] = field(default_factory=list)

    def draw(
        self,
        panel: str,
        line: str,
        role: Role,
        x: float,
        y: float,
        low: float | None = None,
        high: float | None = None,
    ) -> None:
        """Add a point to a line of a plot; of a phase x and y are its ends."""
        row = (panel, line, role, x, y, low, high)
        self.series.append(dict(zip(SERIES, row, strict=True)))

    def draw_fit(self, panel: str, line: str, x: Sequence[float], y: Sequence[float]) -> None:
        """Add the power law that fits points best, over their range, if there is one."""
        points = np.asarray([x, y], dtype=np.float64)
        if np.isfinite(points).all() and (points > 0.0).all() and np.ptp(points[0]) > 0.0:
            power, level = np.polyfit(np.log(points[0]), np.log(points[1]), 1)
            for end in (min(x), max(x)):
                self.draw(panel, line, "fit", end, float(np.exp(level) * end**power))


class Experiment(Protocol):
    """A module of theory.experiments."""

    Settings: type[Settings]

    def run(self, settings: Any) -> Outcome:
        """Carry it out; the same settings give the same outcome."""
        ...


def load(name: str) -> Experiment:
    """Return an experiment by its name.

    Raises:
        ConfigError: there is none of this name.
    """
    if name not in EXPERIMENTS:
        raise ConfigError(f"theory: {name!r} is unknown; {accepted(name, EXPERIMENTS)}")
    module: Any = importlib.import_module(f"theory.experiments.{name}")
    return module  # type: ignore[no-any-return]


def parse(name: str, data: Mapping[str, Any]) -> Settings:
    """Return an experiment's validated settings.

    Raises:
        ConfigError: no such experiment, or one sentence that names each wrong key.
    """
    schema = load(name).Settings
    try:
        return schema.model_validate(dict(data))
    except ValidationError as error:
        raise ConfigError(explain(error, schema)) from None


def rows(columns: Mapping[str, Any], shape: Sequence[int]) -> list[dict[str, Any]]:
    """Return one dictionary for each trial of a batch.

    Args:
        columns: tensors that broadcast to the shape, or the same value for all; of ``status`` a
            tensor that says which trials diverged.
        shape: of the batch.
    """
    flat = {
        name: value.expand(*shape).reshape(-1).tolist() if isinstance(value, torch.Tensor) else None
        for name, value in columns.items()
    }
    if (diverged := flat.get("status")) is not None:
        flat["status"] = ["diverged" if each else "finished" for each in diverged]
    return [
        {name: columns[name] if (found := flat[name]) is None else found[i] for name in columns}
        for i in range(math.prod(shape))
    ]


def write(name: str, settings: Settings, out: Path) -> Outcome:
    """Carry an experiment out, and write trials.csv, series.csv and statements.json into a folder.

    Floats have ten digits, what does not apply is empty; provenance.json beside them says what made
    them. Each file appears whole or not at all, statements.json last.
    """
    started = time.perf_counter()
    outcome = load(name).run(settings)
    ids = [statement.id for statement in outcome.statements]
    if len(set(ids)) < len(ids):
        raise AssertionError(f"{name}: two statements have the same id")
    out.mkdir(parents=True, exist_ok=True)
    trials = [{**dict.fromkeys(TRIAL), **row} for row in outcome.trials]
    write_text(out / "trials.csv", _csv(trials, TRIAL))
    write_text(out / "series.csv", _csv(outcome.series, SERIES))
    about = {
        "git": git_revision(),
        "python": platform.python_version(),
        "packages": {package: metadata.version(package) for package in PACKAGES},
        "hardware": hardware(torch.device("cpu")),
        "threads": torch.get_num_threads(),
        "wall_s": round(time.perf_counter() - started, 2),
    }
    write_json(out / "provenance.json", about)
    write_json(
        out / "statements.json",
        {
            "experiment": name,
            "settings": settings.model_dump(mode="json"),
            "statements": [statement.plain() for statement in outcome.statements],
        },
    )
    return outcome


def _csv(found: Sequence[Mapping[str, Any]], first: Sequence[str]) -> str:
    columns = list(dict.fromkeys([*first, *(name for row in found[:1] for name in row)]))
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([_cell(row[name]) for name in columns] for row in found)
    return buffer.getvalue()


def _cell(value: object) -> object:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.10g}"
    return value
