"""Messages about wrong keys of a configuration: ``key=value: problem. Allowed: ...``."""

from __future__ import annotations

import difflib
import reprlib
import unicodedata
from collections.abc import Iterable, Mapping
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from acdc.errors import ConfigError

_LONGEST, _MOST = 200, 10
"""Characters of a value, and errors, that a message has at most."""
_REPR = reprlib.Repr()
_REPR.maxlevel, _REPR.maxstring = 4, 60


def config_error(
    key: str, value: object, problem: str, allowed: str | Iterable[object]
) -> ConfigError:
    """Return the error of a key whose value is wrong: ``key=value: problem. Allowed: ...``.

    A value of None leaves ``=value`` out. ``allowed`` is in words, or the names to choose from.
    """
    given = "" if value is None else f"={shown(value)}"
    return ConfigError(f"{key}{given}: {problem}. {allowed_values(value, allowed)}")


def shown(value: object) -> str:
    """Return a value as one short line, whatever its size."""
    if isinstance(value, dict | list | tuple | set | frozenset):
        # Bounded in each level: a few lines of YAML can stand for billions of values.
        value = _REPR.repr(value)
    try:
        text = str(value)
    except ValueError:  # an integer of thousands of digits
        text = hex(value)  # type: ignore[arg-type]
    text = " ".join(plain(text).split()) if isinstance(value, str) else text
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def plain(text: str) -> str:
    """Return text without control characters, the same for terminals, pages, figures and LaTeX.

    White space of any kind is a space. Other characters that move the cursor, turn the direction of
    writing or show nothing are named by their code point: ``U+001B``.
    """
    return "".join(
        " " if c.isspace() else f"U+{ord(c):04X}" if unicodedata.category(c)[0] == "C" else c
        for c in unicodedata.normalize("NFC", text)
    )


def duration(seconds: float) -> str:
    """Return a duration in words, in two units at most: ``42 s``, ``2 h 05 min``, ``4 d 04 h``."""
    if round(seconds) < 60:
        return f"{round(seconds)} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    hours = round(minutes / 60)
    return f"{hours // 24:,} d {hours % 24:02d} h"


def allowed_values(value: object, allowed: str | Iterable[object]) -> str:
    """Return ``Allowed: ...``; the name that was probably meant is suggested first."""
    if isinstance(allowed, str):
        return f"Allowed: {allowed}"
    names = sorted(str(name) for name in allowed)
    close = difflib.get_close_matches(shown(value), names, n=1)
    hint = f"Did you mean {close[0]!r}? " if close else ""
    return f"{hint}Allowed: {', '.join(names) or 'nothing'}"


def explain(error: ValidationError, schema: type[BaseModel], prefix: str = "") -> str:
    """Return an error of ``schema`` as messages about keys, which have a prefix: ``settings.``."""
    errors = [str(_translate(dict(item), schema, prefix)) for item in error.errors()]
    more = [f"and {len(errors) - _MOST} more"] if len(errors) > _MOST else []
    return "; ".join(errors[:_MOST] + more)


def _translate(item: Mapping[str, Any], schema: type[BaseModel], prefix: str) -> ConfigError:
    location = [str(part) for part in item["loc"] if part != "[key]"]
    key = (prefix + ".".join(location)).removesuffix(".") or "the description"
    value, context = item["input"], item.get("ctx", {})
    given = shown(repr(value) if isinstance(value, str) else value)
    fields = _fields(schema, location[:-1])
    match item["type"]:
        case "extra_forbidden":
            names = allowed_values(location[-1], fields)
            return ConfigError(f"{key}: unknown key. {names}")
        case "missing":
            return ConfigError(f"{key}: missing. Allowed: a value")
        case "value_error":
            return ConfigError(
                f"{key}={given}: {context['error']}" if location else str(context["error"])
            )
        case "literal_error":
            return config_error(key, given, "unknown value", context["expected"])
        case "tuple_type":
            return config_error(key, given, "wrong type", "a list")
        case "model_type" | "model_attributes_type" | "dict_type":
            return config_error(key, given, "wrong type", "a mapping of keys to values")
    field = fields.get(location[-1]) if location else None
    bounds = _bounds(field, context)
    if bounds and item["type"].startswith(("greater", "less", "finite")):
        return config_error(key, given, "out of range", bounds)
    return ConfigError(f"{key}={given}: {item['msg'][:1].lower()}{item['msg'][1:]}")


def _fields(schema: type[BaseModel], location: list[str]) -> dict[str, FieldInfo]:
    """Return the fields of the model at a location, none if there is no model."""
    fields, parts = dict(schema.model_fields), iter(location)
    for part in parts:
        model, contained = _model(fields[part].annotation if part in fields else None)
        if contained:
            next(parts, None)  # its index, or its key in a mapping
        fields = dict(model.model_fields) if model else {}
    return fields


def _model(annotation: Any) -> tuple[type[BaseModel] | None, bool]:
    """Return the model in an annotation, if any, and whether a list or a mapping contains it."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation, False
    for option in get_args(annotation):
        model, contained = _model(option)
        if model is not None:
            return model, contained or get_origin(annotation) in (dict, list, tuple)
    return None, False


_SYMBOLS = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}


def _bounds(field: FieldInfo | None, violated: Mapping[str, Any]) -> str:
    """Return the bounds of a number, such as ``>= 0 and < 1``: the field's or those violated."""
    found = {
        name: getattr(constraint, name)
        for constraint in (field.metadata if field else [])
        for name in _SYMBOLS
        if hasattr(constraint, name)
    } or violated
    return " and ".join(f"{sign} {found[name]}" for name, sign in _SYMBOLS.items() if name in found)
