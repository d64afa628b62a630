"""The objective protocol, and the check that users run on their own derivatives."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .. import _check
from .._array import diagonal_matrix, transpose
from .._display import Grid
from .._frames import Framed
from .._saving import Result
from .gate import bare, gated


class Objective:
    """What a flow needs of a function ``F: R^d -> R``. Subclass it, or bring any object with these members.

    Every method takes ``w`` of shape (..., d): leading axes are batch, the last axis is the state. A flow
    asks for `dim`, `gradient` and `hessian`; pictures, critical points and `minimize` for `value`; the noise
    along a path (`trajectory`) for `third`, where the preconditioner moves. `hvp` follows from `hessian`.
    Where something is asked for that is not there, a ``ValueError`` names it.

    Attributes
    ----------
    dim : int
        ``d``.
    reference : array (d,) or None
        The distinguished critical point: where curvature noise is centred and `linearize` looks first.
    constant_hessian : bool
        True for quadratics, whose spectrum is then computed once.
    diagonal_hessian : bool
        True where the Hessian is diagonal at every state: give `hessian_diagonal`, and `hessian` follows. Its
        eigenvectors are then the axes, and no eigendecomposition is needed.
    n_samples : int or None
        Of an objective that is a mean over samples: its methods then take ``batch=``, indices of samples.
    dtype : {"float64", "float32"} or None
        Where all its arithmetic is of one width.
    planar : callable or None
        In two dimensions, optionally: ``(x, y) -> (g1, g2, h11, h12, h22)``, gradient and Hessian in plain
        arithmetic of both coordinates, for numbers and arrays alike. Ensembles run several times faster on
        it.

    Examples
    --------
    >>> import stability as st
    >>> class Quartic(st.Objective):
    ...     dim = 1
    ...     def gradient(self, w):
    ...         return w**3
    ...     def hessian(self, w):
    ...         return 3 * w[..., None] ** 2
    >>> st.Flow(Quartic(), st.Newton(), step=0.1).drift([2.0])  # -w / 3
    array([-0.66666667])
    """

    dim: int
    reference: np.ndarray | None = None
    constant_hessian: bool = False
    diagonal_hessian: bool = False
    n_samples: int | None = None
    dtype: str | None = None
    planar: Callable[[Any, Any], tuple[Any, ...]] | None = None

    def value(self, w: np.ndarray) -> np.ndarray:
        """``F(w)``, (..., d) -> (...)."""
        raise _undefined(self, "value")

    def gradient(self, w: np.ndarray) -> np.ndarray:
        """(..., d) -> (..., d)."""
        raise _undefined(self, "gradient")

    def hessian(self, w: np.ndarray) -> np.ndarray:
        """(..., d) -> (..., d, d)."""
        if self.diagonal_hessian:
            return diagonal_matrix(self.hessian_diagonal(w))
        raise _undefined(self, "hessian")

    def hessian_diagonal(self, w: np.ndarray) -> np.ndarray:
        """The Hessian's diagonal, where `diagonal_hessian` is true: (..., d) -> (..., d)."""
        raise _undefined(self, "hessian_diagonal")

    def third(self, w: np.ndarray, v: np.ndarray) -> np.ndarray:
        """``lim (H(w + h v) - H(w)) / h`` as h vanishes: (..., d), (..., d) -> (..., d, d)."""
        raise _undefined(self, "third")

    def hvp(self, w: np.ndarray, V: np.ndarray) -> np.ndarray:
        """Block Hessian product ``H(w) V``: (..., d), (..., d, k) -> (..., d, k)."""
        return self.hessian(w) @ V


_FORMS = {
    "dim": "dim, a whole number",
    "value": "value(w) of shape (...)",
    "gradient": "gradient(w) of shape (..., d)",
    "hessian": "hessian(w) of shape (..., d, d)",
    "hessian_diagonal": "hessian_diagonal(w) of shape (..., d)",
    "third": "third(w, v) of shape (..., d, d)",
    "hvp": "hvp(w, V) of the shape of V, (..., d, k)",
}
_FOLLOWS = {"hvp": "hessian", "hessian": "hessian_diagonal"}
"""Of a subclass of `Objective`: what a member is made from where the class does not define it."""


