"""The journal of a run: one JSON line per epoch and one per event, the truth that others mirror."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from acdc.files import finite, flush


class Journal:
    """Appends lines to ``journal.jsonl``; a resumed run first cuts it back to its checkpoint."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def length(self) -> int:
        """Size in bytes."""
        return self.path.stat().st_size if self.path.exists() else 0

    def cut(self, length: int) -> None:
        """Drop what was written after the checkpoint that is being resumed from."""
        with self.path.open("ab") as file:
            # A journal can be shorter than its checkpoint says, after a power failure; truncate
            # would fill it up with zero bytes.
            file.truncate(min(length, file.tell()))

    def flush(self) -> None:
        """Wait until what was written is on the disk, before a checkpoint that counts on it."""
        if self.path.exists():
            flush(self.path)

    def append(self, record: Mapping[str, Any]) -> None:
        """Write one line, stamped with the time, and hand it to the operating system."""
        line = json.dumps(finite({**record, "time": round(time.time(), 3)}), allow_nan=False)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
