"""The PyTorch front end: an optimizer that reports the theory of the network it trains."""

try:
    import torch as _torch  # noqa: F401 - asked for here, so that its absence is told in one sentence
except ImportError:
    raise ImportError("stability.torch needs PyTorch: pip install 'sfn-stability[torch]'.") from None

from .advise import advise
from .network import ModelObjective, objective
from .optimizer import LRSFN
from .products import hessian_products
from .report import Report
from .watch import Watch

__all__ = ["LRSFN", "ModelObjective", "Report", "Watch", "advise", "hessian_products", "objective"]
