"""Where the files of data sets are looked for."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Location:
    """Where the files of a data set are, judged by their names alone."""

    folder: Path | None = None
    """The folder of the files, or of some of them; None: there are none."""
    missing: str | None = None
    """What is missing, where it was looked for and how to get it; None: nothing is."""


def roots() -> list[Path]:
    """Return the folders that may hold data sets: ``ACDC_DATA``, if set, and ``data``."""
    named = os.environ.get("ACDC_DATA")
    return [*([Path(named)] if named else []), Path("data")]


def not_found(name: str, folders: list[Path], remedy: str) -> Location:
    """Return the location of a data set that is in none of ``folders``."""
    searched = ", ".join(map(str, folders))
    return Location(missing=f"dataset={name}: not found in {searched}; {remedy}")
