"""Momentum: any method with a buffer of its steps."""

from __future__ import annotations

from typing import Any

from .memory import Memory
from .method import Method


class Momentum(Method):
    """A method with momentum: ``u+ = beta u + P g``, ``w+ = w - step u+``; P is the inner method's.

    The batch's preconditioner acts inside the buffer. Nesterov's form, as PyTorch has it, moves by ``-step (P
    g + beta u+)``. In continuous time the buffer forgets at the rate ``(1 - beta) / step`` even where `beta`
    is 0: only the iteration and its chain are then the method's own.

    Parameters
    ----------
    method : Method
    beta : float
        In [0, 1); other libraries' `momentum`.
    nesterov : bool

    Raises
    ------
    ValueError
        If `method` is none, or has momentum already; if `beta` is not in [0, 1).

    Examples
    --------
    >>> import stability as st
    >>> heavy = st.Momentum(st.SFN(damping=0.25), beta=0.5)
    >>> heavy.gains([0.75, -0.75, 0.0])
    array([1., 1., 4.])
    >>> flow = st.Flow(st.quadratic([1.0]), st.Momentum(st.SGD(), beta=0.9), st.Noise(gradient=0.1), step=0.1)
    >>> st.linearize(flow).amplification  # at equal step the noise of 1 / (1 - beta) SGDs
    array([10.])
    """

    def __init__(self, method: Method, beta: float = 0.9, nesterov: bool = False):
        if not isinstance(method, Method):
            raise ValueError(
                f"`method` must be a st.Method such as st.SGD() or st.SFN(damping=0.1); got {method!r}."
            )
        if method.memory is not None or getattr(method, "averaging", None) is not None:
            advice = "Wrap the method inside it, once." if method.memory else "Use its own `beta1`."
            raise ValueError(f"`method` must have no momentum of its own; got {method!r}. {advice}")
        self.method, self.memory = method, Memory(beta, nesterov)
        self.name = f"{method.name} + {self.memory}"
        # What `Method` has for all its kinds is not asked of the inner method by itself.
        for name in ("rank", "is_identity", "spectral", "weight_decay", "decoupled"):
            setattr(self, name, getattr(method, name))

    @property
    def beta(self) -> float:
        """Of the memory."""
        return self._memory.beta

    @property
    def nesterov(self) -> bool:
        """Whether the memory has Nesterov's form."""
        return self._memory.nesterov

    @property
    def _memory(self) -> Memory:
        assert self.memory is not None
        return self.memory

    @property
    def parameter_names(self) -> tuple[str, ...]:  # type: ignore[override]
        return self.method.parameter_names

    @property
    def parameters(self) -> dict[str, Any]:
        return self.method.parameters

    def __getattr__(self, name: str) -> Any:
        # The inner method's parameters; what copies or unpickles asks before there is one.
        if name.startswith("_") or "method" not in self.__dict__:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return getattr(self.method, name)

    def with_parameters(self, **values: Any) -> Method:
        return Momentum(self.method.with_parameters(**values), self.beta, nesterov=self.nesterov)

    def with_weight_decay(self, weight_decay: float) -> Method:
        return Momentum(self.method.with_weight_decay(weight_decay), self.beta, nesterov=self.nesterov)

    def gain(self, lam: Any) -> Any:
        return self.method.gain(lam)

    def tail_gain(self, lam_next: Any) -> Any:
        return self.method.tail_gain(lam_next)

    @property
    def label(self) -> str:
        return f"{self.method.label} + {self.memory}"

    def remedy(self) -> str:
        return self.method.remedy()

    def __repr__(self) -> str:
        form = ", nesterov=True" if self.nesterov else ""
        return f"Momentum({self.method!r}, beta={self.beta!r}{form})"
