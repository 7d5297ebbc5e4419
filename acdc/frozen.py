"""The base of all validated values, and the fingerprint of plain data."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Frozen(BaseModel):
    """A validated, immutable value.

    Unknown keys are errors, and so are texts and booleans in the place of numbers, NaN and
    infinity.
    """

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        use_attribute_docstrings=True,
        allow_inf_nan=False,
    )

    @model_validator(mode="before")
    @classmethod
    def _lists_are_tuples(cls, data: Any) -> Any:
        """Take the lists of YAML and JSON where a strict model has tuples."""
        return tuples(data)


def added(default: Any, **constraints: Any) -> Any:
    """Return a field for a key that finished runs do not know: at its default, plain data omit it.

    The fingerprints of these runs stand, so that none is trained again.
    """
    return Field(default=default, exclude_if=lambda value: value == default, **constraints)


def tuples(value: Any) -> Any:
    """Return a value with tuples in the place of lists."""
    if isinstance(value, list | tuple):
        return tuple(map(tuples, value))
    if isinstance(value, dict):
        return {key: tuples(item) for key, item in value.items()}
    return value


def fingerprint(plain: Mapping[str, Any]) -> str:
    """Return twelve hexadecimal digits that identify plain data, a resolved configuration."""
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:12]
