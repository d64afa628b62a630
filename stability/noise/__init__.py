"""Noise of gradient and Hessian: its law per sample, batch sizes, coupling of the two batches.

One noise sample is ``(zeta, Eg, Eh)``: the gradient noise at the reference point, the curvature noise of the
gradient batch, and the curvature noise of the Hessian batch. Whatever is asked of second moments follows from
`factors`: a finite set of samples ``s_k`` with ``E[s (x) s] = sum_k s_k (x) s_k``.
"""

from .data import DataNoise, Minibatches
from .factors import Sample, blocks
from .inputs import GaussianInputs
from .model import Noise

__all__ = ["DataNoise", "GaussianInputs", "Minibatches", "Noise", "Sample", "blocks"]
