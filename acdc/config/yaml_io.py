"""YAML with the numbers of its version 1.2, where 2:4 is a text and 1e-5 a number."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import yaml

from acdc.errors import ConfigError

_NUMBERS = {
    "tag:yaml.org,2002:int": r"[-+]?(?:0|[1-9][0-9_]*|0x[0-9a-fA-F]+)",
    "tag:yaml.org,2002:float": (
        r"[-+]?(?:(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?|\.inf)|\.nan"
    ),
}


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, which is of version 1.1, without numbers to the base of sixty."""

    yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag not in _NUMBERS]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Return a mapping; a key that stands twice is an error, not the last of its values."""
        seen = set()
        for key, _ in node.value:
            if key.tag != "tag:yaml.org,2002:merge":
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(
                        problem=f"key {key.value!r} stands twice", problem_mark=key.start_mark
                    )
                seen.add(key.value)
        return super().construct_mapping(node, deep)


for _tag, _pattern in _NUMBERS.items():
    _Loader.add_implicit_resolver(_tag, re.compile(f"^(?:{_pattern})$"), list("-+.0123456789"))


def parse_yaml(text: str | bytes) -> Any:
    """Return the value of a YAML text, made of plain types only.

    Raises:
        yaml.YAMLError: it is not YAML.
    """
    return yaml.load(text, _Loader)  # a SafeLoader


def parsed(text: str | bytes, what: str) -> Any:
    """Return the value of a YAML text.

    Raises:
        ConfigError: it is not YAML; says so of ``what``.
    """
    try:
        return parse_yaml(text)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{what} is not YAML: {' '.join(str(error).split())}") from None


def assign(data: dict[str, Any], assignments: Sequence[str]) -> dict[str, Any]:
    """Return data with the values of a command's ``--set KEY=VALUE``, put into it.

    Args:
        data: changed in place; a key of several parts, with dots, leads into it.
        assignments: values are YAML; later ones win.

    Raises:
        ConfigError: an assignment has no '=', its value is not YAML, or a part is no group.
    """
    for assignment in assignments:
        key, equals, value = assignment.partition("=")
        if not equals:
            raise ConfigError(f"--set: {assignment!r} has no '='; KEY=VALUE is accepted")
        target = data
        *parents, last = key.split(".")
        for parent in parents:
            target = target.setdefault(parent, {})
            if not isinstance(target, dict):
                raise ConfigError(f"--set: {key}: {parent} is not a group of keys")
        target[last] = parsed(value, f"--set: {key}: {value!r}")
    return data
