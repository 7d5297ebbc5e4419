"""Where the files of data sets are looked for."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Place:
    """Where the files of a set are, judged by their names alone."""

    folder: Path | None = None
    """The folder of the files, or of some of them; None: there are none."""
    missing: str | None = None
    """What is missing, where it was looked for and how to get it, one sentence; None: nothing."""


def roots() -> list[Path]:
    """Return the folders below which sets are looked for: the one ACDC_DATA names, and data."""
    named = os.environ.get("ACDC_DATA")
    return [*([Path(named)] if named else []), Path("data")]


def nowhere(name: str, folders: list[Path], remedy: str) -> Place:
    """Return the place of a set that is in none of the folders where it was looked for."""
    places = ", ".join(map(str, folders))
    return Place(missing=f"dataset: {name} was found in none of {places}; {remedy}")
