"""One suite at a time in a results folder, and what it has to say of runs that have failed."""

from __future__ import annotations

import atexit
import contextlib
from collections.abc import Iterable
from pathlib import Path

from acdc.errors import Resumable
from acdc.run.failures import remembered
from acdc.run.lease import Lease


class SoleSuite:
    """The right to have jobs write to a study's folder, held by one Snakemake until it ends.

    A killed one gives it up at once to another on its machine, after a minute to one elsewhere.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._held = contextlib.ExitStack()

    def enter(self) -> None:
        """Take the folder.

        Raises:
            Resumable: another suite is at work in it, which is named.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        lease = Lease(self.folder)
        try:
            self._held.enter_context(lease.held(wait_s=0))
        except Resumable:
            raise Resumable(
                f"results folder {self.folder} is in use by another suite ({lease.holder()}); wait "
                "for it to end, or give another with --config results=FOLDER"
            ) from None
        atexit.register(self._held.close)


def failed(folder: Path, runs: Iterable[str]) -> dict[str, str]:
    """Return why runs have failed for good, those that have.

    Args:
        folder: of the study.
        runs: of the study.
    """
    found = {run: remembered(folder / "runs" / run) for run in runs}
    return {run: failure.error for run, failure in found.items() if failure and failure.final}
