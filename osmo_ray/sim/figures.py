"""What a replay comes to: waiting times and utilisation, of each pool and of all."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from osmo_ray.sim.replay import Fate, Replayed

ALL = "(all)"


@dataclass(frozen=True, slots=True)
class Waits:
    """Seconds from submission to the first start, of the groups that did start; None when none did."""

    mean: float
    median: float
    p95: float
    max: float


@dataclass(frozen=True, slots=True)
class Figures:
    """One line of the comparison. Utilisations are parts of what the whole cluster has, from the first submission to
    the last end; None where it has none of it."""

    pool: str
    groups: int
    never: int
    """Groups that never started."""
    reasons: tuple[str, ...]
    """Codes of the reasons why those did not."""
    waits: Waits | None
    gpu: float | None
    cpu: float | None
    preempted: int
    lost: float
    """GPU-seconds of attempts that had to give way."""


def figures(done: Replayed) -> tuple[Figures, ...]:
    """All pools by name, and the sum at the end."""
    pools = sorted({f.arrival.pool for f in done.fates})
    rows = [_figures(done, pool, [f for f in done.fates if f.arrival.pool == pool]) for pool in pools]
    return (*rows, _figures(done, ALL, done.fates))


def _figures(done: Replayed, pool: str, fates: Sequence[Fate]) -> Figures:
    never = [f for f in fates if f.started is None]
    span = done.ended - done.begun
    return Figures(
        pool,
        len(fates),
        len(never),
        tuple(sorted({f.why for f in never if f.why})),
        waits([f.started - f.arrival.submitted for f in fates if f.started is not None]),
        _part(sum(f.held * f.arrival.gpus for f in fates), done.variant.gpus * span),
        _part(sum(f.held * f.arrival.cpus for f in fates), done.variant.cpus * span),
        sum(f.preempted for f in fates),
        sum(f.lost * f.arrival.gpus for f in fates),
    )


def waits(seconds: Sequence[float]) -> Waits | None:
    """The 95th percentile is the smallest value that 95 of 100 do not exceed."""
    if not seconds:
        return None
    ordered = sorted(seconds)
    p95 = ordered[math.ceil(0.95 * len(ordered)) - 1]
    return Waits(statistics.fmean(ordered), statistics.median(ordered), p95, ordered[-1])


def _part(used: float, there: float) -> float | None:
    return used / there if there > 0 else None
