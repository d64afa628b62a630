"""An estimate: a number with its error."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from ._display import Grid, number
from ._saving import Result


class _Pair(NamedTuple):
    value: float
    error: float
    reason: str = ""


class Estimate(_Pair, Result):  # type: ignore[misc]  # equal, and hashed, as a pair is
    """A number, an estimate of its error, and why it is infinite or holds for a part only (else "").

    Unpacks as ``value, error, reason``.

    Examples
    --------
    >>> import stability as st
    >>> mode = st.exact_mode(st.SGD(), curvature=1.0, noise=st.Noise())
    >>> mode.moment(2, step=0.5)
    0.25 +- 2.5e-16
    """

    def _page(self) -> Iterator[str | Grid]:
        because = f" ({self.reason})" if self.reason else ""
        yield f"{number(self.value, '.6g')} +- {number(self.error, '.2g')}{because}"


class Number(float):
    """A float that knows its error, and why it is nan where it is.

    Examples
    --------
    >>> from stability._estimate import Number
    >>> floor = Number(0.5, 0.1)
    >>> 2 * floor, floor.error, floor
    (1.0, 0.1, 0.5 +- 0.1)
    """

    error: float
    reason: str

    def __new__(cls, value: float, error: float = 0.0, reason: str = "") -> Number:
        """A float with its error and a reason."""
        found = super().__new__(cls, value)
        found.error, found.reason = float(error), reason
        return found

    @property
    def value(self) -> float:
        """The plain float."""
        return float(self)

    def __iter__(self) -> Iterator[Any]:
        """Unpacks as ``value, error, reason``, as an `Estimate` does."""
        return iter((self.value, self.error, self.reason))

    def __repr__(self) -> str:
        return str(Estimate(self.value, self.error, self.reason))

    __str__ = __repr__
