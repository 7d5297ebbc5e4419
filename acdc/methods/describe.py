"""Descriptions of methods, for the command line and the reports."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import yaml

from acdc.methods.contract import SparseMethod


@dataclass(frozen=True)
class Setting:
    """One setting of a method."""

    key: str
    """Without the ``settings.`` that stands before it in configurations."""
    default: str
    """As it would be written in a configuration."""
    description: str


def settings(method: type[SparseMethod[Any]]) -> tuple[Setting, ...]:
    """Return the settings of a method, with the docstrings of its ``Settings``."""
    return tuple(
        Setting(
            key,
            "needed" if field.is_required() else _written(field.get_default()),
            " ".join((field.description or "").split()),
        )
        for key, field in method.Settings.model_fields.items()
    )


def _written(value: object) -> str:
    """Return a value as YAML on one line, without the end mark of a bare scalar."""
    return yaml.safe_dump(value, default_flow_style=True, width=10_000).splitlines()[0]


def reference(method: type[SparseMethod[Any]]) -> str:
    """Return the publication of a method, without where its code is."""
    return method.source.partition(" Code:")[0]
