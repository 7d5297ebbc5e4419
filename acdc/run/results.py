"""The final record of a run, and the runs of a study."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from acdc.errors import RunDirectoryError

RESULT = "result.json"
SPARE = "checkpoint/result.json"
"""The same once more, where Snakemake, which deletes what it makes anew, does not look."""
SCHEMA = 2

REMEDY = f"move it away, and 'acdc train' puts it back from {SPARE}"
"""What mends a result that is damaged or of another run, of which the run itself knows nothing."""


def read_result(folder: Path, name: str = RESULT) -> dict[str, Any] | None:
    """Return the result of the run in a folder, or none if it has not finished.

    Its status says how the run ended: finished, diverged, or failed, which is an error that would
    only recur.

    Raises:
        RunDirectoryError: it is damaged, or of another version of the suite.
    """
    path = folder / name
    if not path.exists():
        return None
    try:
        result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        schema = result["schema"]
    except (ValueError, TypeError, KeyError):
        raise RunDirectoryError(f"{path} is damaged; {REMEDY}") from None
    if schema != SCHEMA:
        raise RunDirectoryError(
            f"{path} is of another version of the suite (schema {schema}, here {SCHEMA}); "
            f"remove {folder} to train the run again"
        )
    return result


def read_spare(folder: Path) -> dict[str, Any] | None:
    """Return the spare copy of a run's result, or none if it has none that is of any use."""
    try:
        result = read_result(folder, SPARE)
    except RunDirectoryError:
        return None
    return result if result is not None and result["run"] == folder.name else None
