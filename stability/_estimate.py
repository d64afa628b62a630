"""An estimate: a number with its error."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

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
