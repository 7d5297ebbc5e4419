"""The jobs that SLURM has for a study, whichever controller submitted them."""

from __future__ import annotations

import contextlib
import hashlib
import math
import shutil
import subprocess
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from acdc.errors import Resumable
from acdc.messages import config_error

# The beginning of a job's comment, before the name of the training job.
_COMMENTS = ("rule_train_wildcards_", "rule_train_on_nodes_wildcards_")
_FRESH_S = 5.0
_COMMANDS = ("sbatch", "squeue", "scancel")


def job_name(folder: Path) -> str:
    """Return the beginning of the names of all jobs of a study's folder."""
    return f"acdc_{hashlib.sha256(str(folder.absolute()).encode()).hexdigest()[:12]}"


@dataclass
class Queue:
    """The waiting and running jobs of a study's folder."""

    name: str
    """Beginning of their names."""
    asked: float = field(default=float("-inf"), init=False)
    jobs: dict[str, list[str]] = field(default_factory=dict, init=False)

    def begin(self, executor: Any) -> None:
        """Make sure that SLURM answers, and make its executor use that name.

        Snakemake has no setting for the name, and would wait forever for a SLURM that is not there.

        Args:
            executor: of Snakemake, before its first job; other executors are left alone.

        Raises:
            ConfigError: SLURM's commands are not on the PATH.
            Resumable: SLURM does not answer.
        """
        if not hasattr(executor, "run_uuid"):
            return
        if missing := [name for name in _COMMANDS if shutil.which(name) is None]:
            problem = f"no SLURM here, not on the PATH: {', '.join(missing)}"
            raise config_error("executor", "slurm", problem, "on a login node, see acdc doctor")
        try:
            _squeue()
        except (OSError, subprocess.SubprocessError) as error:
            said = str(getattr(error, "stderr", "") or error).strip()
            reason = said.splitlines()[-1]
            raise Resumable(f"SLURM does not answer: {reason}. Retry later") from None
        executor.run_uuid = f"{self.name}_{uuid.uuid4()}"

    def of(self, jobs: Iterable[str]) -> list[str]:
        """Return SLURM's ids of training jobs by their names.

        There are some when an earlier controller was killed and its jobs live on, or where SLURM
        has requeued a job that Snakemake has given up.
        """
        if time.monotonic() - self.asked > _FRESH_S:
            with contextlib.suppress(OSError, subprocess.SubprocessError):
                self.jobs = read_queue(_squeue(), self.name)
            self.asked = time.monotonic()
        return [number for name in jobs for number in self.jobs.get(name, [])]


def nodes(gpus: Mapping[str, int], per_node: int) -> dict[str, int]:
    """Return the number of nodes of each run that needs several.

    Args:
        gpus: GPUs of each run.
        per_node: GPUs of a node.

    Raises:
        ConfigError: the GPUs of a run cannot be spread equally.
    """
    found = {run: math.ceil(count / per_node) for run, count in gpus.items() if count > per_node}
    for run, count in found.items():
        if gpus[run] % count:
            problem = f"{gpus[run]} GPUs of a run cannot be spread equally over {count} nodes"
            raise config_error("gpus_per_node", per_node, problem, f"divisors of {gpus[run]}")
    return found


def _squeue() -> str:
    """Return ids, names and comments of this user's jobs."""
    command = ["squeue", "--me", "--noheader", "--format=%A|%j|%k"]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout


def read_queue(text: str, name: str = "") -> dict[str, list[str]]:
    """Return SLURM's ids by training job, from lines such as ``17|NAME|rule_train_wildcards_JOB``.

    The third column is the comment of the executor plugin, which names rule and wildcards in it.

    Args:
        text: output of squeue.
        name: beginning of the names of the jobs of interest.
    """
    jobs: dict[str, list[str]] = {}
    for line in text.splitlines():
        number, _, rest = line.partition("|")
        called, _, comment = rest.partition("|")
        for start in _COMMENTS:
            if called.startswith(name) and comment.startswith(start):
                jobs.setdefault(comment.removeprefix(start), []).append(number)
    return jobs


def after(options: str, jobs: Sequence[str]) -> str:
    """Return options of sbatch with which a job does not start before others have ended.

    Otherwise it would hold a GPU while it waits for the other's lease on the run.
    """
    dependency = f"--dependency=afterany:{':'.join(jobs)}" if jobs else ""
    return f"{options} {dependency}".strip()
