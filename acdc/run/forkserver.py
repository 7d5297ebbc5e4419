"""A process that has torch and the suite imported, and forks itself for each run of a workflow.

Importing torch takes longer than a miniature run takes to train. ``python -m acdc.run.forkserver``
runs a command, such as Snakemake, and while that lasts carries out every ``acdc train`` that it
starts: the started process only hands over its arguments, folder, environment and standard streams,
passes on signals, and ends with the status of the run.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

VARIABLE = "ACDC_NURSERY"
_LENGTH = struct.Struct("!I")
_POLL_S = 0.05
_RESUME_ME = 75
_PASSED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


def hand_over(arguments: list[str]) -> int | None:
    """Have a nursery carry out ``acdc`` with these arguments, and return its exit status.

    Returns none where there is no nursery, or it is not for this command. Imports nothing slow.
    """
    path = os.environ.get(VARIABLE)
    if not path or arguments[:1] != ["train"]:
        return None
    with socket.socket(socket.AF_UNIX) as connection:
        try:
            connection.connect(path)
            content = {
                "arguments": arguments,
                "folder": str(Path.cwd()),
                "environment": dict(os.environ),
            }
            message = json.dumps(content).encode()
            socket.send_fds(connection, [_LENGTH.pack(len(message))], [0, 1, 2])
            connection.sendall(message)
            answers = connection.makefile("r")
            first = answers.readline()
        except OSError:
            return None
        if not first:
            return None
        child = int(first)

        def pass_on(number: int, frame: FrameType | None) -> None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, number)

        for number in _PASSED_ON:
            signal.signal(number, pass_on)
        last = answers.readline()
    # Without an answer the nursery is gone; whoever starts the run again goes on with it.
    return int(last) if last else _RESUME_ME


class Nursery:
    """Listens for commands, and has a child of its own for each."""

    def __init__(self, listener: socket.socket) -> None:
        self.listener = listener
        self.selector = selectors.DefaultSelector()
        self.selector.register(listener, selectors.EVENT_READ)
        self.children: dict[int, socket.socket] = {}

    def serve(self, command: subprocess.Popen[bytes]) -> None:
        """Carry out what is handed over until a command has ended."""
        while command.poll() is None:
            for key, _ in self.selector.select(_POLL_S):
                if key.fileobj is self.listener:
                    self._begin(self.listener.accept()[0])
                else:
                    # Whoever waited for this child has been killed: it ends, with a checkpoint.
                    self.selector.unregister(key.fileobj)
                    os.kill(key.data, signal.SIGTERM)
            self._reap()

    def _begin(self, connection: socket.socket) -> None:
        streams: list[int] = []
        try:
            connection.settimeout(10)
            header, streams, _, _ = socket.recv_fds(connection, _LENGTH.size, 3)
            message = b""
            while len(message) < _LENGTH.unpack(header)[0]:
                message += connection.recv(1 << 16) or _raise(EOFError())
            task = json.loads(message)
            sys.stdout.flush()
            sys.stderr.flush()
            child = os.fork()
            if child == 0:
                connection.close()
                self._carry_out(task, streams)
        except (OSError, EOFError, ValueError, struct.error):
            connection.close()  # killed while it spoke, or no process to be had: it helps itself
            return
        finally:
            for stream in streams:
                os.close(stream)
        self.children[child] = connection
        self.selector.register(connection, selectors.EVENT_READ, child)
        _say(connection, child)

    def _carry_out(self, task: dict[str, Any], streams: list[int]) -> NoReturn:
        """Be the process that was started: the child's part."""
        status = 1
        try:
            self.listener.close()
            self.selector.close()
            for connection in self.children.values():
                connection.close()
            for number, stream in enumerate(streams):
                os.dup2(stream, number)
                os.close(stream)
            os.chdir(task["folder"])
            os.environ.clear()
            os.environ.update(task["environment"])
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            sys.argv = ["acdc", *task["arguments"]]
            status = _status_of_main()
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(status)

    def end(self) -> None:
        """Ask what is still at work to save a checkpoint and end, and wait for it."""
        for child in self.children:
            os.kill(child, signal.SIGTERM)
        while self.children:
            self._reap()
            time.sleep(_POLL_S)

    def _reap(self) -> None:
        for child, connection in list(self.children.items()):
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                del self.children[child]
                with contextlib.suppress(KeyError):
                    self.selector.unregister(connection)
                code = os.waitstatus_to_exitcode(status)
                _say(connection, code if code >= 0 else 128 - code)
                connection.close()


def _raise(error: Exception) -> NoReturn:
    raise error


def _say(connection: socket.socket, number: int) -> None:
    with contextlib.suppress(OSError):
        connection.sendall(f"{number}\n".encode())


def _status_of_main() -> int:
    from acdc.cli import cli
    from acdc.console import main

    try:
        main(cli)
    except SystemExit as error:
        if error.code is None or isinstance(error.code, int):
            return error.code or 0
        sys.stderr.write(f"{error.code}\n")
        return 1
    except BaseException:
        sys.excepthook(*sys.exc_info())
        return 1
    return 0


def _import_all() -> None:
    """Import what a run needs, without starting a thread, which a fork would lose."""
    import gc

    os.environ["OPENBLAS_NUM_THREADS"] = "1"  # read when numpy is imported

    import acdc.cli
    import acdc.run.lifecycle  # noqa: F401
    from acdc.methods.registry import get_method, method_names

    for name in method_names():
        get_method(name)
    gc.freeze()  # children share these objects' memory as long as nobody writes to it


def main() -> int:
    """Run a command and carry out the runs that it starts; return its status."""
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    with tempfile.TemporaryDirectory(prefix="acdc-") as folder:
        path = str(Path(folder) / "nursery")
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path)
            listener.listen(64)
            # Those that are early wait for the imports, which take as long as theirs would.
            command = subprocess.Popen(sys.argv[1:], env={**os.environ, VARIABLE: path})
            signal.signal(signal.SIGTERM, lambda number, frame: command.terminate())
            _import_all()
            nursery = Nursery(listener)
            try:
                nursery.serve(command)
            finally:
                nursery.end()
    return command.returncode if command.returncode >= 0 else 128 - command.returncode


if __name__ == "__main__":
    sys.exit(main())
