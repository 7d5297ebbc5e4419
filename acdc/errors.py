"""The errors that a user can cause, each one sentence long, and the exit statuses they end with."""

from __future__ import annotations


class SuiteError(Exception):
    """A mistake or a condition that the user can mend; its text is one clear sentence."""

    exit_status = 1


class ConfigError(SuiteError):
    """The description of a run or a study is wrong: the key, the value, what is accepted."""

    exit_status = 2


class DataError(SuiteError):
    """A data file is missing or is not what its checksum says."""

    exit_status = 3


class RunDirectoryError(SuiteError):
    """A run directory cannot be written, or belongs to another run."""

    exit_status = 4


class CheckpointError(SuiteError):
    """A checkpoint is damaged or belongs to another run."""

    exit_status = 5
