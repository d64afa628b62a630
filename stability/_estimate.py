"""A number with its error."""

from __future__ import annotations

from typing import NamedTuple


class Estimate(NamedTuple):
    """A number, an estimate of its error, and a reason where it is infinite or holds for a part only (else
    "").
    """

    value: float
    error: float
    reason: str = ""
