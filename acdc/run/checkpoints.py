"""Checkpoints: atomic, checksummed, the last two kept, refused where they belong to another run."""

from __future__ import annotations

import hashlib
import io
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from acdc.errors import CheckpointError
from acdc.files import write_atomically
from acdc.messages import shown

SCHEMA = 1
"""The version of a checkpoint's state."""
_KEPT = 2
_KEYS = {"epoch", "batch", "totals", "trainer", "progress", "products", "files", "journal_length"}
_NAME = re.compile(r"step-(\d{10})\.pt")


class Checkpoints:
    """The checkpoints of one run, in one folder.

    A file is the sha256 of what follows (32 bytes) and a state dictionary without pickled code.
    """

    def __init__(self, folder: Path, fingerprint: str) -> None:
        self.folder = folder
        self.fingerprint = fingerprint

    def paths(self) -> list[Path]:
        """Return the checkpoints, newest first."""
        found = [path for path in self.folder.glob("*.pt") if _NAME.fullmatch(path.name)]
        return sorted(found, reverse=True)

    def save(self, iteration: int, state: dict[str, Any]) -> None:
        """Write the state after ``iteration`` batches and drop all but the last two."""
        self.folder.mkdir(exist_ok=True)
        buffer = io.BytesIO()
        torch.save({"schema": SCHEMA, "fingerprint": self.fingerprint, **state}, buffer)
        content = buffer.getbuffer()
        digest = hashlib.sha256(content).digest()

        def write(file: Any) -> None:
            file.write(digest)
            file.write(content)

        write_atomically(self.folder / f"step-{iteration:010d}.pt", write)
        self.drop(keep=_KEPT)

    def drop(self, keep: int) -> None:
        """Remove all but the newest."""
        for path in self.paths()[keep:]:
            path.unlink()

    def newest(
        self,
        warn: Callable[[str], None],
        problem: Callable[[dict[str, Any]], str | None] = lambda state: None,
    ) -> Path | None:
        """Return the newest sound checkpoint, or None.

        A damaged one, or one whose files have a ``problem``, is skipped and removed, so that it
        does not count among the two that are kept.

        Raises:
            CheckpointError: it belongs to a run of another fingerprint, or to another version.
        """
        for path in self.paths():
            raw = path.read_bytes()
            if hashlib.sha256(memoryview(raw)[32:]).digest() != raw[:32]:
                wrong: str | None = "is damaged"
            else:
                try:
                    state = self.read(path, torch.device("cpu"))
                    wrong = problem(state) if state.keys() >= _KEYS else "is incomplete"
                except CheckpointError:
                    raise
                except Exception as error:  # whatever torch raises of content that is not its own
                    wrong = f"is damaged ({shown(f'{type(error).__name__}: {error}')})"
            if not wrong:
                return path
            warn(f"checkpoint {path} {wrong}; resuming from the one before it")
            path.unlink()
        return None

    def read(self, path: Path, device: torch.device) -> dict[str, Any]:
        """Return the state of a sound checkpoint.

        Raises:
            CheckpointError: it belongs to a run of another fingerprint, or to another version.
        """
        content = io.BytesIO(memoryview(path.read_bytes())[32:])
        state: dict[str, Any] = torch.load(content, map_location=device, weights_only=True)
        if state.get("schema") != SCHEMA:
            raise CheckpointError(
                f"checkpoint {path} was written by another version; remove "
                f"{self.folder.parent} to train the run again"
            )
        if state["fingerprint"] != self.fingerprint:
            raise CheckpointError(
                f"checkpoint {path} belongs to run {state['fingerprint']}, "
                f"not to {self.fingerprint}; remove the folder to train this run again"
            )
        return state


class CheckpointPolicy:
    """When the next checkpoint is due.

    At the end of an epoch: once checkpoints there take no more than their share of the time.
    Within an epoch: once the training since the last one is the most that may be lost.
    """

    def __init__(self, interval_s: float, share: float) -> None:
        self.interval_s = interval_s
        self.share = share
        self.cost_s = 0.0
        """Seconds that the last checkpoint took."""
        self.last = time.monotonic()

    def overdue(self) -> bool:
        """Return whether a checkpoint is due within an epoch."""
        return time.monotonic() - self.last >= self.interval_s

    def due(self) -> bool:
        """Return whether a checkpoint is due at the end of an epoch."""
        return time.monotonic() - self.last >= min(self.cost_s / self.share, self.interval_s)

    def wrote(self, started: float) -> None:
        """Record that a checkpoint was written that was begun at ``started``, monotonic."""
        self.last = time.monotonic()
        self.cost_s = self.last - started
