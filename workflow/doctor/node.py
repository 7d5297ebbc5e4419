"""The same checks from a compute node, by a short job on each partition asked for."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from study.model import Study
from workflow.doctor.environment import data
from workflow.doctor.findings import Finding, UnansweredError, guarded
from workflow.doctor.peer import Peer, gpus, missing_data, peer, who
from workflow.doctor.profile import Profile, Request
from workflow.doctor.storage import clock_finding, locking, scratch, visibility

_QUEUE_S = 60
_MINUTES = 15  # for all checks, also where each waits for long
_START_S = 60.0
_IMPORT_S = 120.0


def examine(
    profile: Profile, requests: Sequence[Request], study: Study, results: Path
) -> Iterator[Finding]:
    """Yield what a node of each partition finds.

    Args:
        profile: that says how long Snakemake waits for files.
        requests: what the jobs ask for; the largest of each partition is.
        study: whose data sets are looked for.
        results: the folder of all results.
    """
    if shutil.which("srun") is None:
        yield Finding("nodes", "not checked", "there is no srun here")
        return
    largest: dict[str, Request] = {}
    for request in requests:
        for name in request.partitions or ("",):
            before = largest.get(name, request)
            largest[name] = max(before, request, key=lambda r: (r.gpus, r.memory_mb or 0, r.cores))
    known: set[str] = set()
    for name, request in largest.items():
        where = f"partition {name}" if name else "the default partition"

        def job(name: str = name, request: Request = request) -> Iterator[Finding]:
            return _job(name, request, profile, study, results, known)

        yield from guarded(f"a job on {where}", job)


def _job(
    name: str,
    request: Request,
    profile: Profile,
    study: Study,
    results: Path,
    known: set[str],
) -> Iterator[Finding]:
    """Yield what one job finds; of a node that is known only what differs from job to job."""
    command = [
        *("srun", "--job-name=acdc-doctor", "--ntasks=1", "--nodes=1", f"--time={_MINUTES}"),
        *(f"--immediate={_QUEUE_S}", "--unbuffered", "--mpi=none"),
        *([f"--partition={name}"] if name else []),
        *request.options(),
    ]
    # A job of its own, also where this process runs in one.
    kept = {k: v for k, v in os.environ.items() if not k.startswith("SLURM_") or k == "SLURM_CONF"}
    check = f"a job on partition {name}" if name else "a job on the default partition"
    with scratch(results) as folder, peer(command, kept) as there:
        started = time.monotonic()
        try:
            told = there.ask(who, _QUEUE_S + _START_S)
        except UnansweredError as error:
            yield _not_started(check, str(error), "has been allocated" in there.said)
            return
        took = time.monotonic() - started
        node = told["host"]
        found = f"Python {told['python']} answers from {node} after {took:.1f} s"
        yield Finding(check, "ok", found)
        if node not in known:
            known.add(node)
            yield from _on_node(folder, there, node, profile, study)
        torch = f"torch on {node}{f', partition {name}' if name else ''}"
        yield from guarded(torch, lambda: _gpus(there, torch, request))


def _on_node(
    folder: Path, there: Peer, node: str, profile: Profile, study: Study
) -> Iterator[Finding]:
    """Yield what is seen from a node on which a process answers."""
    yield _clock(there, node)
    seen = list(visibility(folder, there, profile.latency_wait_s, node))
    yield from seen
    if all(finding.state == "ok" for finding in seen):
        # No line for each locking primitive that both sides cannot even see.
        yield from guarded(
            f"locks with {node}", lambda: locking(folder / "locks", there, f" with {node}")
        )
    yield from guarded(f"data sets on {node}", lambda: _data(there, node, study))


def _not_started(check: str, reason: str, allocated: bool) -> Finding:
    unanswered = "Unable to allocate resources" in reason or "no answer in time" in reason
    if unanswered and not allocated:
        busy = any(word in reason for word in ("busy", "timed out", "no answer"))
        return Finding(
            check,
            "not checked" if busy else "problem",
            f"no node within {_QUEUE_S} s: {reason}" if busy else reason,
            "run it again when a node is free" if busy else "see the lines on this partition",
        )
    return Finding(
        check,
        "problem",
        f"the Python environment does not start there: {reason}",
        "keep the repository and its .venv on the file system that the nodes share",
    )


def _clock(there: Peer, node: str) -> Finding:
    before = time.time()
    told = there.ask(who)
    middle = (before + time.time()) / 2
    return clock_finding(f"clock of {node}", told["time"] - middle, "its clock")


def _data(there: Peer, node: str, study: Study) -> Iterator[Finding]:
    arguments = dict(zip(study.arguments[::2], study.arguments[1::2], strict=True))
    seeds = arguments.get("--seeds")
    missing = there.ask(
        missing_data,
        _IMPORT_S,
        scale=arguments["--scale"],
        seeds=int(seeds) if seeds else None,
        experiments=arguments.get("--experiments"),
    )
    return data(study, missing, f" on {node}")


def _gpus(there: Peer, check: str, request: Request) -> Iterator[Finding]:
    told = there.ask(gpus, _IMPORT_S)
    names = told["gpus"]
    found = f"torch {told['torch']} sees {', '.join(names) or 'no GPU'}"
    if len(names) >= request.gpus:
        yield Finding(check, "ok", found)
    else:
        yield Finding(
            check,
            "problem",
            f"{found}, and {request.gpus} are asked for",
            "install a torch build that the node's driver supports (nvidia-smi there shows which "
            "CUDA), or ask the site why the job has no GPU",
        )
