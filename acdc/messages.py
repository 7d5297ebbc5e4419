"""Error messages about keys and values: what is wrong, and what is allowed."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from acdc.errors import ConfigError


def config_error(
    key: str, value: object, problem: str, allowed: str | Iterable[object]
) -> ConfigError:
    """Return the error of a key whose value is wrong: ``key=value: problem. Allowed: ...``.

    Args:
        key: as the user wrote it, such as ``settings.begin``.
        value: what it holds; None where it is missing, which leaves ``=value`` out.
        problem: what is wrong, a few words.
        allowed: what would be right, in words, or the names to choose from.
    """
    given = "" if value is None else f"={value}"
    return ConfigError(f"{key}{given}: {problem}. {allowed_values(value, allowed)}")


def allowed_values(value: object, allowed: str | Iterable[object]) -> str:
    """Return ``Allowed: ...``; of names the one that was probably meant is suggested first."""
    if isinstance(allowed, str):
        return f"Allowed: {allowed}"
    names = sorted(str(name) for name in allowed)
    close = difflib.get_close_matches(str(value), names, n=1)
    hint = f"Did you mean {close[0]!r}? " if close else ""
    return f"{hint}Allowed: {', '.join(names) or 'nothing'}"


def accepted(value: str, names: Iterable[str]) -> str:
    """Return the end of a sentence: the names there are, first the one that was perhaps meant."""
    names = sorted(names)
    close = difflib.get_close_matches(value, names, n=1)
    hint = f"did you mean {close[0]}? " if close else ""
    return f"{hint}{', '.join(names) or 'no keys'} are accepted"


_MESSAGES = {
    "finite_number": "a finite number is accepted",
    "greater_than": "more than {gt} is accepted",
    "greater_than_equal": "{ge} or more is accepted",
    "less_than": "less than {lt} is accepted",
    "less_than_equal": "{le} or less is accepted",
    "literal_error": "{expected} are accepted",
}


def explain(error: ValidationError, schema: type[BaseModel], prefix: str = "") -> str:
    """Return a validation error as plain sentences, one a wrong key, joined by semicolons."""
    return "; ".join(_explain_one(dict(item), schema, prefix) for item in error.errors())


def _explain_one(item: dict[str, Any], schema: type[BaseModel], prefix: str) -> str:
    location = [str(part) for part in item["loc"]]
    key = (prefix + ".".join(location)).removesuffix(".") or "the description"
    kind = item["type"]
    if kind == "extra_forbidden":
        return f"{key}: unknown key; {accepted(location[-1], _keys_at(schema, location[:-1]))}"
    if kind == "missing":
        return f"{key}: missing; a value is needed"
    value = repr(item["input"])
    bounds = _bounds_at(schema, location)
    if kind in _MESSAGES and bounds:
        return f"{key}: {value} is out of range; {bounds} is accepted"
    context = item.get("ctx", {})
    if kind in _MESSAGES:
        return f"{key}: got {value}; {_MESSAGES[kind].format(**context)}"
    if kind == "value_error":
        return f"{key}: {value} {context['error']}" if location else str(context["error"])
    if kind in ("model_type", "model_attributes_type", "dict_type"):
        return f"{key}: got {value}; a mapping of keys to values is accepted"
    return f"{key}: got {value}; {item['msg'][:1].lower()}{item['msg'][1:]}"


def _schema_at(schema: type[BaseModel], location: list[str]) -> type[BaseModel] | None:
    current: type[BaseModel] | None = schema
    for part in location:
        field = current.model_fields.get(part) if current else None
        annotation = field.annotation if field else None
        current = next(
            (
                option
                for option in (annotation, *get_args(annotation))
                if isinstance(option, type) and issubclass(option, BaseModel)
            ),
            None,
        )
    return current


def _keys_at(schema: type[BaseModel], location: list[str]) -> list[str]:
    owner = _schema_at(schema, location)
    return list(owner.model_fields) if owner else []


def _bounds_at(schema: type[BaseModel], location: list[str]) -> str:
    """Return the accepted interval of a number, such as ``[0, 1)``, or nothing."""
    owner = _schema_at(schema, location[:-1])
    field = owner.model_fields.get(location[-1]) if owner and location else None
    if field is None:
        return ""
    low, high = "(-inf", "inf)"
    for constraint in field.metadata:
        for name, text in (("ge", "[{}"), ("gt", "({}")):
            if getattr(constraint, name, None) is not None:
                low = text.format(getattr(constraint, name))
        for name, text in (("le", "{}]"), ("lt", "{})")):
            if getattr(constraint, name, None) is not None:
                high = text.format(getattr(constraint, name))
    return "" if (low, high) == ("(-inf", "inf)") else f"{low}, {high}"
