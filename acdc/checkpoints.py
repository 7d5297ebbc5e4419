"""Checkpoints: atomic, checksummed, the last two kept, refused where they belong to another run."""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from acdc.errors import CheckpointError
from acdc.files import write_atomically

_KEPT = 2
_NAME = re.compile(r"epoch-(\d{6})\.pt")


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

    def save(self, epoch: int, state: dict[str, Any]) -> None:
        """Write the state after ``epoch`` epochs and drop all but the last two."""
        self.folder.mkdir(exist_ok=True)
        buffer = io.BytesIO()
        torch.save({"fingerprint": self.fingerprint, "epoch": epoch, **state}, buffer)
        content = buffer.getvalue()
        digest = hashlib.sha256(content).digest()
        write_atomically(
            self.folder / f"epoch-{epoch:06d}.pt", lambda file: file.write(digest + content)
        )
        for path in self.paths()[_KEPT:]:
            path.unlink()

    def load(self, device: torch.device, warn: Callable[[str], None]) -> dict[str, Any] | None:
        """Return the newest sound state, or none; says so where a damaged one is passed over.

        Raises:
            CheckpointError: a checkpoint belongs to a run of another fingerprint.
        """
        for path in self.paths():
            raw = path.read_bytes()
            digest, content = raw[:32], raw[32:]
            if hashlib.sha256(content).digest() != digest:
                warn(f"checkpoint {path} is damaged; going back to the one before it")
                continue
            state = torch.load(io.BytesIO(content), map_location=device, weights_only=True)
            if state["fingerprint"] != self.fingerprint:
                raise CheckpointError(
                    f"checkpoint {path} belongs to run {state['fingerprint']}, "
                    f"not to {self.fingerprint}; remove the folder to start this run anew"
                )
            return dict(state)
        return None
