"""The final record of a run, and the runs of a study."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

RESULT = "result.json"
SCHEMA = 2


def read_result(folder: Path) -> dict[str, Any] | None:
    """Return the result of the run in a folder, or none if it has not finished."""
    path = folder / RESULT
    if not path.exists():
        return None
    result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return result
