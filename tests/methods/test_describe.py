"""What is printed of a method's settings is what its configuration accepts."""

import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from types import FunctionType

from acdc.methods.contract import SparseMethod
from acdc.methods.describe import reference, settings
from acdc.methods.settings import MethodSettings

HOOKS = (FunctionType, classmethod, property)


class Options(MethodSettings):
    wanted: int
    """One that has
    to be given."""
    fractions: tuple[float, ...] = (0.5, 1e-5)
    """Several numbers."""
    name: str | None = None
    """None by default."""


class Mine(SparseMethod[Options]):
    name = "mine"
    label = "Mine"
    source = "Somebody: A paper. 2020. Code: some/where."


def test_settings_are_as_they_would_be_written() -> None:
    assert [(s.key, s.default, s.description) for s in settings(Mine)] == [
        ("wanted", "needed", "One that has to be given."),
        ("fractions", "[0.5, 1.0e-05]", "Several numbers."),
        ("name", "null", "None by default."),
    ]


def hooks() -> Iterator[str]:
    """Yield the rows of the table of the contract, from the docstrings of SparseMethod."""
    for name, member in vars(SparseMethod).items():
        if name.startswith("_") or not isinstance(member, HOOKS):
            continue
        call = ""
        if not isinstance(member, property):
            bound = member.__get__(SparseMethod)  # without self or cls
            call = f"({', '.join(inspect.signature(bound).parameters)})"
        text = inspect.getdoc(member) or ""
        does = text.splitlines()[0].removesuffix(".").replace("``", "`")
        (called,), (default,) = (
            re.findall(rf"{key}: (.*)\.$", text, re.M) for key in ("Called", "Default")
        )
        yield f"| `{name}{call}` | {does} | {called} | {default} |\n"


def test_the_contract_is_documented() -> None:
    page = Path(__file__).parents[2] / "docs" / "methods.md"
    rows = list(hooks())
    assert len(rows) > 10
    assert "".join(rows) in page.read_text(encoding="utf-8")


def test_a_reference_leaves_out_where_the_code_is() -> None:
    assert reference(Mine) == "Somebody: A paper. 2020."
