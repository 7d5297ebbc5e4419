"""Another process, here or on a node, that looks at the same files.

``python -m workflow.doctor.peer`` answers questions, a line of JSON each, until its input ends.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import platform
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from acdc.errors import Resumable
from acdc.run.lease import Lease
from workflow.doctor.findings import UnansweredError

SEEN_S = 90.0
"""How long a file is waited for; longer than file systems commonly remember that there is none."""
_POLL_S = 0.005


def who() -> dict[str, Any]:
    """Return this process's host, clock (seconds since 1970) and Python."""
    return {
        "host": os.environ.get("SLURMD_NODENAME") or platform.node(),
        "time": time.time(),
        "python": platform.python_version(),
    }


def exists(path: str) -> bool:
    """Return whether a file is seen from here."""
    return Path(path).exists()


def wait_for(path: str) -> float | None:
    """Return how long it takes until a file is seen from here, in seconds, None if it is not."""
    started = time.monotonic()
    while not Path(path).exists():
        if time.monotonic() - started > SEEN_S:
            return None
        time.sleep(_POLL_S)
    return time.monotonic() - started


def create(path: str) -> bool:
    """Return whether a file could be created that must not be there."""
    try:
        Path(path).touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def link(source: str, path: str) -> bool:
    """Return whether a file could be given another name that must not be there."""
    try:
        Path(path).hardlink_to(source)
    except FileExistsError:
        return False
    return True


def lock(path: str) -> bool:
    """Return whether the lock of a file (flock) is free, and could be taken for a moment."""
    with Path(path).open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


def lease(folder: str) -> str | None:
    """Return who holds the lease of a run's directory, None if it could be taken."""
    try:
        with Lease(Path(folder)).held(0):
            return None
    except Resumable as held:
        return str(held)


def missing_data(scale: str, seeds: int | None, experiments: str | None) -> list[str]:
    """Return a sentence for each data set of a study that is not seen from here."""
    from study.model import load

    return load(scale, seeds, experiments).missing_data()


def gpus() -> dict[str, Any]:
    """Return the version of torch and the names of the GPUs that it sees."""
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    names = [torch.cuda.get_device_name(index) for index in range(count)]
    return {"torch": torch.__version__, "gpus": names}


QUESTIONS: dict[str, Callable[..., Any]] = {
    question.__name__: question
    for question in (who, exists, wait_for, create, link, lock, lease, missing_data, gpus)
}


def serve() -> None:
    """Answer each line of the input with one of the output."""
    for line in sys.stdin:
        question = json.loads(line)
        try:
            told = {"answer": QUESTIONS[question["question"]](**question["arguments"])}
        except Exception as error:
            told = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps({"number": question["number"], **told}), flush=True)


class Peer:
    """The process that answers, and a wait of its own for each answer."""

    def __init__(self, process: subprocess.Popen[bytes], said: Path) -> None:
        self._process = process
        self._said = said
        self._read = b""
        self._number = 0

    def ask(self, question: Callable[..., Any], timeout_s: float = 30.0, **arguments: Any) -> Any:
        """Return what the process answers.

        Raises:
            UnansweredError: it does not answer in time, has ended, or failed.
        """
        self.put(question, **arguments)
        return self.answer(timeout_s)

    def put(self, question: Callable[..., Any], **arguments: Any) -> None:
        """Ask without waiting for the answer."""
        assert self._process.stdin is not None
        self._number += 1
        asked = {"number": self._number, "question": question.__name__, "arguments": arguments}
        with contextlib.suppress(BrokenPipeError):  # whoever waits for the answer is told
            self._process.stdin.write(f"{json.dumps(asked)}\n".encode())
            self._process.stdin.flush()

    def answer(self, timeout_s: float = 30.0) -> Any:
        """Return the answer to the question put last; raises as ``ask`` does."""
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                told = json.loads(self._line(deadline))
            except ValueError:
                continue  # a site's greeting
            # A question that was given up may be answered later.
            if isinstance(told, dict) and told.get("number") == self._number:
                break
        if "error" in told:
            raise UnansweredError(told["error"])
        return told["answer"]

    def _line(self, deadline: float) -> bytes:
        assert self._process.stdout is not None
        while b"\n" not in self._read:
            left = max(0.0, deadline - time.monotonic())
            if not select.select([self._process.stdout], [], [], left)[0]:
                raise UnansweredError("no answer in time" + self._complaint())
            more = os.read(self._process.stdout.fileno(), 65536)
            if not more:
                raise UnansweredError("the process ended" + self._complaint())
            self._read += more
        line, _, self._read = self._read.partition(b"\n")
        return line

    @property
    def said(self) -> str:
        """What the process, or the command that starts it, has complained of."""
        return self._said.read_text(errors="replace").strip()

    def _complaint(self) -> str:
        lines = self.said.splitlines()
        return f": {lines[-1]}" if lines else ""


@contextlib.contextmanager
def peer(
    prefix: Sequence[str] = (), environment: Mapping[str, str] | None = None
) -> Iterator[Peer]:
    """Yield a process that answers, and end it.

    Args:
        prefix: the command that starts it elsewhere, such as srun with its options.
        environment: instead of this process's.
    """
    with tempfile.TemporaryDirectory() as folder:
        said = Path(folder) / "stderr"
        with said.open("wb") as errors:
            process = subprocess.Popen(
                [*prefix, sys.executable, "-m", __name__],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=environment,
                start_new_session=True,  # Ctrl-C is for this process, which ends that one
            )
        try:
            yield Peer(process, said)
        finally:
            _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process: by the end of its input, else as srun understands it, else at once."""
    assert process.stdin is not None
    assert process.stdout is not None
    with contextlib.suppress(BrokenPipeError):
        process.stdin.close()
    for stop in (process.terminate, process.kill, None):
        try:
            process.wait(5)
            break
        except subprocess.TimeoutExpired:
            if stop is not None:
                stop()
    process.stdout.close()


if __name__ == "__main__":
    serve()
