"""The outcome of an experiment: rows, the lines of its figure, and statements."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel
from torch import Tensor

from theory.layout import SERIES, Role
from theory.measures import geometric
from theory.problems import Problem
from theory.statements import Statement, read_claims
from theory.statistics import Interval, Values, proportion


class Outcome:
    """What an experiment has found.

    Args:
        experiment: its name, whose claims are stated.
        settings: fill in the names in the claims' texts.
    """

    def __init__(self, experiment: str, settings: BaseModel) -> None:
        self.trials: list[dict[str, Any]] = []
        """One row per trial: the columns TRIAL, then the experiment's own."""
        self.series: list[dict[str, Any]] = []
        """Points of the figure: the columns SERIES."""
        self.statements: list[Statement] = []
        self._claims = read_claims(experiment)
        self._words = dict(settings)

    def record(
        self,
        shape: Sequence[int],
        problem: Problem | None = None,
        *,
        diverged: Tensor | None = None,
        **columns: object,
    ) -> None:
        """Add one row for each trial of a batch.

        Args:
            shape: of the batch; the seed numbers its first dimension.
            problem: gives the family, the dimension and the curvature, without noise.
            diverged: the mask of trials that diverged, by default none.
            **columns: tensors that broadcast to the shape, or one value for all rows.
        """
        known: dict[str, object] = {
            "seed": torch.arange(shape[0]).reshape(-1, *[1] * (len(shape) - 1))
        }
        if problem is not None:
            known |= {"family": problem.family, "sigma": 0.0}
            known |= {"alpha": problem.alpha, "beta": problem.beta}
            if "n" not in columns:
                known["n"] = problem.minimiser.shape[-1]
        known |= columns
        flat = {
            name: value.expand(*shape).reshape(-1).tolist()
            if isinstance(value, Tensor)
            else itertools.repeat(value)
            for name, value in known.items()
        }
        lost = [False] * math.prod(shape)
        if diverged is not None:
            lost = diverged.expand(*shape).reshape(-1).tolist()
        flat["status"] = ["diverged" if each else "finished" for each in lost]
        self.trials += [
            dict(zip(flat, row, strict=True)) for row in zip(*flat.values(), strict=False)
        ]

    def state(
        self,
        id: str,
        measured: Interval,
        trials: int,
        diverged: int | Tensor = 0,
        words: Mapping[str, object] | None = None,
        violations: int | None = None,
    ) -> None:
        """Judge a claim by a measured value.

        Args:
            id: key of the claim in the experiment's YAML file.
            measured: value and interval.
            trials: number of independent trials.
            diverged: number of trials that diverged, or a mask of them.
            words: names in the claim's texts, beside the settings.
            violations: of a claim that something never happens.
        """
        counts = {"trials": trials, "violations": violations}
        counts["diverged"] = int(torch.as_tensor(diverged).sum())
        statement = self._claims[id].judge(measured, {**self._words, **(words or {})}, **counts)
        if any(statement.id == other.id for other in self.statements):
            raise AssertionError(f"two statements have the id {statement.id}")
        self.statements.append(statement)

    def state_never(
        self,
        id: str,
        violated: Tensor,
        diverged: int | Tensor = 0,
        words: Mapping[str, object] | None = None,
    ) -> None:
        """Judge a claim that something never happens; ``violated`` is a mask of the trials."""
        count, trials = int(violated.sum()), violated.numel()
        self.state(id, proportion(count, trials), trials, diverged, words, count)

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

    def draw_interval(self, panel: str, line: str, x: float, found: Interval) -> None:
        """Add a measured value with its interval."""
        self.draw(panel, line, "measured", x, found.value, found.low, found.high)

    def draw_range(
        self,
        panel: str,
        line: str,
        x: float,
        values: Tensor,
        average: Callable[[Tensor], float | Tensor] = geometric,
    ) -> None:
        """Add the average of some trials, with the least and the largest of them."""
        ends = float(values.min()), float(values.max())
        self.draw(panel, line, "measured", x, float(average(values)), *ends)

    def draw_trace(
        self, panel: str, line: str, values: Tensor, times: Iterable[int] | None = None
    ) -> None:
        """Add the geometric mean and the range of trials, (iterations, trials), over time."""
        for t in range(len(values)) if times is None else times:
            self.draw_range(panel, line, t, values[t])

    def draw_level(self, panel: str, line: str, ends: Sequence[float], y: float) -> None:
        """Add a bound that is the same between the first and the last of some x."""
        for x in (ends[0], ends[-1]):
            self.draw(panel, line, "bound", x, y)

    def draw_fit(self, panel: str, line: str, x: Values, y: Values) -> None:
        """Add the best power law over the range of the points, if there is one."""
        points = np.stack([np.asarray(each, dtype=np.float64) for each in (x, y)])
        if np.isfinite(points).all() and (points > 0.0).all() and np.ptp(points[0]) > 0.0:
            power, level = np.polyfit(np.log(points[0]), np.log(points[1]), 1)
            for end in (float(points[0].min()), float(points[0].max())):
                self.draw(panel, line, "fit", end, float(np.exp(level) * end**power))
