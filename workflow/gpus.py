"""The GPUs of one machine, each for one training job at a time.

    python -m workflow.gpus COUNT COMMAND...

Snakemake starts as many jobs as there are GPUs, but does not know which are free. This waits for as
many of those in ``ACDC_GPUS`` as the job takes, and becomes the command, with them as
``CUDA_VISIBLE_DEVICES``. They are free again when it ends, whatever ends it, and are shared by no
two suites of a user.
"""

from __future__ import annotations

import fcntl
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from acdc.messages import config_error

GPUS = "ACDC_GPUS"
"""Environment variable: the GPUs that jobs share, by the names that CUDA knows, with commas."""
_POLL_S = 0.2


def found() -> list[str]:
    """Return the GPUs that this process may use, none if there are none."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        command = ["nvidia-smi", "--query-gpu=uuid", "--format=csv,noheader"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
        except (OSError, subprocess.SubprocessError):
            return []
        return done.stdout.split()
    names = [name.strip() for name in visible.split(",")]
    # CUDA ignores what follows a name that it does not know.
    return names[: next((i for i, name in enumerate(names) if name in ("", "-1")), None)]


def share(limit: int | None) -> int:
    """Let the jobs of this process share its GPUs, and return how many there are.

    Args:
        limit: GPUs to use; None: all.

    Raises:
        ConfigError: there are fewer.
    """
    names = found()
    if limit is not None and limit > len(names):
        problem = f"{len(names)} GPUs here"
        raise config_error("--config gpus", limit, problem, f"at most {len(names)}, or none given")
    os.environ[GPUS] = ",".join(names[:limit])
    return len(names[:limit])


def take(names: Sequence[str], count: int) -> list[str]:
    """Take GPUs until this process ends; wait until as many are free."""
    folder = Path(tempfile.gettempdir(), f"acdc-gpus-{os.getuid()}")
    folder.mkdir(mode=0o700, exist_ok=True)
    while True:
        held: dict[str, int] = {}
        for name in names:
            file = os.open(folder / re.sub(r"\W", "_", name), os.O_CREAT | os.O_RDWR, 0o600)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                os.close(file)
                continue
            held[name] = file
            if len(held) == count:
                for each in held.values():
                    os.set_inheritable(each, True)
                return list(held)
        for each in held.values():
            os.close(each)
        # Not all at the same moment, of which each would take a part.
        time.sleep(_POLL_S * (1 + os.getpid() % 7))


def main(count: int, command: Sequence[str]) -> None:
    """Become a command on GPUs of its own."""
    for number in (signal.SIGTERM, signal.SIGUSR1):
        # The shell has them ignored, so that only the run answers them; it has not begun.
        signal.signal(number, lambda *_: sys.exit(75))
    names = take(os.environ[GPUS].split(","), count)
    print(f"GPU {', '.join(names)}", file=sys.stderr, flush=True)
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(names)
    os.execvp(command[0], list(command))


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
