"""A claim, what is measured for it, and what the measurement says of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._display import Grid
from .._display import number as shown
from .._frames import Framed
from .._saving import Kept, Result, Study, jsonable
from ._common import Report

if TYPE_CHECKING:
    import xarray


class Verdict(StrEnum):
    """What a measurement says of a claim."""

    SUPPORTED = "supported"
    QUALIFIED = "qualified"
    NOT_SUPPORTED = "not supported"
    NOT_TESTED = "not tested here"


@dataclass(frozen=True)
class Number(Kept):
    """One measured or computed number of a claim.

    Attributes
    ----------
    name : str
        Unique in its claim.
    value : float
    interval : (float, float), optional
        Where the number lies with the confidence that the criterion names; None where nothing is random.
    units : str
        "" for pure numbers.
    source : str
        Qualified name of the function that made it, as ``"stability.linear.limits.Limit"``; a report finds
        its line.
    """

    name: str
    value: float
    interval: tuple[float, float] | None = None
    units: str = ""
    source: str = ""

    def __post_init__(self) -> None:
        if self.interval is not None:  # JSON has no tuples
            object.__setattr__(self, "interval", (float(self.interval[0]), float(self.interval[1])))

    def __str__(self) -> str:
        between = "" if self.interval is None else f" [{shown(self.interval[0])}, {shown(self.interval[1])}]"
        return f"{shown(self.value)}{between}{' ' if self.units else ''}{self.units}"


@dataclass(frozen=True)
class Criterion(Kept):
    """One condition of a claim, written before its numbers: effect size and confidence.

    Attributes
    ----------
    statement : str
    holds : bool or None
        None where it could not be tested.
    detail : str
        The numbers that decided.
    needed : bool
        Whether the verdict depends on it.
    """

    statement: str
    holds: bool | None
    detail: str
    needed: bool = True

    def __post_init__(self) -> None:
        if self.holds is not None:  # NumPy's truth is none of JSON's
            object.__setattr__(self, "holds", bool(self.holds))


def decide(criteria: Sequence[Criterion]) -> Verdict:
    """The verdict that needed criteria give: all hold, some do, none does, or none could be tested.

    Examples
    --------
    >>> from stability.claims.verdict import Criterion, decide
    >>> print(decide([Criterion("a", True, ""), Criterion("b", False, "")]))
    qualified
    """
    held = [one.holds for one in criteria if one.needed]
    if all(holds is None for holds in held):
        return Verdict.NOT_TESTED
    if all(held):
        return Verdict.SUPPORTED
    return Verdict.QUALIFIED if any(held) else Verdict.NOT_SUPPORTED


@dataclass(frozen=True)
class ClaimVerdict(Result, Framed):
    """What was found of a claim.

    Attributes
    ----------
    claim : int
        Its number.
    statement : str
    verdict : Verdict
    numbers : tuple of Number
        The effect first.
    interval : (float, float) or None
        Of the effect.
    reason : str
        One sentence: why this verdict.
    criteria : tuple of Criterion
    seconds : float
        That the measurement took; nan where it was read from a file.

    Examples
    --------
    >>> from stability.claims.verdict import ClaimVerdict, Criterion, Number, Verdict
    >>> found = ClaimVerdict(
    ...     2,
    ...     "Newton amplifies noise.",
    ...     Verdict.SUPPORTED,
    ...     (Number("amplification", 100.0),),
    ...     None,
    ...     "It does.",
    ...     (Criterion("more than ten times", True, "100 times"),),
    ... )
    >>> found.to_json()["numbers"]["amplification"]["value"]
    100.0
    """

    claim: int
    statement: str
    verdict: Verdict
    numbers: tuple[Number, ...]
    interval: tuple[float, float] | None
    reason: str
    criteria: tuple[Criterion, ...]
    seconds: float = math.nan

    def __post_init__(self) -> None:
        object.__setattr__(self, "verdict", Verdict(self.verdict))

    def __getitem__(self, name: str) -> Number:
        """One number by its name."""
        return {one.name: one for one in self.numbers}[name]

    def to_json(self) -> dict[str, Any]:
        """The verdict as JSON's values, numbers by their names."""
        keys = ("value", "interval", "units", "source")
        return {
            "claim": self.claim,
            "statement": self.statement,
            "verdict": str(self.verdict),
            "numbers": {one.name: {key: jsonable(getattr(one, key)) for key in keys} for one in self.numbers},
            "interval": jsonable(self.interval),
            "reason": self.reason,
            "criteria": [jsonable(one._kept()) for one in self.criteria],
            "seconds": jsonable(self.seconds),
        }

    def _columns(self) -> Mapping[str, Any]:
        low, high = zip(*(one.interval or (math.nan, math.nan) for one in self.numbers), strict=True)
        return {
            "number": [one.name for one in self.numbers],
            "value": [one.value for one in self.numbers],
            "low": low,
            "high": high,
            "units": [one.units for one in self.numbers],
            "source": [one.source for one in self.numbers],
        }

    def _page(self) -> Iterator[str | Grid]:
        yield f"claim {self.claim}, {self.verdict}: {self.statement}"
        yield self.reason
        words = {True: "holds", False: "does not hold", None: "not tested"}
        yield Grid(
            [("criterion", ""), ("", ""), ("because", "")],
            [(one.statement, words[one.holds], one.detail) for one in self.criteria],
        )
        yield Grid([("number", ""), ("value", "")], [(one.name, str(one)) for one in self.numbers])


