"""Two dimensions: affine steps, and steps by the eigenvalues in closed form."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from . import compiler


def affine_planar(noise: np.ndarray, x: np.ndarray, a: np.ndarray, c: np.ndarray) -> None:
    """A chunk of steps ``x <- ((A_i1 x_1 + A_i2 x_2) + c_i) + noise_i``, in that order of operations.

    `noise` (steps, 2, B), contiguous and already scaled, becomes the states after each step; `x` (2, B),
    contiguous, the state before and after the chunk; `a` (2, 2); `c` (2,).
    """
    if compiler.available():
        compiler.kernel(_affine, KERNELS[_affine])(
            noise, x, float(a[0, 0]), float(a[0, 1]), float(a[1, 0]), float(a[1, 1]), float(c[0]), float(c[1])
        )
        return
    state = x
    for rows in noise:
        for i in (0, 1):
            rows[i] += (a[i, 0] * state[0] + a[i, 1] * state[1]) + c[i]
        state = rows
    x[...] = state


def _affine(noise: Any, x: Any, a11: float, a12: float, a21: float, a22: float, c1: float, c2: float) -> None:
    for k in range(noise.shape[0]):
        for j in range(noise.shape[2]):
            first, second = x[0, j], x[1, j]
            x[0, j] = noise[k, 0, j] = ((a11 * first + a12 * second) + c1) + noise[k, 0, j]
            x[1, j] = noise[k, 1, j] = ((a21 * first + a22 * second) + c2) + noise[k, 1, j]


def planar_eigenvalues(
    h11: np.ndarray, h12: np.ndarray, h22: np.ndarray, lams: np.ndarray, shape: np.ndarray
) -> None:
    """Eigenvalues of symmetric 2 x 2 matrices, and what `planar_step` needs of them.

    `h11`, `h12`, `h22` (B,) with any stride; `lams` (2, B) gets ``m + r`` and ``m - r``; `shape` (2, B) gets
    ``g = (h11 - h22)/2`` and ``r = sqrt(g^2 + h12^2)``, with ``m = (h11 + h22)/2``. Both eigenvalues are
    right to 3 ulp of the larger one, for entries between 1e-150 and 1e150 (their squares must neither vanish
    nor overflow).
    """
    if compiler.available():
        compiler.kernel(_planar_eigenvalues, KERNELS[_planar_eigenvalues])(h11, h12, h22, lams, shape)
    else:
        planar_eigenvalues_numpy(h11, h12, h22, lams, shape)


def planar_eigenvalues_numpy(
    h11: np.ndarray, h12: np.ndarray, h22: np.ndarray, lams: np.ndarray, shape: np.ndarray
) -> None:
    """`planar_eigenvalues` in NumPy, without temporaries."""
    g, r = shape
    with np.errstate(all="ignore"):
        np.subtract(h11, h22, out=g)
        g *= 0.5
        np.multiply(g, g, out=r)
        np.multiply(h12, h12, out=lams[1])
        r += lams[1]
        np.sqrt(r, out=r)
        np.add(h11, h22, out=lams[0])
        lams[0] *= 0.5
        np.subtract(lams[0], r, out=lams[1])
        lams[0] += r


def _planar_eigenvalues(h11: Any, h12: Any, h22: Any, lams: Any, shape: Any) -> None:
    for j in range(h11.size):
        m = (h11[j] + h22[j]) * 0.5
        g = (h11[j] - h22[j]) * 0.5
        r = math.sqrt(g * g + h12[j] * h12[j])
        lams[0, j], lams[1, j] = m + r, m - r
        shape[0, j], shape[1, j] = g, r


def planar_step(
    h12: np.ndarray, shape: np.ndarray, phi: np.ndarray, v: np.ndarray, x: np.ndarray, work: np.ndarray
) -> None:
    """``x += P v`` for 2 x 2 matrices after `planar_eigenvalues`.

    ``P = (phi1 + phi2)/2 + (phi1 - phi2)/(2r) [[g, h12], [h12, -g]]``; where ``r = 0`` the second term is
    left out. `h12` (B,) with any stride; `shape`, the gains `phi`, `v` and `x` (2, B) contiguous; `work`
    (4, B) is for the NumPy form. A non-finite Hessian gives nan.
    """
    if compiler.available():
        compiler.kernel(_planar_step, KERNELS[_planar_step])(h12, shape, phi, v, x)
    else:
        planar_step_numpy(h12, shape, phi, v, x, work)


def planar_step_numpy(
    h12: np.ndarray, shape: np.ndarray, phi: np.ndarray, v: np.ndarray, x: np.ndarray, work: np.ndarray
) -> None:
    """`planar_step` in NumPy, in the buffer `work` (4, B) alone but for one mask."""
    g, r = shape
    mean, slope, turn, part = work
    with np.errstate(all="ignore"):
        np.add(phi[0], phi[1], out=mean)
        mean *= 0.5
        np.subtract(phi[0], phi[1], out=slope)
        slope *= 0.5
        np.divide(slope, r, out=slope)
        # Equal eigenvalues: P is a multiple of the unit matrix, and 0 / 0 is not asked about.
        slope[r == 0] = 0.0
        for i in (0, 1):
            np.multiply(g, v[0] if i == 0 else v[1], out=turn)
            np.multiply(h12, v[1 - i], out=part)
            np.add(turn, part, out=turn) if i == 0 else np.subtract(part, turn, out=turn)
            turn *= slope
            np.multiply(mean, v[i], out=part)
            part += turn
            x[i] += part


def _planar_step(h12: Any, shape: Any, phi: Any, v: Any, x: Any) -> None:
    for j in range(h12.size):
        g, r, b = shape[0, j], shape[1, j], h12[j]
        mean = (phi[0, j] + phi[1, j]) * 0.5
        slope = 0.0 if r == 0 else (phi[0, j] - phi[1, j]) * 0.5 / r
        first, second = v[0, j], v[1, j]
        x[0, j] += mean * first + slope * (g * first + b * second)
        x[1, j] += mean * second + slope * (b * first - g * second)


KERNELS = {
    _affine: "w3 w2 f f f f f f",
    _planar_eigenvalues: "r1 r1 r1 w2 w2",
    _planar_step: "r1 w2 r2 r2 w2",
}
