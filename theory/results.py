"""What an experiment writes about itself, as it is validated when it is read; without torch."""

from __future__ import annotations

import hashlib
from typing import Any

from acdc.frozen import Frozen
from theory.statements import Stored


class Series(Frozen):
    """What series.csv was when it was written."""

    rows: int
    sha256: str

    @classmethod
    def of(cls, content: bytes) -> Series:
        """Return what the bytes of a CSV file are, whose first line is not counted."""
        return cls(rows=content.count(b"\n") - 1, sha256=hashlib.sha256(content).hexdigest())


class Results(Frozen):
    """What statements.json holds, its verdicts following from the numbers."""

    experiment: str
    settings: dict[str, Any]
    series: Series
    statements: tuple[Stored, ...]
