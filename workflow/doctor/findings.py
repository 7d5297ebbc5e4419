"""What a check finds, and how the checks ask other programs without ever hanging."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from acdc.errors import SuiteError

State = Literal["ok", "warning", "problem", "not checked"]
COMMAND_S = 30.0


@dataclass(frozen=True)
class Finding:
    """One line of the report."""

    check: str
    state: State
    found: str
    remedy: str = ""
    """What to do, one sentence; empty where nothing is wrong."""


class UnansweredError(SuiteError):
    """A program is not there, fails, or says nothing in time."""


def ask(*command: str, environment: Mapping[str, str] | None = None) -> str:
    """Return what a command prints.

    Raises:
        UnansweredError: it cannot be started, fails, or takes longer than half a minute.
    """
    try:
        done = subprocess.run(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=COMMAND_S,
        )
    except subprocess.TimeoutExpired:
        raise UnansweredError(f"{' '.join(command)}: no answer in {COMMAND_S:.0f} s") from None
    except OSError as error:
        raise UnansweredError(f"{command[0]}: {error.strerror}") from None
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()
        reason = said[0] if said else f"status {done.returncode}"
        raise UnansweredError(f"{' '.join(command)}: {reason}")
    return done.stdout


def guarded(check: str, findings: Callable[[], Iterable[Finding]]) -> Iterator[Finding]:
    """Yield what a check finds; its own failure is a finding too, never a traceback."""
    try:
        yield from findings()
    except SuiteError as error:
        yield Finding(check, "problem", str(error), "mend what it names and run the command again")
    except Exception as error:
        yield Finding(
            check,
            "problem",
            f"the check itself failed: {type(error).__name__}: {error}",
            "look into what it names; the other checks stand",
        )
