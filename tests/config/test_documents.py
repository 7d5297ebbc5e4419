"""YAML means what its readers think that it means."""

import math
from typing import Any

import pytest

from acdc.config.yaml_io import parse_yaml
from acdc.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2:4", "2:4"), ("[1:30, 2:4]", ["1:30", "2:4"]), ("7", 7), ("-3", -3), ("0", 0),
        ("0x1f", 31), ("1e-5", 1e-5), ("2.5", 2.5), (".5", 0.5), ("-1.5E3", -1500.0),
        ("+.inf", math.inf), ("true", True), ("null", None), ("acdc", "acdc"),
        ("{a: 0.9, b: [first, last]}", {"a": 0.9, "b": ["first", "last"]})
    ],
)  # fmt: skip
def test_values(text: str, value: Any) -> None:
    found = parse_yaml(text, "it")
    assert found == value
    assert type(found) is type(value)


def test_not_a_number() -> None:
    assert math.isnan(parse_yaml(".nan", "it"))


def laughs(levels: int) -> str:
    """Return a document of one line per level, whose aliases double at each."""
    lines = [f"k{n}: &k{n} [{', '.join([f'*k{n - 1}'] * 10)}]" for n in range(1, levels)]
    return "\n".join(["k0: &k0 [lol]", *lines])


NOT_YAML: dict[str, str | bytes] = {
    "unclosed list": "[1, 2", "unclosed quote": "a: 'b",
    "python object": "!!python/object/apply:os.system ['true']", "not UTF-8": b"model: \xff\xfe",
    "tab": "a:\n\t- b", "two documents": "a: 1\n---\nb: 2", "unknown alias": "a: *b",
    "duplicate key": "{a: 1, a: 2}", "template": "model: {{ model }}", "list as key": "? [a]\n: 1",
    "mapping as key": "{[a, b]: 1}", "text as int": "!!int x", "text as float": "!!float x",
    "text as time": "!!timestamp x", "month 99": "a: 2026-99-99",
    "5,000 digits": "a: " + "9" * 5000, "20,000 lists": "[" * 20_000,
    "20,000 mappings": "{a: " * 20_000, "2,000 lists, closed": "[" * 2000 + "]" * 2000,
    "2,000 indents": "\n".join(" " * n + "a:" for n in range(2000)), "billion laughs": laughs(9),
    "laughs merged": laughs(7) + "\nb: {<<: {c: *k6}}", "holds itself": "&a [*a]",
    "holds itself as a value": "&a {b: [1, *a]}"}  # fmt: skip


@pytest.mark.parametrize("text", NOT_YAML.values(), ids=NOT_YAML.keys())
def test_what_is_not_yaml_is_one_short_sentence(text: str | bytes) -> None:
    with pytest.raises(ConfigError, match=r"^it is not YAML: ") as caught:
        parse_yaml(text, "it")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_anchors_and_merges_are_kept() -> None:
    text = "base: &b {lr: 0.1, milestones: [0.5]}\na: *b\nc: {<<: *b, lr: 0.2}"
    base = {"lr": 0.1, "milestones": [0.5]}
    assert parse_yaml(text, "it") == {"base": base, "a": base, "c": base | {"lr": 0.2}}
