"""What is typed after ``--config`` is taken as it was typed, or refused by its key."""

import datetime
from typing import Any

import pytest
from snakemake.cli import parse_config

from acdc.errors import ConfigError
from workflow.settings import read_settings


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("results=2026_11", "2026_11"), ("results=0010", "0010"), ("results=1e3", "1e3"),
        ("results=true", "true"), ("results=2026-11-30", "2026-11-30"), ("results=[a]", "[a]"),
        ("results=a: b", "a: b"), ("results=a=b", "a=b"), ("results=None", "None"), ("data=~", "~"),
        ("scale=007", "007"), ("row=14", "14"), ("row=1_4", "1_4"), ("row=True", "True"),
        ("experiment=1e3", "1e3"), ("sparsity=0.90", 0.9), ("sparsity=0", 0.0), ("seeds=3", 3),
        ("slurm_extra=", "")
    ],
)  # fmt: skip
def test_what_is_typed(word: str, expected: Any) -> None:
    """Snakemake makes numbers, booleans, lists and None of most of these."""
    assert read_settings(parse_config([word]), [word])[word.partition("=")[0]] == expected


@pytest.mark.parametrize(
    "word",
    [
        *("results=", "scale=", "experiments=", "data=", "row=", "seeds=", "sparsity="),
        *("results=a{b}", "results=a\nb", "seed=1", "resultz=a"),
        *("seeds=1_2", "seeds=0", "seeds=-1", "seeds=1.0", "seeds=1e3", "seeds=true"),
        *("seeds=01", "seeds=٣", "seeds=100000000000", "pack=two", "gpus_per_node=4.5"),
        *("sparsity=1", "sparsity=-0.1", "sparsity=nan", "sparsity=inf", "sparsity=0.9_5"),
        *("sparsity=ninety", "sparsity=90 %"),
    ],
)
def test_what_is_refused(word: str) -> None:
    with pytest.raises(ConfigError, match=f"^--config {word.partition('=')[0]}"):
        read_settings(parse_config([word]), [word])


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *[("results", value) for value in (2026, 1.5, True, None, ["a"], {"a": "b"}, "")],
        *[("scale", value) for value in (7, datetime.date(2026, 11, 30))],
        *[("seeds", value) for value in ("many", 1.0, True, [1], None)],
        *[("slurm_extra", value) for value in (7, ["--mem=1"])],
        ("sparsity", True),
    ],
)
def test_what_a_file_has_to_quote(key: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"^--config {key}"):
        read_settings({key: value}, [])


def test_the_command_line_overrides_a_file() -> None:
    found = read_settings({"scale": "quick", "pack": 1, "seeds": 2}, ["scale=1e3", "pack=3"])
    assert found == {
        **{"scale": "1e3", "pack": 3, "seeds": 2, "results": "results", "gpus_per_node": 8}
    }
