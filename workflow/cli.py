"""The command ``acdc``: the library's own commands, and those of the rooms above it."""

from __future__ import annotations

from acdc.cli import cli as library
from acdc.console import CONTEXT, Lazy
from acdc.console import main as run

# By name, so that each command starts without the imports of the others.
COMMANDS = {
    **library.lazy,
    "conformance": "conformance.cli:conformance",
    "doctor": "workflow.doctor:doctor",
    "merge": "workflow.merge:merge",
    "plan": "workflow.plan:plan_command",
    "reference": "workflow.reference:reference",
    "reproduce": "workflow.reproduce:reproduce",
    "stale": "workflow.stale:stale",
    "status": "workflow.status:status",
    "study": "study.command:study_command",
    "sync": "tracking.command:sync_command",
    "theory": "theory.command:theory_command",
}

cli = Lazy(
    "acdc",
    commands=library.commands,
    lazy=COMMANDS,
    context_settings=CONTEXT,
    **{key: getattr(library, key) for key in ("params", "help", "epilog")},
)


def main() -> None:
    """Run the command line."""
    run(cli)
