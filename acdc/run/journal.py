"""The journal of a run: one JSON line per epoch and one per event, the truth that others mirror."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from acdc.files import finite, flush
from acdc.metrics import Metric
from acdc.run.reader import parse_lines


class Journal:
    """Appends lines to ``journal.jsonl``; a resumed run first cuts it back to its checkpoint."""

    def __init__(self, path: Path, metric: Metric | None = None) -> None:
        self.path = path
        self.metric = metric

    @property
    def length(self) -> int:
        """Size in bytes."""
        return self.path.stat().st_size if self.path.exists() else 0

    def problem(self, length: int) -> str | None:
        """Return what is wrong with the beginning that a checkpoint counts on, if anything is."""
        content = self.path.read_bytes()[:length] if self.path.exists() else b""
        if len(content) < length:  # after a power failure
            return f"needs {length} bytes of {self.path}, which has {len(content)}"
        problem = parse_lines(content, self.path, self.metric).problem
        if not problem and content[-1:] not in (b"", b"\n"):
            problem = f"{self.path}: cut within a line"
        return f"needs a whole journal, but {problem}" if problem else None

    def cut(self, length: int) -> None:
        """Drop what was written after the checkpoint that is being resumed from."""
        with self.path.open("ab") as file:
            file.truncate(length)

    def flush(self) -> None:
        """Wait until what was written is on the disk, before a checkpoint that counts on it."""
        if self.path.exists():
            flush(self.path)

    def append(self, record: Mapping[str, Any]) -> None:
        """Write one line, stamped with the time, and hand it to the operating system."""
        line = json.dumps(finite({**record, "time": round(time.time(), 3)}), allow_nan=False)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
