"""A loss cut in two where the network puts out something for each sample, so that curvature is cheap."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import torch

from ..advice.directions import Directions
from .batches import Part
from .derivatives import bent, double, host, slope
from .losses import NEAR, Losses, evaluating
from .products import CHUNK, Products
from .whole import Tap, rolled


class Cut:
    """A place to cut a loss at: outputs ``z(w)`` of each sample, and what the loss makes of them.

    Attributes
    ----------
    at : {"model", "function"}
        At the model's own output, or at the first argument of one of torch's losses.
    aside : bool
        Whether the loss sees the parameters beside the outputs too, as a penalty does.
    notes : list of str
    """

    def __init__(self, losses: Losses, at: str, part: Part):
        """Raises `NoCut`, or whatever goes wrong, where a loss is not cut there by what some samples say."""
        self.losses, self.whole, self.at = losses, losses.whole, at
        tap = Tap(at)
        self.whole(self.whole.w, part, tap)
        if not tap.seen or any(t.ndim == 0 or len(t) % part.size for t in tap.seen):
            raise NoCut
        z = self.outputs(self.whole.w, part).detach().requires_grad_()
        # The loss sees the parameters through z, and beside it in what is the same for all z, as a penalty.
        beside = self._beside(part, z)
        other = self._beside(part, z + torch.randn_like(z))
        if bool((other - beside).abs().max() > NEAR * beside.abs().max()):
            raise NoCut
        self.aside = bool(beside.any())
        v = torch.randn((3, self.whole.n), dtype=self.whole.dtype, device=self.whole.device)
        inner = slope(self.remainder(part), z)
        through = torch.stack(
            [(inner * double(lambda w: self.outputs(w, part), self.whole.w, u)).sum(1) for u in v]
        )
        self.notes = self._agrees(through.detach() + (v @ beside / part.size)[:, None], v, part)

    def outputs(self, w: torch.Tensor, part: Part) -> torch.Tensor:
        """What the network puts out for each sample of a part, (size, o)."""
        tap = Tap(self.at)
        self.whole(w, part, tap)
        return rolled(tap.seen, part.size)

    def remainder(self, part: Part) -> Callable[[torch.Tensor], torch.Tensor]:
        """The part's total loss as a function of what the network puts out, (size, o) -> ()."""
        like = self._like(part)
        return lambda z: self.losses.total(self.whole.w, part, Tap(self.at, z, like))

    def beside(self, part: Part, z: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
        """The part's total loss as a function of the parameters where what the network puts out is held."""
        like = self._like(part)
        return lambda w: self.losses.total(w, part, Tap(self.at, z.detach(), like))

    def along(
        self, part: Part, z: torch.Tensor, dz: torch.Tensor, V: torch.Tensor | Directions
    ) -> tuple[torch.Tensor, np.ndarray, np.ndarray]:
        """The loss's slopes (size, o) in z, and samples' gradients and Gauss-Newton curvatures along V.

        Shapes (size, k) and (size, k, k), from the outputs' derivatives ``dz`` (k, size, o).
        """
        remainder = self.remainder(part)
        inner = slope(remainder, z)
        gradients = host(torch.einsum("bo,kbo->bk", inner, dz))
        squares = host(torch.einsum("ibo,jbo->bij", dz, bent(remainder, z, dz)))
        curvatures = (squares + squares.transpose(0, 2, 1)) / 2
        if self.aside:
            w = self.whole.w.clone().requires_grad_()
            products = Products(self.beside(part, z)(w) / part.size, [w], ["w"])
            own = self._beside(part, z)
            pieces = [slice(i, i + CHUNK) for i in range(0, V.shape[1], CHUNK)]
            gradients += np.concatenate([host(V[:, i].T @ own) for i in pieces]) / part.size
            for j in pieces:
                image = products(V[:, j])
                curvatures[:, :, j] += np.concatenate([host(V[:, i].T @ image) for i in pieces])
        return inner, gradients, curvatures

    def _like(self, part: Part) -> list[torch.Tensor] | None:
        """What the model returns, for the shapes in it; not needed at a function's argument."""
        if self.at != "model":
            return None
        tap = Tap(self.at)
        with torch.no_grad():
            self.whole(self.whole.w, part, tap)
        return tap.outputs

    def _beside(self, part: Part, z: torch.Tensor) -> torch.Tensor:
        """The gradient (n,) of what is beside."""
        w = self.whole.w.clone().requires_grad_()
        aside = self.beside(part, z)(w)
        found = torch.autograd.grad(aside, w, allow_unused=True)[0] if aside.requires_grad else None
        return torch.zeros_like(self.whole.w) if found is None else found

    def _agrees(self, through: torch.Tensor, v: torch.Tensor, part: Part) -> list[str]:
        """Raise unless samples' slopes (3, size) along v are those of the samples' own losses."""
        if not self.losses.mean:
            own = torch.stack([double(lambda w: self.whole(w, part), self.whole.w, u) for u in v])
            if bool((own - through).abs().max() > NEAR * own.abs().max()):
                raise NoCut
            return []
        ratios = []
        for s in {0, part.size - 1}:
            alone = functools.partial(self.whole, part=part.only(slice(s, s + 1), 1))
            own = torch.stack([double(alone, self.whole.w, u).detach() for u in v])
            square = float(own @ own)
            ratio = float(own @ through[:, s]) / square if square else 1.0
            if bool((through[:, s] - ratio * own).abs().max() > NEAR * through[:, s].abs().max()):
                raise NoCut
            ratios.append(ratio)
        if max(abs(r - 1) for r in ratios) > 10 * NEAR:
            return ["The mean that the loss returns weights samples unequally, as where tokens are counted."]
        return []


class NoCut(Exception):
    """The loss is not cut there."""


def find_cut(losses: Losses, part: Part) -> Cut | None:
    """Where the loss is cut in two, tested on a few samples; None where no place passes."""
    with evaluating(losses.whole.model):
        for at in ("model", "function"):
            try:
                return Cut(losses, at, part)
            except (NoCut, RuntimeError, ValueError, NotImplementedError, KeyError, AttributeError):
                continue
    return None
