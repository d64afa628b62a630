"""Methods: preconditioners that are spectral functions of the Hessian, ``P(H) = Q diag(phi) Q^T``.

A method is one scalar formula, its *gain* ``phi(lam)``, written in plain arithmetic. Numbers, SymPy symbols
and the divided differences of `stability.methods.divided` all read that same formula. A truncated method
(`LRSFN`) adds a rank and a scalar *tail gain*.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from .. import _check
from .._saving import Kept
from .divided import READ, Condition, Divided, Unreadable
from .formula import Formula, is_expression
from .memory import Memory
from .recipe import Recipe, recorded
from .response import SpectralResponse

_GAINS = ("gain", "tail_gain")


class Method(Kept):
    """A stochastic optimizer ``w+ = w - step * P(H) g`` given by its gain.

    Parameters
    ----------
    gain : callable or SymPy expression
        ``phi(lam)`` in plain arithmetic: ``+ - * / **``, ``abs``, comparisons, and NumPy's sqrt, exp, log,
        tanh, sign, maximum, minimum, clip and where. Floats, arrays, SymPy symbols and divided differences
        read the same formula. A SymPy expression has one free symbol beside the parameters.
    name : str, optional
        How the method is called in tables.
    rank : int, optional
        Eigenpairs that `gain` applies to, largest ``|lam|`` first; all by default.
    tail_gain : callable, optional
        With `rank`: the gain of all other directions, a formula of the first eigenvalue left out,
        ``lam_{r+1}``.
    weight_decay : float
        Decoupled, of the weights themselves: ``w+ = (1 - step * weight_decay) w - step * P g``. Every method
        has it.
    **parameters : float
        Further arguments of `gain` (and of `tail_gain`), by name. Theorems then hold for them as symbols.

    Raises
    ------
    ValueError
        If `gain` cannot be read in plain arithmetic, or `rank` and `tail_gain` are not given together.

    Examples
    --------
    >>> import numpy as np, stability as st
    >>> rsfn = st.Method(gain=lambda lam, eps: 1 / np.sqrt(lam**2 + eps), name="R-SFN", eps=0.01)
    >>> float(rsfn.gain(0.0))
    10.0
    """

    name = "method"
    rank: int | None = None
    is_identity = False  # P(H) = I needs no eigendecomposition
    spectral = True  # P is a function of the Hessian's eigenvalues, which `gain` is
    weight_decay = 0.0
    decoupled = True  # whether weight decay acts beside the preconditioner, or inside it
    parameter_names: tuple[str, ...] = ()
    memory: Memory | None = None  # of its own steps: momentum

    @_check.by_name
    def __init__(
        self,
        gain: Callable[..., Any] | Any,
        *,
        name: str = "method",
        rank: int | None = None,
        tail_gain: Callable[..., Any] | None = None,
        weight_decay: float = 0.0,
        **parameters: float,
    ):
        if (rank is None) != (tail_gain is None):
            raise ValueError("A truncated method needs both `rank` and `tail_gain`.")
        self.name, self.parameter_names = name, tuple(parameters)
        self._decay_by(weight_decay)
        for key, value in parameters.items():
            if hasattr(type(self), key):
                raise ValueError(
                    f"A parameter of a gain may not be called {key!r}: a method has that name already."
                )
            setattr(self, key, float(_check.array(key, value, ndim=0, shape="()")))
        self.rank = None if rank is None else _check.count("rank", rank)
        self._gain = self._formula("gain", gain)
        self._tail_gain = None if tail_gain is None else self._formula("tail_gain", tail_gain)
        self._require_used()

    def _require_used(self) -> None:
        """A misspelt parameter of a SymPy gain would be ignored without a word."""
        formulas = [one for one in (self._gain, self._tail_gain) if one is not None]
        if not all(isinstance(one, Formula) for one in formulas):
            return  # a function takes its parameters by name, or says that it does not
        known = {name for one in formulas for name in one.parameters}  # type: ignore[attr-defined]
        for name in self.parameter_names:
            if name not in known:
                raise ValueError(f"`{name}` must be a symbol of the gain; got {formulas[0].expression}.")  # type: ignore[attr-defined]

    def _formula(self, name: str, formula: Any) -> Callable[..., Any]:
        """`formula` as a function that the divided differences can read, or an error that says why not."""
        if is_expression(formula):
            formula = Formula(formula, self.parameters)
        if not callable(formula):
            raise ValueError(
                f"`{name}` must be a function of one eigenvalue or a SymPy expression; got {formula!r}."
            )
        # Two different nodes: at a single one no rule for divided differences would be asked.
        node = Divided.variable(np.array(1.0), np.array(2.0))
        why = None
        with np.errstate(all="ignore"):  # the node may be a pole
            try:
                # A constant gain forgets the type it was read with: `SpectralResponse` broadcasts it.
                found = formula(node, **self.parameters)
            except Unreadable as error:
                why = str(error)
            except Exception as error:  # a user's function may fail in any way
                why = self._failed(formula, error)
        if why is not None:
            raise ValueError(f"`{name}` must be written in {READ}; {why}.")
        if not isinstance(found, (Divided, int, float, np.number)):
            got = "a comparison" if isinstance(found, Condition) else type(found).__name__
            raise ValueError(f"`{name}` must give a number; got {got}.")
        for value in found.value if isinstance(found, Divided) else (found,):
            _check.numbers_of(name, value)
        return formula

    def _failed(self, formula: Any, error: Exception) -> str:
        """What went wrong in a user's formula: with numbers too, or only where it is read."""
        try:
            formula(np.array([1.0, 2.0]), **self.parameters)
        except Exception as own:
            return f"with the eigenvalues 1 and 2 it raises {type(own).__name__}: {own}"
        asked = f"it asks the eigenvalue for `.{error.name}`" if isinstance(error, AttributeError) else ""
        return asked or f"it works on numbers, but not as a formula ({type(error).__name__})"

    @property
    def parameters(self) -> dict[str, Any]:
        """What the gain depends on beside the eigenvalue, by name."""
        return {name: getattr(self, name) for name in self.parameter_names}

    def with_parameters(self, **values: Any) -> Method:
        """A copy with other parameters: numbers, or SymPy symbols for the symbolic theory to read."""
        # Past the constructor, whose checks ask for the sign of a number: a symbol has none to show.
        other = copy.copy(self)
        for name, value in values.items():
            _check.choice("parameter", name, self.parameter_names)
            setattr(other, name, value)
        return other

    def _decay_by(self, weight_decay: float) -> None:
        found = _check.nonnegative("weight_decay", weight_decay)
        if found != self.weight_decay:  # without it the class's own 0 serves
            self.weight_decay = found

    def with_weight_decay(self, weight_decay: float) -> Method:
        """The same method with this weight decay.

        Raises
        ------
        ValueError
            If `weight_decay` is not a finite number >= 0.
        """
        other = copy.copy(self)
        other._decay_by(weight_decay)
        return other

    def gain(self, lam: Any) -> Any:
        """``phi(lam)`` for one eigenvalue: a float, an array of them, or a symbol."""
        return self._gain(lam, **self.parameters)

    def tail_gain(self, lam_next: Any) -> Any:
        """The gain off the kept eigenvectors of a truncated method, given the first eigenvalue left out."""
        if self._tail_gain is None:
            raise TypeError(f"{self.name} keeps every eigenvalue: it has no tail")
        return self._tail_gain(lam_next, **self.parameters)

    _tail_gain: Callable[..., Any] | None = None

    def gains(self, lams: np.ndarray) -> np.ndarray:
        """The gains ``phi_i`` of a whole spectrum, shape (..., d) -> (..., d), in any order."""
        return SpectralResponse(self, _check.floats("lams", lams)).gains

    def divided_differences(self, lams: np.ndarray) -> np.ndarray:
        """``Phi_ij = (phi_i - phi_j) / (lam_i - lam_j)``: (..., d) -> (..., d, d).

        Repeated eigenvalues take the limit.
        """
        return SpectralResponse(self, _check.floats("lams", lams)).divided

    def _kept(self) -> dict[str, Any]:
        kept = super()._kept() if type(self) is not Method else self._read()
        # What has none is kept, and told from others by its digest, as by earlier versions.
        return kept if self.weight_decay else {key: kept[key] for key in kept if key != "weight_decay"}

    def _read(self) -> dict[str, Any]:
        """What a method made of formulas is."""
        return {
            "name": self.name,
            "rank": self.rank,
            "parameters": list(self.parameters.items()),
            "gain": self._recipe("gain", self._gain),
            "tail_gain": None if self._tail_gain is None else self._recipe("tail_gain", self._tail_gain),
            "weight_decay": self.weight_decay,
        }

    def _recipe(self, name: str, formula: Callable[..., Any]) -> dict[str, Any]:
        try:
            return recorded(formula, self.parameter_names).kept()
        except Unreadable as error:
            raise ValueError(
                f"`{name}` of {self.name!r} cannot be saved: {error}. Write it in {READ}, or save the "
                "numbers: st.save(st.Study(name, arrays, parameters), path)."
            ) from None

    @classmethod
    def _restored(cls, **values: Any) -> Any:
        if cls is not Method:
            return super()._restored(**values)
        gain, tail = (None if (kept := values.pop(name)) is None else Recipe(**kept) for name in _GAINS)
        return Method(gain, tail_gain=tail, **dict(values.pop("parameters")), **values)

    @property
    def uses_hessian(self) -> bool:
        """Whether the preconditioner is a function of the Hessian batch's eigenvalues."""
        return self.spectral and not self.is_identity

    @property
    def label(self) -> str:
        """The name in tables and pictures, with what tells two variants apart; code is what `repr` gives."""
        decay = f" + decay {self.weight_decay:g}" if self.weight_decay else ""
        return (self.name if self.rank is None else f"{self.name}({self.rank})") + decay

    def remedy(self) -> str:
        """What to do where the gain is singular."""
        return "use st.SFN(damping=...), whose gain is bounded"

    def __repr__(self) -> str:
        # A name of one's own tells methods apart; the class's says nothing.
        named = type(self) is Method and self.name != Method.name
        shown: dict[str, Any] = {"name": self.name} if named else {}
        if self.rank is not None:
            shown["rank"] = self.rank
        decay = {"weight_decay": self.weight_decay} if self.weight_decay else {}
        fields = ", ".join(f"{k}={v!r}" for k, v in {**shown, **self.parameters, **decay}.items())
        return f"{type(self).__name__}({fields})"


