"""YAML with the numbers of version 1.2, where 2:4 is a string and 1e-5 a number."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import yaml

from acdc.errors import ConfigError
from acdc.messages import config_error

_NUMBERS = {
    "tag:yaml.org,2002:int": r"[-+]?(?:0|[1-9][0-9_]*|0x[0-9a-fA-F]+)",
    "tag:yaml.org,2002:float": (
        r"[-+]?(?:(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?|\.inf)|\.nan"
    ),
}


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, which follows version 1.1, without sexagesimal numbers."""

    yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag not in _NUMBERS]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Return a mapping; a duplicate key is an error."""
        seen = set()
        for key, _ in node.value:
            if key.tag != "tag:yaml.org,2002:merge":
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(
                        problem=f"key {key.value!r} is a duplicate", problem_mark=key.start_mark
                    )
                seen.add(key.value)
        return super().construct_mapping(node, deep)


for _tag, _pattern in _NUMBERS.items():
    _Loader.add_implicit_resolver(_tag, re.compile(f"^(?:{_pattern})$"), list("-+.0123456789"))


def parse_yaml(text: str | bytes) -> Any:
    """Return the value of a YAML text, of plain types only.

    Raises:
        yaml.YAMLError: the text is not YAML.
    """
    return yaml.load(text, _Loader)  # a SafeLoader


def parsed(text: str | bytes, what: str) -> Any:
    """Return the value of a YAML text.

    Raises:
        ConfigError: ``what`` is not YAML.
    """
    try:
        return parse_yaml(text)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{what} is not YAML: {' '.join(str(error).split())}") from None


def assign(data: dict[str, Any], assignments: Sequence[str]) -> dict[str, Any]:
    """Return ``data`` updated by a command's ``--set KEY=VALUE`` options.

    Args:
        data: updated in place; dots in a key lead into nested mappings.
        assignments: ``KEY=VALUE``, values in YAML; later ones win.

    Raises:
        ConfigError: an assignment has no '=', its value is not YAML, or a parent is no mapping.
    """
    for assignment in assignments:
        key, equals, value = assignment.partition("=")
        if not equals:
            raise config_error("--set", assignment, "has no '='", "KEY=VALUE")
        target = data
        *parents, last = key.split(".")
        for parent in parents:
            target = target.setdefault(parent, {})
            if not isinstance(target, dict):
                raise config_error(
                    "--set", assignment, f"{parent} is not a group of keys", "a group"
                )
        target[last] = parsed(value, f"--set: {key}: {value!r}")
    return data
