"""Errors that end a command with one sentence, and their exit statuses."""

from __future__ import annotations

EXIT_STATUSES = """\
0    done
1    an unexpected error, with its traceback; a check that does not hold
2    a wrong option, configuration or environment
3    a data file is missing or damaged
4    a file, folder or standard stream cannot be read or written
5    a checkpoint is damaged or belongs to another run
6    a run diverged; its result records it
7    the device ran out of memory
8    the device does not work
9    the MLflow store is down, locked or refuses access
75   stopped, or locked by another process: rerun the command to resume
130  interrupted from the keyboard: rerun the command to resume
"""
"""What the exit status of a command means; torchrun's own is 0 or 1."""


class SuiteError(Exception):
    """An error that the user can fix; its text is one clear sentence."""

    exit_status = 1
    recurs = False
    """Whether a retry would end in the same error."""


class ConfigError(SuiteError):
    """A wrong configuration: names the key, the value and what is allowed."""

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
    """The GPU of this job does not work; another node's may."""

    exit_status = 8


class Resumable(SuiteError):
    """The run was stopped, or another process trains it; rerun the command to resume."""

    exit_status = 75


class Interrupted(SuiteError):
    """Stopped from the keyboard, after a checkpoint."""

    exit_status = 130


class Diverged(Exception):
    """The loss became infinite or NaN; the run ends as diverged, not as an error."""

    exit_status = 6

    def __init__(self, epoch: int, what: str) -> None:
        super().__init__(f"{what} in epoch {epoch}")
        self.epoch = epoch
