"""What each method does on one landscape: what attracts it, from where, and where its flow ends."""

from __future__ import annotations

import dataclasses

import numpy as np

from .._saving import Study, provenance
from ..methods.method import LRSFN, SFN, SGD, DampedNewton, Newton
from ..noise import Noise
from ..objectives.landscapes import landscape
from ..portraits.flowlines import LEFT, SINGULAR, UNDECIDED
from ..portraits.plane import portrait as draw
from ._common import Check, Report

DAMPING = 0.3


def portrait_study(*, quick: bool = False, seed: int = 0, report: Report = lambda text: None) -> Study:
    """Portraits of the coupled quartic for five methods, with paths from beside its saddle."""
    methods = [
        SGD(),
        Newton(),
        DampedNewton(damping=DAMPING),
        SFN(damping=DAMPING),
        LRSFN(rank=1, damping=DAMPING),
    ]
    report("portraits of the coupled quartic")
    # The number of grid points is even, so that none lies on the saddle's own stable manifold.
    seen = draw(
        landscape("coupled_quartic"),
        2.0,
        methods,
        start=[0.05, 1.2],
        noise=Noise(gradient=0.2),
        step=0.05,
        t_end=8.0,
        paths=3,
        seed=seed,
        resolution=24 if quick else 80,
    )
    fields = {item.name: getattr(seen, item.name) for item in dataclasses.fields(seen)}
    arrays = {name: value for name, value in fields.items() if isinstance(value, np.ndarray)}
    arrays["lines"] = arrays["lines"][:, ::3].astype(np.float32)  # as fine as a picture shows
    about = {name: value for name, value in fields.items() if isinstance(value, str)}
    return Study("portrait", arrays, about | {"damping": DAMPING, "seed": seed, "level": "sde"}, provenance())


def check_portrait(study: Study) -> list[Check]:
    """Newton's methods end at the saddle from an open set, others nowhere; only Newton's flows get lost."""
    names, basins, kinds = list(study["methods"]), study["basins"], study["kinds"]
    saddles = np.flatnonzero(kinds == "saddle")
    caught = {name: float(np.isin(basins[m], saddles).mean()) for m, name in enumerate(names)}
    lost = {
        name: float(np.isin(basins[m], [LEFT, SINGULAR, UNDECIDED]).mean()) for m, name in enumerate(names)
    }
    free = [name for name in names if "Newton" not in name]
    same = float(np.mean(basins[names.index("SFN")] == basins[names.index("SGD")]))
    return [
        Check(
            "the saddle attracts Newton's and damped Newton's flows from an open set, and no other",
            min(caught["Newton"], caught["damped Newton"]) > 0.05 and max(caught[name] for name in free) == 0,
            ", ".join(f"{name} {share:.1%}" for name, share in caught.items()),
        ),
        Check(
            "of Newton's flows some end where the Hessian is singular; saddle-free ones all reach a minimum",
            lost["Newton"] > 0 and max(lost[name] for name in free) == 0,
            ", ".join(f"{name} {share:.1%}" for name, share in lost.items()),
        ),
        Check(
            "SFN's basins are SGD's: by symmetry the same half planes",
            same == 1.0,
            f"{same:.1%} of the region",
        ),
    ]
