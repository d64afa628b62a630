"""What the studies share: the methods compared, a statement that holds or not, largest z-scores."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..methods.method import LRSFN, SFN, SGD, DampedNewton, Method, Newton
from ..methods.metrics import Adam
from ..methods.momentum import Momentum

Report = Callable[[str], None]


@dataclass(frozen=True)
class Check:
    """One statement that a study's numbers bear out, or not."""

    statement: str
    passed: bool
    detail: str


def methods(damping: float, rank: int) -> list[Method]:
    """The five methods that every study compares."""
    return [
        SGD(),
        Newton(),
        DampedNewton(damping=damping),
        SFN(damping=damping),
        LRSFN(rank=rank, damping=damping),
    ]


def popular() -> list[Method]:
    """The first-order methods beside SGD that people run."""
    return [Momentum(SGD(), 0.9), Adam()]


def method_names(compared: Iterable[Method]) -> np.ndarray:
    """The methods' names, as a study stores them."""
    return np.array(["momentum" if method.memory is not None else method.name for method in compared])


def worst(measured: np.ndarray, keep: np.ndarray) -> tuple[float, int]:
    """Largest ``|z|`` of entries (..., 3: value, error, predicted) where `keep`, and how many there are."""
    z = (measured[..., 0] - measured[..., 2]) / measured[..., 1]
    z = z[np.isfinite(z) & np.broadcast_to(keep, z.shape)]
    return float(np.max(np.abs(z))), len(z)


def agreement(what: str, measured: np.ndarray, keep: Any) -> Check:
    """That measured entries agree with predicted ones where `keep`; see `worst`."""
    # A study tests hundreds of moments at once: of true ones seven in a million lie beyond 4.5.
    largest, count = worst(measured, np.asarray(keep))
    return Check(
        f"{what} agree with theory (|z| < 4.5)", largest < 4.5, f"largest |z| of {count}: {largest:.2f}"
    )
