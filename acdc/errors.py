"""The ways in which a command ends early, each one sentence long, and their exit statuses.

==== =========================================================================================
0    done
1    an error that nobody foresaw, with its traceback
2-5  a mistake or a condition that the user can mend
6    the run diverged, and its result says so
7    the device ran out of memory
8    the device does not work
75   interrupted or in another's hands: the same command goes on where it stopped (EX_TEMPFAIL)
130  interrupted from the keyboard, likewise
==== =========================================================================================
"""

from __future__ import annotations


class SuiteError(Exception):
    """A mistake or a condition that the user can mend; its text is one clear sentence."""

    exit_status = 1
    recurs = False
    """Whether the same command would end so again, whatever becomes of its surroundings."""


class ConfigError(SuiteError):
    """The description of a run or a study is wrong: the key, the value, what is accepted."""

    exit_status = 2
    recurs = True


class DataError(SuiteError):
    """A data file is missing or is not what its checksum says."""

    exit_status = 3
    recurs = True


class RunDirectoryError(SuiteError):
    """A run directory cannot be written, or belongs to another run."""

    exit_status = 4


class CheckpointError(SuiteError):
    """A checkpoint is damaged or belongs to another run."""

    exit_status = 5
    recurs = True


class DeviceMemoryError(SuiteError):
    """The run does not fit the device's memory."""

    exit_status = 7
    recurs = True


class DeviceError(SuiteError):
    """A GPU that was granted does not work; another node's may."""

    exit_status = 8


class Resumable(SuiteError):
    """The run was stopped, or is in other hands; starting it again goes on with it."""

    exit_status = 75


class Interrupted(SuiteError):
    """Stopped from the keyboard, after a checkpoint."""

    exit_status = 130


class Diverged(Exception):
    """Training has left the finite numbers; the run ends as diverged, not as an error."""

    exit_status = 6

    def __init__(self, epoch: int, what: str) -> None:
        super().__init__(f"{what} in epoch {epoch}")
        self.epoch = epoch
