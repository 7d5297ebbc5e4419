"""Errors of single tables and figures."""

from __future__ import annotations

from study.model import ReportError


class NothingToDrawError(ReportError):
    """None of the runs that a figure shows can be averaged."""
