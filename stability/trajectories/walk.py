"""The two walks along a path, the chain's and the ODE solver's, and what is kept of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ..flow import Flow
from .equations import Equations, Place, Stuck, chain_step, positions
from .pace import Pace
from .watch import Watch

RTOL = 1e-11
"""Relative tolerance of the ODE solver (LSODA)."""
SOLVER_STEPS = 6_000
"""Of the ODE solver, at most."""
CREEP = 200
"""Steps of the ODE solver: where so many advance the time by less than a part in 10^9, it is held up."""
BRIEF = 10
"""Iterations of one step, in a schedule, over which a method of Runge and Kutta serves."""
NUDGE = 1e-10
"""Of the time so far: the step by hand across a jump that holds the solver up."""
CROSSINGS = 50
"""Jumps of the drift that a path is carried across."""
FAR = 1e6
"""Times the problem's largest length: a mean path that is further away has diverged."""

Walk = Iterator[tuple[Place, Callable[[float], Place] | None]]
"""Places, each with those since the one before where they are known."""


def stepped(pace: Pace, begin: Place, times: np.ndarray, watch: Watch) -> Walk:
    """The chain's places, one a step."""
    _, m, S = begin
    for flow, dt, after in pace.chain(float(times[-1])):
        watch.follow(flow, m)
        m, S = chain_step(flow, m, S, dt)
        yield (after, m, S), None


def solved(pace: Pace, begin: Place, times: np.ndarray, watch: Watch) -> Walk:
    """The ODE solver's places, one a step; begun anew where the flow has another step."""
    place = begin
    for flow, until in pace.stretches(float(times[-1])):
        watch.follow(flow, place[1])
        # The loop's own name on purpose: after the stretch `place` is where it ended.
        brief = pace.schedule is not None and until - place[0] <= BRIEF * flow.step
        for place, between in _stretch(flow, place, until, watch, brief=brief):  # noqa: B020
            yield place, between
        if watch.stopped:
            return


def _stretch(flow: Flow, begin: Place, t_end: float, watch: Watch, *, brief: bool) -> Walk:
    """The places under one flow; begun anew behind each jump of the drift."""
    place, equations = begin, Equations(flow, begin, t_end)
    for _ in range(CROSSINGS):
        # As above.
        for place, between in _leg(equations, place, t_end, watch, brief=brief):  # noqa: B020
            yield place, between
        if watch.stopped or (watch.across is None and place[0] >= t_end):
            return
        if watch.across is None:  # held up: is it by a jump?
            before, place = place, _nudged(flow, place, t_end)
            if watch.edge(before[1], place[1]) is not None:
                yield place, None
            if watch.across is None:
                if not watch.stopped:
                    watch.stop(before[0], f"the ODE solver makes no headway: {watch.obstacle(before[1])}")
                return
        t, m, S = place
        place, watch.across = (t, m, watch.across @ S @ watch.across.T), None
    watch.stop(place[0], f"the drift has jumped {CROSSINGS} times")


def _leg(equations: Equations, begin: Place, t_end: float, watch: Watch, *, brief: bool) -> Walk:
    """The ODE solver's places up to the end, or to where the drift jumps or the solver is held up."""
    from scipy.integrate import DOP853, LSODA

    t, m, S = begin
    options = {"rtol": 10 * RTOL if brief else RTOL, "atol": equations.atol}
    # LSODA starts with tiny steps of low order: over a few iterations, where nothing is stiff, they are most
    # of its work.
    solver: Any = (
        DOP853(equations.rate, t, equations.pack(m, S), t_end, **options)
        if brief
        else LSODA(equations.rate, t, equations.pack(m, S), t_end, jac=equations.derivative, **options)
    )
    marks = [-math.inf] * CREEP  # the times of the last steps
    for _ in range(SOLVER_STEPS):
        equations.calls = 0
        try:
            solver.step()
        except Stuck:
            return
        creeps = solver.t - marks[-CREEP] <= 1e-9 * solver.t
        if solver.status == "failed" or np.isnan(solver.y).any() or creeps:
            return
        marks.append(solver.t)
        yield equations.place(solver.t, solver.y), equations.between(solver.dense_output())
        if solver.status == "finished" or watch.stopped or watch.across is not None:
            return
    watch.stop(solver.t, f"the ODE solver has taken {SOLVER_STEPS} steps and is not at the end")


def _nudged(flow: Flow, place: Place, t_end: float) -> Place:
    """A small step by hand: it shows what is behind a jump that the solver cannot step over."""
    t, m, S = place
    ahead = min(t + NUDGE * t, t_end)
    return ahead, m + (ahead - t) * flow.drift(m), S


def kept(walk: Walk, times: np.ndarray, watch: Watch) -> list[Place]:
    """The places at the times to save; where the walk must stop, the last good one."""
    last = watch.begin
    saved, following = ([last] if times[0] == 0 else []), int(times[0] == 0)
    far = FAR * (watch.flow.length(positions(watch.flow, last[1]), float(times[-1])) or 1.0)
    for place, between in walk:
        t, m, S = place
        if not (np.isfinite(m).all() and np.isfinite(S).all() and np.linalg.norm(m) <= far):
            watch.stop(last[0], watch.why(last[1], m, far))
        elif watch.passes(last, place):
            while following < len(times) and times[following] <= t * (1 + 1e-12):
                when = float(times[following])
                saved.append(place if between is None or when >= t else between(when))
                following += 1
            last = place
        if watch.stopped:
            break
    if watch.stopped and (not saved or saved[-1][0] < last[0]):
        saved.append(last)
    return saved
