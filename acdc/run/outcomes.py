"""How a run has ended, as its directory has it: finished, diverged, or failed for good."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from acdc.config.run import RunConfig
from acdc.files import write_json
from acdc.run.failures import FAILED, remember
from acdc.run.model_store import digests
from acdc.run.records import identity
from acdc.run.results import RESULT, SPARE, read_result, read_spare


def settled(folder: Path) -> dict[str, Any] | None:
    """Return the result of a run that needs no further training; one that failed is tried again."""
    result = read_result(folder)
    return None if result is not None and result["status"] == "failed" else result


def conclude(folder: Path, result: Mapping[str, Any]) -> None:
    """Write a result, and a spare one where Snakemake does not delete it."""
    keep_spare(folder, result)
    write_json(folder / RESULT, result)


def keep_spare(folder: Path, result: Mapping[str, Any]) -> None:
    """Write a result where Snakemake, which deletes what it is about to make anew, leaves it."""
    (folder / SPARE).parent.mkdir(exist_ok=True)
    write_json(folder / SPARE, result)


def restored(folder: Path) -> dict[str, Any] | None:
    """Put the removed result of a run that has ended back, if its models are still there.

    That of a run that has failed, too: whoever wants to try it again looks at the status.
    """
    result = read_spare(folder)
    if result is None:
        return None
    if result["status"] == "finished" and digests(folder) != result["files"]:
        return None  # it is made again from the last checkpoint
    if result["status"] != "failed":
        (folder / FAILED).unlink(missing_ok=True)
    write_json(folder / RESULT, result)
    return result


def failed(config: RunConfig, folder: Path, error: Exception) -> dict[str, Any] | None:
    """Take down an error; if it is final, return what is the result of the run then."""
    failure = remember(folder, error)
    if not failure.final:
        return None
    reason = {"error": failure.error, "exit_status": failure.exit_status}
    return {**identity(config, "failed"), "products": {}, **reason}