def defines(objective: Any, name: str) -> bool:
    """Whether an objective has a member: its own, or one that follows from others of its own."""
    objective = bare(objective)
    if not hasattr(objective, name):
        return False
    inherited = vars(Objective).get(name)
    # Inherited as it is, a member only raises, or is made
    # from another one, which must then be the user's own.
    if inherited is None or getattr(getattr(objective, name), "__func__", None) is not inherited:
        return True
    if name == "hessian" and not objective.diagonal_hessian:
        return False
    return name in _FOLLOWS and defines(objective, _FOLLOWS[name])


def trait(objective: Any, name: str) -> Any:
    """An optional attribute of an objective, or the default that `Objective` has for it."""
    return getattr(objective, name, getattr(Objective, name))


def bend(objective: Any, w: np.ndarray) -> float:
    """How far from a state (d,) the Hessian has changed by half of itself: the length a landscape has.

    A power of two, along one direction and back. 0 where the Hessian does not change, inf where it vanishes.
    """
    if trait(objective, "constant_hessian"):
        return 0.0
    here = np.asarray(objective.hessian(w), dtype=float)
    size, direction = np.max(np.abs(here)), np.cos(np.arange(len(w)))
    if size == 0:
        return math.inf

    def changed(power: int) -> bool:
        try:
            sides = [objective.hessian(w + side * 2.0**power * direction) for side in (1.0, -1.0)]
        except Exception:  # a user's function may fail in any way so far away
            return True
        # nan, outside the domain, is a change.
        return any(not np.max(np.abs(there - here)) < 0.5 * size for there in sides)

    near, far = -_FARTHEST, _FARTHEST
    with np.errstate(all="ignore"):
        if not changed(far):
            return 0.0
        while far - near > 1:
            middle = (near + far) // 2
            near, far = (near, middle) if changed(middle) else (middle, far)
    return 2.0**far


def require(objective: Any, who: str, *names: str, advice: str = "") -> Any:
    """The objective behind the gate; raises unless it has these members, saying who needs them."""
    missing = [name for name in names if not defines(objective, name)]
    if missing:
        raise _check.lacking("objective", objective, missing, who, _define(missing, advice))
    return gated(objective)


def _define(missing: Sequence[str], advice: str = "") -> str:
    forms = ", ".join(_FORMS[name] for name in missing)
    return (
        f"Give it {forms} (see st.Objective){advice or ', or use st.quadratic, st.landscape, st.logistic'}."
    )


def _undefined(objective: Objective, name: str) -> Exception:
    return _check.lacking("objective", objective, [name], "this call", _define([name]))


_FARTHEST = 400
"""The power of two up to which `bend` looks."""
_STEPS = (1e-3, 1e-4, 1e-5, 1e-6)
_COARSE = (1e-1, 1e-2, 1e-3, 1e-4)  # of arithmetic in float32
_COMPARED = {
    "gradient": ("value",),
    "hessian": ("hessian",),
    "third": ("hessian", "third"),
    "hvp": ("hvp",),
    "asymmetry": ("hessian",),
}
"""What `check_derivatives` compares, and what it takes beside the gradient."""


