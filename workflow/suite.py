"""The folder of a study: its lease, its receipts, and the configurations of its runs."""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import yaml

from acdc.errors import Resumable, RunDirectoryError
from acdc.files import write_text
from acdc.run.lease import Lease, host_at_work
from acdc.run.reader import CONFIG, read_run
from acdc.run.result import RESULT, FailedResult
from study.model import Run

HOLDER = "ACDC_SUITE_PROCESS"
"""Environment variable: the process that holds the study's lease for its Snakemake."""


class SoleSuite:
    """The right of one suite to have jobs write to a study's folder.

    The lease of a killed suite is free at once on its machine, after a minute elsewhere.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._held = contextlib.ExitStack()

    def enter(self, wait_s: float = 0.0) -> None:
        """Take the folder until this process ends.

        Args:
            wait_s: seconds to wait for another suite that is just ending.

        Raises:
            Resumable: another suite holds it, which is named.
            RunDirectoryError: the folder cannot be written.
        """
        remedy = "or choose another folder: RESULTS=FOLDER (make), --results or --config results"
        lease = Lease(self.folder)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._held.enter_context(lease.held(wait_s))
        except Resumable:
            raise Resumable(
                f"results folder {self.folder} is in use by another suite ({lease.holder()}). Wait "
                f"for it to end, {remedy}"
            ) from None
        except OSError as error:
            raise RunDirectoryError(
                f"results folder {self.folder} cannot be written: {error.strerror}. Make it "
                f"writable, {remedy}"
            ) from None
        atexit.register(self.leave)

    def leave(self) -> None:
        """Give the folder back."""
        self._held.close()


def drop_receipts(folder: Path, jobs: Mapping[str, Iterable[str]]) -> None:
    """Delete the receipts of jobs with work to do, unless another suite is at work in the folder.

    These are jobs with a run that failed, or whose result is missing or not that of the receipt.

    Args:
        folder: of the study.
        jobs: the runs of each job.
    """
    if host_at_work(folder) is not None and HOLDER not in os.environ:
        return
    for job, runs in jobs.items():
        path = folder / "receipts" / f"{job}.json"
        if path.exists() and not _is_valid(path, [folder / "runs" / run for run in runs]):
            path.unlink()


def drop_tracking(folder: Path) -> None:
    """Delete the note that a study's runs were sent to the store of another folder.

    The study was copied or moved here; its runs are sent to a store here.
    """
    path = folder / "tracking.txt"
    with contextlib.suppress(OSError, ValueError):
        text = path.read_text(encoding="utf-8")
        if "sqlite:///" in text and f"sqlite:///{folder.absolute()}/" not in text:
            path.unlink()


def _is_valid(receipt: Path, runs: Iterable[Path]) -> bool:
    """Return whether a receipt is of the results that there are, none of which failed."""
    try:
        recorded = json.loads(receipt.read_bytes())["runs"]
        return all(
            recorded[run.name]["status"] != "failed"
            and recorded[run.name]["result_sha256"]
            == hashlib.sha256((run / RESULT).read_bytes()).hexdigest()
            for run in runs
        )
    except (OSError, ValueError, KeyError, TypeError):
        return False


def write_configs(folder: Path, runs: Mapping[str, Run]) -> None:
    """Write the configuration of each run into its folder, if it is not there.

    Args:
        folder: of the study.
        runs: by name, which identifies the configuration.

    Raises:
        RunDirectoryError: a folder cannot be written.
    """
    for name, run in runs.items():
        path = folder / "runs" / name / CONFIG
        try:
            if not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                write_text(path, yaml.safe_dump(dict(run.config)))
        except OSError as error:
            raise RunDirectoryError(f"{path} cannot be written: {error.strerror}") from None


def failed(folder: Path, runs: Iterable[str]) -> dict[str, str]:
    """Return the errors of the runs that failed for good.

    Args:
        folder: of the study.
        runs: of the study.
    """
    results = ((run, read_run(folder / "runs" / run).result) for run in runs)
    return {run: result.error for run, result in results if isinstance(result, FailedResult)}
