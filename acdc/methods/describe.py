"""Descriptions of methods and of their contract, for the command line, the reports and the docs."""

from __future__ import annotations

import inspect
import re
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


def contract_table() -> str:
    """Return the hooks of a method as a Markdown table, from the docstrings of SparseMethod."""
    rows = ["| hook | does | called | default |", "|---|---|---|---|"]
    for name, member in vars(SparseMethod).items():
        hook = inspect.isfunction(member) or isinstance(member, classmethod | property)
        if name.startswith("_") or not hook:
            continue
        parameters = ""
        if not isinstance(member, property):
            known = inspect.signature(getattr(member, "__func__", member)).parameters
            parameters = f"({', '.join(key for key in known if key not in ('self', 'cls'))})"
        text = inspect.getdoc(member) or ""
        called, default = (
            re.search(rf"{key}: (.*)\.$", text, re.M) for key in ("Called", "Default")
        )
        if called is None or default is None:
            raise ValueError(f"{name}: its docstring does not say Called and Default")
        does = text.splitlines()[0].removesuffix(".").replace("``", "`")
        rows.append(f"| `{name}{parameters}` | {does} | {called[1]} | {default[1]} |")
    return "\n".join(rows) + "\n"
