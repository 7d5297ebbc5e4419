"""Facts about a site that another process sees, on this host or on a compute node."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from acdc.data import DATASETS
from acdc.errors import Resumable, SuiteError
from acdc.run.lease import Lease

Facts = Mapping[str, Any]
"""What ``probe`` has seen."""
VISIBLE_S = 90.0
"""How long a new file is waited for; NFS caches the absence of a file for 30 to 60 s."""
MINUTES = 15
"""How long a probe may take, with the time in the queue."""


@contextlib.contextmanager
def scratch(results: Path) -> Iterator[Path]:
    """Yield a temporary folder in that of the results; remove what was made for it."""
    made = [path for path in (results, *results.parents) if not path.exists()]
    results.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(prefix=".doctor-", dir=results.absolute()) as name:
            yield Path(name)
    finally:
        for path in made:
            with contextlib.suppress(OSError):  # in use by now
                path.rmdir()


def probe(folder: Path, datasets: Sequence[str]) -> Facts:
    """Return what this process sees; ``look_from``, which started it, waits in the folder.

    It waits for the file ``there`` and answers with the file ``back``.
    """
    facts: dict[str, Any] = {"host": platform.node(), "shared": folder.is_dir()}
    if facts["shared"]:
        back = folder / "back"
        back.exists()  # its absence is cached, as when Snakemake looks before a job
        (folder / "there").touch()
        started = time.monotonic()
        while not back.exists() and time.monotonic() - started < VISIBLE_S:
            time.sleep(0.01)
        facts["seen"], facts["time"] = back.exists(), time.time()
        facts["round_trip_s"] = time.monotonic() - started
        facts["leased"] = _holds(Lease(folder).held(0))
        facts["locked"] = _holds(FileLock(folder / "lock", timeout=0))
    missing = {name: DATASETS[name].missing() for name in datasets}
    facts["missing"] = {name: reason for name, reason in missing.items() if reason}
    import torch

    facts["torch"], facts["cuda"] = torch.__version__, torch.version.cuda or torch.version.hip
    facts["gpus"] = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return facts


def _holds(lock: contextlib.AbstractContextManager[object]) -> bool:
    try:
        with lock:
            return True
    except (Resumable, Timeout):
        return False


def look_from(prefix: Sequence[str], datasets: Sequence[str], results: Path) -> Facts:
    """Return what ``probe`` sees in another process, while this one holds a lease and a lock.

    Args:
        prefix: the command that starts it elsewhere, such as srun with its options.
        datasets: names of data sets to look for.
        results: the folder of all results.

    Raises:
        SuiteError: it does not start, or fails.
    """
    # Nothing that would bind srun to the job in which this process may run.
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("SLURM_")}
    inherited |= {"SLURM_CONF": os.environ["SLURM_CONF"]} if "SLURM_CONF" in os.environ else {}
    created = 0.0
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(scratch(results))
        stack.enter_context(Lease(folder).held(0))
        stack.enter_context(FileLock(folder / "lock"))
        out, complaints = (stack.enter_context(tempfile.TemporaryFile("w+")) for _ in range(2))
        command = [*prefix, sys.executable, "-m", __name__, str(folder), *datasets]
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=out, stderr=complaints, env=inherited
        )
        deadline = time.monotonic() + 60 * MINUTES
        while process.poll() is None:
            if not created and (folder / "there").exists():
                created = time.time()
                (folder / "back").touch()
            if time.monotonic() > deadline:
                process.terminate()
            time.sleep(0.01)
        out.seek(0)
        complaints.seek(0)
        try:
            facts = json.loads(out.read().strip().rpartition("\n")[2])
        except ValueError:
            raise SuiteError(complaints.read().strip().rpartition("\n")[2]) from None
    return {**facts, "skew_s": facts.get("time", created) - created}


if __name__ == "__main__":
    print(json.dumps(probe(Path(sys.argv[1]), sys.argv[2:])))
