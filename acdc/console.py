"""What all command lines share: lazy groups, tables, and errors as one line with an exit status."""

from __future__ import annotations

import contextlib
import math
import os
import sys
from collections.abc import Callable
from pathlib import Path
from textwrap import indent
from typing import Any

import click

from acdc.errors import EXIT_STATUSES, Interrupted, Resumable, RunDirectoryError, SuiteError
from acdc.messages import plain, shown

EXIT_OS = RunDirectoryError.exit_status
EPILOG = f"\b\nExit status:\n{indent(EXIT_STATUSES, '  ')}"
CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


class Lazy(click.Group):
    """A group whose subcommands are imported when they are called, so that each starts fast."""

    def __init__(self, *args: Any, lazy: dict[str, str] | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.lazy = lazy or {}

    def list_commands(self, context: click.Context) -> list[str]:
        return sorted([*super().list_commands(context), *self.lazy])

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name in self.lazy:
            import importlib

            module, attribute = self.lazy[name].split(":")
            command: click.Command = getattr(importlib.import_module(module), attribute)
            return command
        return super().get_command(context, name)


def table(headings: list[str], rows: list[list[Any]], widths: list[int]) -> str:
    """Return rows as a table for a terminal, each column wrapped to its width."""
    from tabulate import tabulate

    text: str = tabulate(
        [[plain(str(cell)) for cell in row] for row in rows],
        headings,
        tablefmt="grid",
        maxcolwidths=widths,
        maxheadercolwidths=widths,
        disable_numparse=True,
        break_on_hyphens=False,
    )
    return text


class Seconds(click.FloatRange):
    """A duration: finite, of at most a year, and not negative, or above zero if so wanted."""

    def __init__(self, positive: bool = False) -> None:
        super().__init__(0, 31_536_000, min_open=positive)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        seconds = super().convert(value, param, ctx)
        if not math.isfinite(seconds):
            self.fail(f"{value} is not a number of seconds.", param, ctx)
        return seconds


class PathName(click.Path):
    """A path, which the empty text is not."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value == "":
            self.fail("the empty text is no path.", param, ctx)
        return super().convert(value, param, ctx)


RESULTS = click.option(
    "--results",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("results"),
    show_default=True,
    help="Folder of all results.",
)
"""Where the commands of the suite find the studies."""


def main(command: Callable[..., Any]) -> None:
    """Run a command and exit with its status; an error that is foreseen ends as one sentence."""
    _open_closed_streams()
    status, text = _outcome(command)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError as error:
            # Or the interpreter would try again at its exit, and fail.
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
            if not status:
                status, text = EXIT_OS, _sentence(error)
    if text:
        with contextlib.suppress(OSError):
            click.echo(text, err=True)
    sys.exit(status)


def _outcome(command: Callable[..., Any]) -> tuple[int | str | None, str]:
    """Run a command; return its exit status and what is left to be said on standard error."""
    try:
        Path.cwd()  # fails where it was removed
        command(standalone_mode=False)
    except SystemExit as end:
        return end.code, ""
    except (Resumable, Interrupted) as stop:
        return stop.exit_status, str(stop)
    except SuiteError as error:
        return error.exit_status, f"error: {error}"
    except click.ClickException as error:
        with contextlib.suppress(OSError):
            error.show()
        return error.exit_code, ""
    except (click.Abort, KeyboardInterrupt):
        return Interrupted.exit_status, "interrupted"
    except OSError as error:
        return EXIT_OS, _sentence(error)
    return 0, ""


def _sentence(error: OSError) -> str:
    """Return an error of the system as one sentence, nothing if a reader such as head has left."""
    if isinstance(error, BrokenPipeError):
        return ""
    place = error.filename or "a standard stream, a temporary file or the working directory"
    return f"error: {shown(place)} cannot be used: {error.strerror or error}"


def _open_closed_streams() -> None:
    """Open standard streams that are closed (``2>&-``), so that no file takes their place."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) < 3:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, Path(os.devnull).open(mode))  # noqa: SIM115
        elif hasattr(stream, "reconfigure"):
            # Names of files and labels may be beyond the terminal's encoding.
            stream.reconfigure(errors="backslashreplace")