def told_apart(methods: Iterable[Method]) -> list[str]:
    """Labels of methods, each another: with the parameters that differ, or a number where none do."""
    methods = list(methods)
    labels = [method.label for method in methods]

    def told(method: Method) -> str:
        kin = [one for one, label in zip(methods, labels, strict=True) if label == method.label]
        own, every = _numbers(method), [_numbers(one) for one in kin]
        apart = [name for name in own if any(other.get(name) != own[name] for other in every)]
        listed = ", ".join(f"{name.replace('_', ' ')} {own[name]:g}" for name in apart)
        return f"{method.label} ({listed})" if listed else method.label

    return _numbered([told(method) for method in methods])


def _numbered(labels: list[str]) -> list[str]:
    """Labels with ``(1)``, ``(2)``, ... behind those that are not the only one of their kind."""
    found, taken = [], set(labels)
    for label in labels:
        if labels.count(label) > 1:
            numbered = (f"{label} ({k})" for k in itertools.count(1))
            label = next(one for one in numbered if one not in taken)
            taken.add(label)
        found.append(label)
    return found


def _numbers(method: Method) -> dict[str, Any]:
    return {**method.parameters, "weight_decay": method.weight_decay}


class SGD(Method):
    """Stochastic gradient descent: ``phi = 1``.

    Examples
    --------
    >>> import stability as st
    >>> st.SGD().gains([1.0, 0.1, -0.5])
    array([1., 1., 1.])
    """

    name = "SGD"
    is_identity = True

    @_check.by_name
    def __init__(self, *, weight_decay: float = 0.0):
        self._decay_by(weight_decay)

    def gain(self, lam: Any) -> Any:
        # 1 with the shape and kind of what is asked about: an array, a symbol, a divided difference.
        return 0 * lam + 1


