"""What SLURM has been told to do for the runs of a study, by whomever."""

from __future__ import annotations

import hashlib
import math
import subprocess
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from acdc.errors import ConfigError

_PACK = "pack "
# What stands before the name of a run in the comment of a job, and what the job is filed under.
_COMMENTS = {
    "rule_train_wildcards_": "",
    "rule_train_on_nodes_wildcards_": "",
    "rule_pack_wildcards_": _PACK,
}
_FRESH_S = 5.0


def job_name(folder: Path) -> str:
    """Return what the names of all jobs of a study's folder begin with, whoever submits them."""
    return f"acdc_{hashlib.sha256(str(folder.absolute()).encode()).hexdigest()[:12]}"


@dataclass
class Queue:
    """The jobs of a study's folder that are waiting or running, by what they train."""

    name: str
    """What the names of these jobs begin with."""
    asked: float = field(default=float("-inf"), init=False)
    jobs: dict[str, list[str]] = field(default_factory=dict, init=False)

    def name_jobs(self, executor: Any) -> None:
        """Have an executor of SLURM call its jobs so; Snakemake has no setting that can follow.

        Args:
            executor: of Snakemake, before its first job; any other than SLURM's stays as it is.
        """
        if hasattr(executor, "run_uuid"):
            executor.run_uuid = f"{self.name}_{uuid.uuid4()}"

    def of(self, runs: Iterable[str], packs: Iterable[str] = ()) -> list[str]:
        """Return the ids of the jobs of runs, and of packs, which have the name of their first run.

        There are some when an earlier controller was killed and its jobs live on, or where SLURM
        has put a job back into its queue that Snakemake has given up.
        """
        if time.monotonic() - self.asked > _FRESH_S:
            self.jobs = read_queue(_squeue(), self.name)
            self.asked = time.monotonic()
        wanted = [*runs, *(f"{_PACK}{pack}" for pack in packs)]
        return [job for name in wanted for job in self.jobs.get(name, [])]


def nodes(gpus: Mapping[str, int], per_node: int) -> dict[str, int]:
    """Return how many nodes each run takes that takes several.

    Args:
        gpus: of each run.
        per_node: GPUs of a node.

    Raises:
        ConfigError: a run's GPUs are not the same number on each node.
    """
    found = {run: math.ceil(count / per_node) for run, count in gpus.items() if count > per_node}
    for run, count in found.items():
        if gpus[run] % count:
            raise ConfigError(
                f"--config: gpus_per_node: {per_node}: {gpus[run]} GPUs of a run cannot be the "
                f"same number on each of {count} nodes; a divisor of {gpus[run]} is accepted"
            )
    return found


def _squeue() -> str:
    """Return ids, names and comments of this user's jobs; nothing where SLURM does not answer."""
    command = ["squeue", "--me", "--noheader", "--format=%A|%j|%k"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout


def read_queue(text: str, name: str = "") -> dict[str, list[str]]:
    """Return job ids by run or "pack RUN", from lines such as ``17|NAME|rule_pack_wildcards_RUN``.

    The comment is that of the executor plugin, which names rule and wildcards in it.

    Args:
        text: of squeue.
        name: what the names of the jobs of interest begin with.
    """
    jobs: dict[str, list[str]] = {}
    for line in text.splitlines():
        job, _, rest = line.partition("|")
        called, _, comment = rest.partition("|")
        if not called.startswith(name):
            continue
        for start, kind in _COMMENTS.items():
            if comment.startswith(start):
                jobs.setdefault(kind + comment.removeprefix(start), []).append(job)
    return jobs


def after(options: str, jobs: Sequence[str]) -> str:
    """Return options of sbatch by which a job does not start before others have ended.

    So that no GPU is held by a job that can only wait for another one's lease on the run.
    """
    dependency = f"--dependency=afterany:{':'.join(jobs)}" if jobs else ""
    return f"{options} {dependency}".strip()
