"""Names that the theory, the workflow and the reports share; imports nothing heavy."""

from __future__ import annotations

from typing import Literal

EXPERIMENTS = (
    "lemmas",
    "t2_rate",
    "t2_floor",
    "t1_rate",
    "t1_floor",
    "t1_gap",
    "fail",
    "t3",
    "c1",
    "phases",
    "phase_diagram",
    "recovery",
    "bridge",
    "restore",
)
"""In the order of the chapter; each is a module of theory.experiments."""

WITHOUT_FIGURE = ("lemmas",)
"""Experiments whose statements say all."""

TRIAL = (
    *("family", "n", "k_star", "k", "alpha", "beta", "sigma", "seed"),
    *("iterations", "gap", "worst_ratio", "bound", "status"),
)
"""The first columns of every trials.csv; what does not apply is empty."""

SERIES = ("panel", "line", "role", "x", "y", "low", "high")
"""The columns of every series.csv; low and high are the ends of a band or of an error bar."""

Role = Literal["measured", "bound", "fit", "trial", "cell", "phase"]
"""How a point is drawn; of a cell, x and y are its value and its colour, and line its row."""
