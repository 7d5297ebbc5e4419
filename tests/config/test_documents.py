"""YAML means what its readers think that it means."""

from __future__ import annotations

import math
from typing import Any

import pytest
import yaml

from acdc.config.yaml_io import parse_yaml


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2:4", "2:4"),
        ("[1:30, 2:4]", ["1:30", "2:4"]),
        ("7", 7),
        ("-3", -3),
        ("0", 0),
        ("0x1f", 31),
        ("1e-5", 1e-5),
        ("2.5", 2.5),
        (".5", 0.5),
        ("-1.5E3", -1500.0),
        ("+.inf", math.inf),
        ("true", True),
        ("null", None),
        ("acdc", "acdc"),
        ("{a: 0.9, b: [first, last]}", {"a": 0.9, "b": ["first", "last"]}),
    ],
)
def test_values(text: str, value: Any) -> None:
    found = parse_yaml(text)
    assert found == value
    assert type(found) is type(value)


def test_not_a_number_and_not_yaml() -> None:
    assert math.isnan(parse_yaml(".nan"))
    with pytest.raises(yaml.YAMLError):
        parse_yaml("[1, 2")
    with pytest.raises(yaml.YAMLError):
        parse_yaml("!!python/object/apply:os.system ['true']")
