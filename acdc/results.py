"""The final record of a run, and the runs of a study."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from acdc.errors import RunDirectoryError

RESULT = "result.json"
SCHEMA = 2


def read_result(folder: Path) -> dict[str, Any] | None:
    """Return the result of the run in a folder, or none if it has not finished.

    Raises:
        RunDirectoryError: it is damaged, or of another version of the suite.
    """
    path = folder / RESULT
    if not path.exists():
        return None
    try:
        result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        schema = result["schema"]
    except (ValueError, TypeError, KeyError):
        raise RunDirectoryError(
            f"{path} is damaged; remove {folder} to train the run again"
        ) from None
    if schema != SCHEMA:
        raise RunDirectoryError(
            f"{path} is of another version of the suite (schema {schema}, here {SCHEMA}); "
            f"remove {folder} to train the run again"
        )
    return result
