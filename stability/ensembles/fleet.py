"""Ensembles on other array libraries: many blocks of paths moved together."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from .._array import Backend
from .block import SQUARABLE, Part, Run, Signals, Snapshots, make_part
from .normals import Normals
from .plan import EnsemblePlan, stepwise


class Fleet:
    """Blocks of paths moved together on another array library.

    The device is waited for only where states are saved. The device's own generator draws the normals unless
    `host_noise` asks for those that a run on the host has.
    """

    def __init__(self, plan: EnsemblePlan, backend: Backend, blocks: range, *, host_noise: bool):
        self.plan, self.backend, self.blocks = plan, backend, blocks
        self.offset = plan.rows(blocks[0]).start
        self.paths = plan.rows(blocks[-1]).stop - self.offset
        # Of the seed and the fleet's first block: how many blocks move together is up to the memory.
        seed = int(np.random.SeedSequence(plan.seed, spawn_key=(blocks[0],)).generate_state(1)[0])
        self.draw = None if host_noise else backend.normals(seed)
        self.sources = [] if self.draw else [Normals(plan, number) for number in blocks]
        flows = plan.flows
        self.movers = [stepwise(plan, flow.on(backend)) for flow in flows]
        rows = slice(self.offset, self.offset + self.paths)
        self.states = [backend.asarray(plan.first(flow, rows)) for flow in flows]
        self.center = backend.asarray(plan.center)
        self.diverged_at, self.exit_times = (backend.asarray(np.full(self.paths, np.nan)) for _ in range(2))
        if plan.inside is not None:
            outside = ~plan.inside(self.states[0][:, : plan.flow.dim])
            self.exit_times = backend.xp.where(
                outside, backend.xp.zeros_like(self.exit_times), self.exit_times
            )
        shape = (len(plan.saved), self.paths, plan.width_shown)
        self.saved = [np.empty(shape, dtype=plan.dtype) for _ in flows]
        self.slot = 0
        self._save(0)

    def run(self, signals: Signals) -> Iterator[Part]:
        """Take all steps, then yield what each block leaves behind; nothing if it was stopped on the way."""
        began, step = time.perf_counter(), 0
        while step < self.plan.steps:
            # Blocks of a fleet stand at the same step: none of them is finished before all are.
            if signals.stop.is_set():
                return
            size = min(self.plan.chunk(self.paths), self.plan.steps - step)
            for ahead, normals in enumerate(self._noise(size), start=step + 1):
                self._move(ahead, normals)
            step += size
            signals.advance(size * len(self.blocks))
        self.times = self.backend.host(self.diverged_at), self.backend.host(self.exit_times)
        for number in self.blocks:
            # The fleet's time is shared out evenly, so that the blocks' seconds add up to it.
            yield self._part(
                number, signals, began + (time.perf_counter() - began) * (1 - 1 / len(self.blocks))
            )

    def _noise(self, steps: int) -> Iterator[Any]:
        """Standard normals (k, paths) for each of the next `steps` steps."""
        if self.draw is not None:
            for _ in range(steps):
                yield self.draw((self.plan.normals, self.paths))
            return
        parts = [source.draw(steps) for source in self.sources]
        for step in range(steps):
            yield self.backend.asarray(
                np.concatenate([part[step] for part in parts], axis=1)[:, : self.paths]
            )

    def _move(self, step: int, normals: Any) -> None:
        """One step of every flow; lost paths stay where they were."""
        xp, plan, now = self.backend.xp, self.plan, self.plan.time(step)
        # No branch on values, which would wait for the device: every mask is applied at every step.
        main, *others = self.states
        ahead, dim = self._stepped(0, normals, step - 1), plan.flow.dim
        offset = ahead[:, :dim] - self.center
        distance = xp.sum(offset * offset, axis=-1)
        before = ~xp.isnan(self.diverged_at)
        lost = (
            ~((distance <= min(plan.radius * plan.radius, SQUARABLE[plan.dtype])) & xp.isfinite(distance))
            | before
        )
        self.diverged_at = xp.where(
            lost & xp.isnan(self.diverged_at), xp.full_like(self.diverged_at, now), self.diverged_at
        )
        self.states = [
            xp.where(lost[:, None], main, ahead),
            *(self._stepped(i, normals, step - 1) for i in range(1, 1 + len(others))),
        ]
        if plan.inside is not None:
            there = ahead[:, :dim]
            finite = xp.all(xp.isfinite(there), axis=-1)
            seen = xp.where(finite[:, None], there, main[:, :dim])
            left = ~plan.inside(seen) & xp.isnan(self.exit_times) & ~before
            self.exit_times = xp.where(left, xp.full_like(self.exit_times, now), self.exit_times)
        self._save(step)

    def _stepped(self, which: int, normals: Any, done: int) -> Any:
        mover = self.movers[which]
        return mover.step(self.states[which], mover.sample(normals), done)

    def _save(self, step: int) -> None:
        if self.slot < len(self.plan.saved) and self.plan.saved[self.slot] == step:
            for saved, w in zip(self.saved, self.states, strict=True):
                saved[self.slot] = self.backend.host(w[:, self.plan.shown])
            self.slot += 1

    def _part(self, number: int, signals: Signals, began: float) -> Part:
        """What block `number` leaves behind, as if it had been run alone."""
        rows = self.plan.rows(number)
        place = slice(rows.start - self.offset, rows.stop - self.offset)
        seen, beside = (Snapshots(self.plan, rows.stop - rows.start) for _ in range(2))
        seen.saved = np.swapaxes(self.saved[0][:, place], 1, 2)
        seen.diverged_at, seen.exit_times = (x[place].astype(float) for x in self.times)
        seen.lost = np.isfinite(seen.diverged_at)
        seen.any_lost = bool(seen.lost.any())
        if self.plan.control:
            beside.saved = np.swapaxes(self.saved[1][:, place], 1, 2)
        run = Run(True, began, math.nan)
        return make_part(self.plan, seen, beside if self.plan.control else None, signals, run)
