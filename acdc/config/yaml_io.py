"""YAML with the numbers of version 1.2, where 2:4 is a string and 1e-5 a number."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

import yaml

from acdc.errors import ConfigError
from acdc.messages import config_error, shown

_NUMBERS = {
    "tag:yaml.org,2002:int": r"[-+]?(?:0|[1-9][0-9_]*|0x[0-9a-fA-F]+)",
    "tag:yaml.org,2002:float": (
        r"[-+]?(?:(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?|\.inf)|\.nan"
    ),
}


_LARGEST = 100_000
"""Values that a document may have, its aliases expanded."""


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, which follows version 1.1, without sexagesimal numbers."""

    yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag not in _NUMBERS]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def get_single_node(self) -> yaml.Node | None:
        """Return the document's tree; one that expands to too much is an error."""
        node: yaml.Node | None = super().get_single_node()
        if node is not None:
            self._size(node, {})
        return node

    def _size(self, node: yaml.Node, known: dict[int, float]) -> float:
        """Return the number of values that a node stands for, its aliases expanded."""
        if id(node) not in known:
            known[id(node)] = math.inf  # where the node holds itself
            children = node.value if isinstance(node, yaml.CollectionNode) else ()
            if isinstance(node, yaml.MappingNode):
                children = [each for pair in node.value for each in pair]
            known[id(node)] = 1 + sum(self._size(child, known) for child in children)
            if known[id(node)] > _LARGEST:
                raise yaml.constructor.ConstructorError(
                    problem=f"more than {_LARGEST} values", problem_mark=node.start_mark
                )
        return known[id(node)]

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Return a mapping; a key that is a duplicate, or no plain value, is an error."""
        seen = set()
        for key, _ in node.value:
            plain = isinstance(key, yaml.ScalarNode)
            if not plain or (key.tag != "tag:yaml.org,2002:merge" and key.value in seen):
                problem = f"key {key.value!r} is a duplicate" if plain else "a key is a collection"
                raise yaml.constructor.ConstructorError(
                    problem=problem, problem_mark=key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)


for _tag, _pattern in _NUMBERS.items():
    _Loader.add_implicit_resolver(_tag, re.compile(f"^(?:{_pattern})$"), list("-+.0123456789"))


def parse_yaml(text: str | bytes, what: str) -> Any:
    """Return the value of a YAML text, of plain types only.

    Raises:
        ConfigError: ``what`` is not YAML, or is nested or expands beyond reason.
    """
    try:
        return yaml.load(text, _Loader)  # a SafeLoader
    except RecursionError:
        raise ConfigError(f"{what} is not YAML: nested too deeply") from None
    except (yaml.YAMLError, ValueError, TypeError, AttributeError, KeyError) as error:
        # PyYAML passes on what int, float and datetime raise.
        raise ConfigError(f"{what} is not YAML: {shown(str(error))}") from None


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
        *parents, last = key.split(".")
        if not equals or not all((*parents, last)):
            raise config_error("--set", assignment, "has no '=' or no key", "KEY=VALUE")
        target = data
        for parent in parents:
            target = target.setdefault(parent, {})
            if not isinstance(target, dict):
                raise config_error(
                    "--set", assignment, f"{parent} is not a group of keys", "a group"
                )
        target[last] = parse_yaml(value, f"--set: {key}={shown(value)}")
    return data
