"""One run on several processes: torchrun starts the ranks, on several nodes under srun."""

from __future__ import annotations

import os
import platform
import signal
import subprocess
import sys
from collections.abc import Sequence
from typing import NoReturn

from acdc.messages import config_error
from acdc.run.signals import SIGNALS

_TORCHRUN = (
    *(sys.executable, "-m", "torch.distributed.run"),
    # A scheduler may signal torchrun alone: it signals the ranks, and waits for their checkpoint.
    *("--signals-to-handle=SIGTERM,SIGINT,SIGUSR1", "--shutdown-timeout=90", "--max-restarts=0"),
)
# Without the dashes torchrun would take some of our options for short forms of its own.
_ACDC = ("-m", "--", "acdc")


def exec_torchrun(processes: int, arguments: Sequence[str]) -> NoReturn:
    """Become a torchrun that starts ``acdc`` with these arguments in processes of this machine.

    The exit status is torchrun's: 0, or 1 whatever a rank ended with.
    """
    os.environ.setdefault("OMP_NUM_THREADS", str(max((os.cpu_count() or 1) // processes, 1)))
    placement = ("--standalone", f"--nproc-per-node={processes}")
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, [*_TORCHRUN, *placement, *_ACDC, *arguments])


def run_on_nodes(nodes: int, processes: int, arguments: Sequence[str]) -> int:
    """Start a torchrun on each node of this SLURM job; return the exit status.

    ``processes`` is their number over all nodes.

    Raises:
        ConfigError: this is no SLURM job.
    """
    job = os.environ.get("SLURM_JOB_ID")
    if job is None:
        raise config_error("--nodes", nodes, "not within a SLURM job", "1, or a job of SLURM")
    step = ("srun", f"--nodes={nodes}", f"--ntasks={nodes}", "--ntasks-per-node=1")
    placement = (
        *(f"--nnodes={nodes}", f"--nproc-per-node={processes // nodes}", "--rdzv-backend=c10d"),
        # This process is on the first of the nodes. Two jobs may share it, hence the port.
        *(f"--rdzv-endpoint={platform.node()}:{_port(job)}", f"--rdzv-id={job}"),
    )
    # srun would take the batch script's own share of the job for what the step asks for.
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("SLURM_", "SRUN_")) or name in ("SLURM_JOB_ID", "SLURM_CONF")
    }
    threads = max((os.cpu_count() or 1) * nodes // processes, 1)
    environment.setdefault("OMP_NUM_THREADS", str(threads))
    command = [*step, "--kill-on-bad-exit=1", *_TORCHRUN, *placement, *_ACDC, *arguments]
    process = subprocess.Popen(command, env=environment)
    # Signals reach the ranks through SLURM; this process waits for these.
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    status = process.wait()
    return status if status >= 0 else 128 - status


def _port(job: str) -> int:
    """Return a port that follows from the job, below those that the system hands out."""
    return 20000 + int(job) % 10000