class Newton(Method):
    """Newton's method: ``phi = 1 / lam``; singular where the Hessian is, and attracted to saddles.

    Examples
    --------
    >>> import stability as st
    >>> st.Newton().gains([1.0, 0.1, -0.5])
    array([ 1., 10., -2.])
    """

    name = "Newton"

    @_check.by_name
    def __init__(self, *, weight_decay: float = 0.0):
        self._decay_by(weight_decay)

    def gain(self, lam: Any) -> Any:
        return 1 / lam


class DampedNewton(Method):
    """Levenberg-Marquardt damped Newton: ``phi = 1 / (lam + damping)``; singular at ``lam = -damping``.

    Raises
    ------
    ValueError
        If `damping` is not a finite number > 0.

    Examples
    --------
    >>> import stability as st
    >>> st.DampedNewton(damping=0.25).gains([0.75, -0.5])
    array([ 1., -4.])
    """

    name = "damped Newton"
    parameter_names = ("damping",)

    @_check.by_name
    def __init__(self, *, damping: float, weight_decay: float = 0.0):
        self.damping = _check.positive("damping", damping)
        self._decay_by(weight_decay)

    def gain(self, lam: Any) -> Any:
        return 1 / (lam + self.damping)


class SFN(Method):
    """Saddle-free Newton: ``phi = 1 / (|lam| + damping)``, bounded by ``1 / damping`` everywhere.

    Raises
    ------
    ValueError
        If `damping` is not a finite number > 0.

    Examples
    --------
    >>> import stability as st
    >>> st.SFN(damping=0.25).gains([0.75, -0.75, 0.0])
    array([1., 1., 4.])
    """

    name = "SFN"
    parameter_names = ("damping",)

    @_check.by_name
    def __init__(self, *, damping: float, weight_decay: float = 0.0):
        self.damping = _check.positive("damping", damping)
        self._decay_by(weight_decay)

    def gain(self, lam: Any) -> Any:
        return 1 / (abs(lam) + self.damping)


