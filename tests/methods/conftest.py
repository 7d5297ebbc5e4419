"""Tiny runs of twenty steps."""

import pytest

from acdc.methods.rewiring import Rewiring


@pytest.fixture(autouse=True)
def short_intervals(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let connections move after as few steps as a test asks for."""
    monkeypatch.setattr(Rewiring, "least_interval", 1)
