"""What SLURM has been told to do for the runs of a study, by whomever."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

_RULES = ("train", "train_on_nodes", "pack")
_FRESH_S = 5.0


@dataclass
class Queue:
    """The jobs of this user that are waiting or running, by what they train."""

    asked: float = field(default=float("-inf"), init=False)
    jobs: dict[str, list[str]] = field(default_factory=dict, init=False)

    def of(self, name: str) -> list[str]:
        """Return the ids of the jobs of a run, or of a pack of runs.

        There are some when an earlier controller was killed and its jobs live on, or where SLURM
        has put a job back into its queue that Snakemake has given up.
        """
        if time.monotonic() - self.asked > _FRESH_S:
            self.jobs = read_queue(_squeue())
            self.asked = time.monotonic()
        return self.jobs.get(name, [])


def _squeue() -> str:
    """Return the job ids and comments of this user's jobs; nothing where SLURM does not answer."""
    command = ["squeue", "--me", "--noheader", "--format=%A|%k"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout


def read_queue(text: str) -> dict[str, list[str]]:
    """Return job ids by run from lines such as ``17|rule_train_wildcards_RUN``.

    The comment is that of the executor plugin, which names rule and wildcards in it.
    """
    jobs: dict[str, list[str]] = {}
    for line in text.splitlines():
        job, _, comment = line.partition("|")
        for rule in _RULES:
            name = comment.removeprefix(f"rule_{rule}_wildcards_")
            if name != comment:
                jobs.setdefault(name, []).append(job)
    return jobs


def after(options: str, jobs: Sequence[str]) -> str:
    """Return options of sbatch by which a job does not start before others have ended.

    So that no GPU is held by a job that can only wait for another one's lease on the run.
    """
    dependency = f"--dependency=afterany:{':'.join(jobs)}" if jobs else ""
    return f"{options} {dependency}".strip()