class LRSFN(SFN):
    """Low-rank saddle-free Newton: SFN on the `rank` largest ``|lam|``, one gain for all the rest.

    Parameters
    ----------
    rank : int
        Eigenpairs kept, largest ``|lam|`` first.
    damping : float
        ``gamma > 0``.
    curvature : {"hessian", "gauss-newton"}
        With Gauss-Newton curvature, in `st.minimize` and on objectives made of residuals, all directions of
        each batch are kept, and there is no `rank`; without `damping` the run measures it.
    tail : {"damping", "flat"}
        Gain off the kept eigenvectors: ``1 / damping`` (the published method, and the default here, while
        `stability.torch.LRSFN` has "flat"), or ``1 / (|lam_{r+1}| +
        damping)`` (the idea of NewSamp, Erdogdu and Montanari 2015, damped), which lifts the truncation's
        step limit.

    Raises
    ------
    ValueError
        If `rank` < 1, `damping` <= 0 or `tail` or `curvature` is unknown; where a spectrum has fewer than
        `rank` eigenvalues; where a gain is asked for whose damping only a run measures.

    Examples
    --------
    >>> import stability as st
    >>> st.LRSFN(rank=1, damping=0.25).gains([0.75, 0.25, 0.0])
    array([1., 4., 4.])
    >>> st.LRSFN(rank=1, damping=0.25, tail="flat").gains([0.75, 0.25, 0.0])
    array([1., 2., 2.])
    """

    name = "LRSFN"
    curvature = "hessian"

    @_check.by_name
    def __init__(
        self,
        *,
        rank: int | None = None,
        damping: float | None = None,
        tail: str = "damping",
        weight_decay: float = 0.0,
        curvature: str = "hessian",
    ):
        self.tail = _check.choice("tail", tail, ("damping", "flat"))
        if _check.choice("curvature", curvature, ("hessian", "gauss-newton")) == "gauss-newton":
            self._in_sample_space(rank, damping, weight_decay)
            return
        if rank is None or damping is None:
            what = "rank" if rank is None else "damping"
            raise TypeError(f"LRSFN needs `{what}`: give it, or curvature='gauss-newton', which needs none.")
        self.rank = _check.count("rank", rank)
        super().__init__(damping=damping, weight_decay=weight_decay)

    def _kept(self) -> dict[str, Any]:
        kept = super()._kept()
        # The Hessian's is kept as by earlier versions, which knew no other.
        return kept if self.curvature != "hessian" else {k: kept[k] for k in kept if k != "curvature"}

    def _in_sample_space(self, rank: int | None, damping: float | None, weight_decay: float) -> None:
        if rank is not None or self.tail != "damping":
            name = "tail" if rank is None else "rank"
            raise ValueError(
                f"curvature='gauss-newton' keeps all directions of each batch, and needs no `{name}`: leave "
                "it out."
            )
        self.curvature = "gauss-newton"
        if damping is not None:
            super().__init__(damping=damping, weight_decay=weight_decay)
            return
        self.damping, self.parameter_names = None, ()  # type: ignore[assignment]
        self._decay_by(weight_decay)

    def gain(self, lam: Any) -> Any:
        if self.damping is None:
            raise ValueError(
                "The damping of LRSFN(curvature='gauss-newton') is measured by the run, and there is no gain "
                "without it. Give damping=..., or pass the method to st.minimize."
            )
        return super().gain(lam)

    def tail_gain(self, lam_next: Any) -> Any:
        # 1 / damping by SFN's own formula at zero, of the shape and kind of its argument.
        return self.gain(lam_next) if self.tail == "flat" else self.gain(0 * lam_next)

    @property
    def label(self) -> str:
        if self.curvature != "hessian":
            return super().label + " Gauss-Newton"
        return super().label + (" flat tail" if self.tail == "flat" else "")

    def __repr__(self) -> str:
        decay = f", weight_decay={self.weight_decay!r}" if self.weight_decay else ""
        if self.curvature != "hessian":
            damping = "" if self.damping is None else f", damping={self.damping!r}"
            return f"LRSFN(curvature={self.curvature!r}{damping}{decay})"
        return f"LRSFN(rank={self.rank}, damping={self.damping!r}, tail={self.tail!r}{decay})"