@dataclass(frozen=True)
class DerivativeCheck(Result, Framed):
    """Relative errors of an objective's derivatives against central differences, best over step sizes.

    ``print`` it for a table; ``ok`` is the verdict.
    """

    gradient: float
    hessian: float
    third: float
    hvp: float
    asymmetry: float
    tolerance: float = 1e-6
    steps: tuple[float, ...] = _STEPS
    absent: dict[str, str] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether every error of what could be compared is below `tolerance` (nan is not)."""
        return all(error < self.tolerance for _, error in self._rows())

    def _rows(self) -> list[tuple[str, float]]:
        names = ("gradient", "hessian", "third", "hvp", "asymmetry")
        return [(name, getattr(self, name)) for name in names if name not in self.absent]

    def _columns(self) -> Mapping[str, Any]:
        names, errors = zip(*self._rows(), strict=True)
        return {"derivative": names, "error": errors, "ok": [error < self.tolerance for error in errors]}

    def _page(self) -> Iterator[str | Grid]:
        rows = [(name, error, "ok" if error < self.tolerance else "WRONG") for name, error in self._rows()]
        absent = [(name, "-", why) for name, why in self.absent.items()]
        yield Grid([("derivative", ""), ("rel. error", ".2e"), ("", "")], [*rows, *absent])


def check_derivatives(objective: Any, at: Any) -> DerivativeCheck:
    """Compare an objective's derivatives with central differences at a point.

    Parameters
    ----------
    objective : Objective
        With a gradient, and a value, a Hessian or block products to compare with it.
    at : array, shape (d,)

    Returns
    -------
    DerivativeCheck
        Relative errors, each the smallest over step sizes of 1e-3 ... 1e-6 of the distance over which the
        Hessian changes, and the Hessian's asymmetry.
        What the objective does not have is nan, and named in ``absent``.

    Raises
    ------
    ValueError
        If the objective has no dimension or gradient, or nothing to compare the gradient with; if the
        gradient is not finite there, as outside a domain.

    Examples
    --------
    >>> import stability as st
    >>> st.check_derivatives(st.landscape("rosenbrock", dim=3), [0.3, -0.2, 0.5]).ok
    True
    """
    beside = [name for name in ("hessian", "hvp") if defines(objective, name)]
    needed = ["dim", "gradient", *([] if beside else ["value"])]
    objective = require(objective, "st.check_derivatives", *needed)
    dim = int(objective.dim)
    held = {"third": dim**3, "hessian": 3 * dim**2, "hvp": 3 * dim**2}
    numbers = max([n for name, n in held.items() if defines(objective, name)], default=0)
    advice = "Check a smaller instance of the same objective."
    _check.room(f"Differences along {dim} axes need", numbers, advice=advice)
    w, eye = _check.state("at", at, dim), np.eye(dim)
    _check.shaped("gradient", objective.gradient(w), (dim,), at=w)
    absent = {
        name: f"not compared: the objective has no {' and no '.join(missing)}"
        for name, parts in _COMPARED.items()
        if (missing := [part for part in parts if not defines(objective, part)])
    }
    # As far as the Hessian changes; where nothing tells, as far as the point is from 0.
    length = bend(objective, w) if defines(objective, "hessian") else 0.0
    if not 0 < length < math.inf:
        length = float(np.max(np.abs(w))) or 1.0
    # The arithmetic behind the gradient, whatever it was converted to.
    unit = _check.unit(bare(objective).gradient(w), np.asarray(objective.gradient(w)))
    steps = tuple(length * share for share in (_STEPS if unit < 1e-10 else _COARSE))
    measures = {
        "gradient": lambda: _against(objective.value, w, objective.gradient(w), steps),
        # Slopes come as [i, j] = dg_j / dw_i, which is H_ji: an unsymmetric Hessian shows, and shows once.
        "hessian": lambda: _against(objective.gradient, w, transpose(objective.hessian(w)), steps),
        "third": lambda: _against(
            objective.hessian, w, np.stack([objective.third(w, e) for e in eye]), steps
        ),
        "hvp": lambda: _products_error(objective, w, steps),
        "asymmetry": lambda: _relative(objective.hessian(w), transpose(objective.hessian(w))),
    }
    found = {name: math.nan if name in absent else measure() for name, measure in measures.items()}
    tolerance = max(1e-6, 20 * unit ** (2 / 3))
    return DerivativeCheck(**found, tolerance=tolerance, steps=steps, absent=absent)


def _against(function: Any, w: np.ndarray, exact: np.ndarray, steps: Sequence[float]) -> float:
    """The exact derivatives (d, ...) against central differences of a function."""
    errors = []  # points far apart are crude, near ones noisy: the best distance counts
    for h in steps:
        ahead, back = (np.stack([function(w + e) for e in side * h * np.eye(len(w))]) for side in (1, -1))
        # Of a derivative that is exactly zero the differences are rounding of the function.
        usual = max(np.max(np.abs(ahead)), np.max(np.abs(back))) / max(steps)
        errors.append(_relative((ahead - back) / (2 * h), exact, float(usual)))
    return float(np.min(errors))


def _products_error(objective: Any, w: np.ndarray, steps: Sequence[float]) -> float:
    if not defines(objective, "hessian"):
        return _against(objective.gradient, w, transpose(objective.hvp(w, np.eye(len(w)))), steps)
    turns = np.arange(len(w))
    block = np.stack([np.cos(turns), np.sin(1.0 + turns)], axis=-1)  # two directions without zeros
    return _relative(objective.hvp(w, block), objective.hessian(w) @ block)


def _relative(found: np.ndarray, exact: np.ndarray, usual: float = 0.0) -> float:
    """The largest gap over the largest entry; over the `usual` size where all entries are zero."""
    scale = float(np.max(np.abs(exact), initial=0.0)) or usual
    gap = float(np.max(np.abs(found - exact), initial=0.0))
    return gap / scale if scale > 0 else gap  # 0/0 is agreement, not nan
