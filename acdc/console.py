"""What all command lines share: lazy groups, tables, and errors as one line with an exit status."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import click

from acdc.errors import Interrupted, Resumable, SuiteError

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
        rows,
        headings,
        tablefmt="grid",
        maxcolwidths=widths,
        maxheadercolwidths=widths,
        disable_numparse=True,
        break_on_hyphens=False,
    )
    return text


def main(command: Callable[..., Any]) -> None:
    """Run a command; a mistake of the user ends as one sentence and its exit status."""
    try:
        command(standalone_mode=False)
    except (Resumable, Interrupted) as stop:
        click.echo(str(stop), err=True)
        sys.exit(stop.exit_status)
    except SuiteError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(error.exit_status)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        sys.exit(130)