@dataclass(frozen=True)
class Run:
    """How claims are measured.

    Attributes
    ----------
    quick : bool
        The small form.
    seed : int
    report : callable
        Told what is being done.
    jobs : int
        Processes for what is spread over some.
    store : Path, optional
        A folder of this claim's own, where a grid keeps its finished points.
    """

    quick: bool = False
    seed: int = 0
    report: Report = lambda text: None
    jobs: int = 1
    store: Path | None = None

    def sweep(
        self, name: str, grid: Any, study: Callable[..., Any], refine: Any = None, tolerance: float = 0.01
    ) -> xarray.Dataset:
        """`stability.sweep` of this run: its seed and jobs; finished points stay under `name` in its store.

        Raises
        ------
        ValueError
            As `stability.sweep` does.
        """
        from ..sweeps.sweep import sweep

        self.report(name)
        return sweep(
            grid,
            study,
            store=None if self.store is None else self.store / name,
            seed=self.seed,
            workers=self.jobs if self.jobs > 1 else 0,
            refine=refine,
            tolerance=tolerance,
        )


@dataclass(frozen=True)
class Claim:
    """A claim of the abstract, in this project's words, and how it is put to the test.

    Attributes
    ----------
    number : int
        Among those of the abstract, from 1.
    title : str
        A few words.
    statement : str
        One sentence.
    experiment : str
        What is measured.
    criteria : tuple of str
        What must hold for "supported": effect size and confidence, each word for word a `Criterion`'s.
    measure : callable
        `Run` -> `Study` of the name ``claim.name``, which `stability.plot` draws.
    judge : callable
        `Study` -> `ClaimVerdict`; computes nothing, and reads the study alone.
    """

    number: int
    title: str
    statement: str
    experiment: str
    criteria: tuple[str, ...]
    measure: Callable[[Run], Study]
    judge: Callable[[Study], ClaimVerdict]

    @property
    def name(self) -> str:
        """Of its study, and of its files: "claim-2"."""
        return f"claim-{self.number}"

    def found(
        self,
        numbers: Sequence[Number],
        criteria: Sequence[Criterion],
        reason: str,
        verdict: Verdict | None = None,
    ) -> ClaimVerdict:
        """The verdict of `decide`, or the given, in this claim's words; the effect is the first number."""
        return ClaimVerdict(
            self.number,
            self.statement,
            verdict or decide(criteria),
            tuple(numbers),
            numbers[0].interval if numbers else None,
            reason,
            tuple(criteria),
        )
