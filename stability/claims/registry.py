"""The claims of the abstract that are put to the test here, in its order."""

from __future__ import annotations

from .verdict import Claim

_IN_ORDER: tuple[Claim, ...] = ()

CLAIMS: dict[int, Claim] = {claim.number: claim for claim in _IN_ORDER}
"""By their numbers, from 1; a claim's module exports its one `CLAIM`."""
