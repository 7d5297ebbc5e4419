"""What ``--config`` and a profile's configuration say, taken as it was typed."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from acdc.errors import ConfigError
from acdc.messages import config_error
from study.resolve import LARGEST, whole_number

CHOICES = ("experiment", "row", "method", "sparsity", "model", "dataset")
"""Criteria of the target ``trained``, which makes the runs that match all of them."""
FOLDERS = ("results", "data", "experiments")


def read_settings(config: Mapping[str, Any], words: Iterable[str]) -> dict[str, Any]:
    """Return the settings of the workflow; those that are not given and have no default are absent.

    Snakemake makes numbers of words such as ``2026_11`` and None of an empty one. What is on its
    command line is therefore read as text.

    Args:
        config: as Snakemake has parsed it, files included.
        words: ``KEY=VALUE`` of its option ``--config``.

    Raises:
        ConfigError: a key is unknown, or its value is not what it has to be.
    """
    typed = {key: text for key, _, text in (word.partition("=") for word in words)}
    found: dict[str, Any] = {"scale": "smoke", "results": "results", "gpus_per_node": 8}
    for key, value in {**config, **typed}.items():
        if key not in _KINDS:
            raise config_error(f"--config {key}", value, "unknown key", _KINDS)
        try:
            found[key] = _KINDS[key](value)
        except (TypeError, ValueError, ConfigError):
            allowed = _ALLOWED[_KINDS[key]]
            raise config_error(f"--config {key}", value, "wrong value", allowed) from None
    return found


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError
    return value


def _folder(value: Any) -> str:
    # Snakemake would take braces for wildcards.
    if re.search(r"[{}\n]", _text(value)):
        raise ValueError
    return str(value)


def _options(value: Any) -> str:
    if not isinstance(value, str | None):
        raise ValueError
    return value or ""


def _count(value: Any) -> int:
    if isinstance(value, str) and re.fullmatch("[1-9][0-9]*", value):
        value = int(value)
    return whole_number(value, "")


def _fraction(value: Any) -> float:
    number = float(value)
    if isinstance(value, bool) or not 0 <= number < 1 or "_" in str(value):
        raise ValueError
    return number


_ALLOWED: dict[Callable[[Any], Any], str] = {
    _text: "text, in quotes where YAML would read it as something else",
    _folder: "the path of a folder, without { and }",
    _options: "options of sbatch",
    _count: f"a whole number from 1 to {LARGEST}",
    _fraction: "a number >= 0 and < 1",
}
_KINDS: dict[str, Callable[[Any], Any]] = {
    **{"scale": _text, **dict.fromkeys(FOLDERS, _folder), "slurm_extra": _options},
    **dict.fromkeys(("seeds", "pack", "gpus", "gpus_per_node"), _count),
    **{**dict.fromkeys(CHOICES, _text), "sparsity": _fraction},
}
