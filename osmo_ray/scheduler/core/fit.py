"""Which node takes a task: what fits, and the best of it.

Scores are sums of parts far enough apart that an earlier one always decides; equal scores go to the first name.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from osmo_ray.scheduler.core.entities import CPU, GPU, INFINITE, MICRO, Kind, Task
from osmo_ray.scheduler.core.nodes import CONSUMERS, LATER, NOW
from osmo_ray.scheduler.core.session import Session
from osmo_ray.scheduler.core.topology import Mask

TOPOLOGY, SHARED, NOW_FREE, CPU_ONLY, PACKED = 10_000.0, 1_000.0, 100.0, 10.0, 9.0
Place = tuple[int, tuple[str, ...], bool]
"""Node, shared GPUs, and whether it is free now."""


def room(array: NDArray[np.float64], kind: Kind) -> Mask:
    """Where a request fits by plain amounts."""
    fits: Mask | None = None
    for row, amount in kind.rows:
        one = array[row] >= amount
        fits = one if fits is None else fits & one
    return fits if fits is not None else np.ones(array.shape[1], dtype=bool)


def beside(session: Session, tasks: Sequence[Task], mask: Mask | None) -> Mask:
    """Where all of these fit together, by plain amounts."""
    need = np.sum([t.kind.need for t in tasks], axis=0)
    fits: Mask = (session.nodes.future >= need[:, None]).all(axis=0)
    for kind in {t.kind for t in tasks}:
        fits &= kind.allowed
    return fits if mask is None else fits & mask


def find(session: Session, task: Task, mask: Mask | None, points: NDArray[np.float64] | None) -> Place | None:
    """The best place for a task among the nodes of the mask, or None."""
    kind, nodes = task.kind, session.nodes
    fits = room(nodes.future, kind) & kind.allowed
    if mask is not None:
        fits &= mask
    now = room(nodes.idle, kind)
    if kind.plain:
        if not fits.any():
            return None
        node = _best(session, task, fits, now, points, None)
        return node, (), bool(now[node])
    return _find_special(session, task, fits, now, points)


def _find_special(
    session: Session, task: Task, fits: Mask, now: Mask, points: NDArray[np.float64] | None
) -> Place | None:
    """With company, claims or parts of GPUs: node by node where these have a say."""
    kind = task.kind
    if kind.ask.company:
        fits = fits & company(session, task)
    if session.companions:
        fits = fits & unopposed(session, task)
    for name in kind.ask.claims:
        fits, now = _claim(session, name, fits, now, task)
    if not kind.shared:
        if not fits.any():
            return None
        node = _best(session, task, fits, now, points, None)
        return node, (), bool(now[node])
    return _find_shared(session, task, fits, now, points)


def _find_shared(
    session: Session, task: Task, fits: Mask, now: Mask, points: NDArray[np.float64] | None
) -> Place | None:
    found: dict[int, tuple[tuple[str, ...], bool]] = {}
    joins = np.zeros(len(fits), dtype=bool)
    for node in np.flatnonzero(fits).tolist():
        groups = gpus_for(session, task, node)
        if groups is None or not affordable(session, task, node):
            fits[node] = False
            continue
        names, free, joined = groups
        found[node] = names, free and bool(now[node])
        now[node], joins[node] = found[node][1], joined
    if not fits.any():
        return None
    node = _best(session, task, fits, now, points, joins)
    names, free = found[node]
    return node, tuple(n or session.nodes.fresh(node) for n in names), free


def _best(
    session: Session, task: Task, fits: Mask, now: Mask, points: NDArray[np.float64] | None, joins: Mask | None
) -> int:
    nodes, kind = session.nodes, task.kind
    uses_gpu = kind.gpus > 0
    row = GPU if uses_gpu else CPU
    free = nodes.future[row] if not uses_gpu or kind.ask.gpu or kind.shared else nodes.gpu_weights @ nodes.future
    spread = session.settings.spread_gpu if uses_gpu else session.settings.spread_cpu
    if spread:
        total = nodes.total[row]
        score = np.divide(free, total, out=np.zeros_like(free), where=total > 0)
    else:
        low, high = float(free[fits].min()), float(free[fits].max())
        score = PACKED * (1 - (free - low) / (high - low)) if high > low else np.full(len(free), PACKED)
    score = score + NOW_FREE * now
    if not uses_gpu:
        score += CPU_ONLY * (nodes.gpu_weights @ nodes.total == 0)
    if joins is not None:
        score += SHARED * joins * session.settings.shared_first
    if points is not None:
        score += TOPOLOGY * points
    return int(np.where(fits, score, -np.inf).argmax())


def gpus_for(session: Session, task: Task, node: int) -> tuple[tuple[str, ...], bool, bool] | None:
    """GPUs of a node for a part of one: names ("" for a fresh one), whether free now, whether any is shared already."""
    nodes, kind = session.nodes, task.kind
    size, mib = nodes.memory[node], nodes.need_mib(kind, node)
    if mib > size:
        return None
    offers: list[tuple[float, int, str, bool]] = []
    for name, taken in sorted(nodes.shared[node].items()):
        if taken[LATER] > 0 and size - taken[LATER] >= mib:
            full = taken[LATER] / size
            now = taken[NOW] > 0 and size - taken[NOW] >= mib
            offers.append((full if session.settings.spread_shared else -full, 0, name, now))
    fresh = math.floor(nodes.future[GPU, node])
    idle = math.floor(nodes.idle[GPU, node])
    whole = -1.0 if session.settings.spread_shared else 1.0
    own = _emptied(session, task, node)
    names = [*own, *[""] * kind.ask.devices]
    offers += [(whole, 1 + i, names[i], not names[i] and i < idle) for i in range(min(fresh, kind.ask.devices))]
    if len(offers) < kind.ask.devices:
        return None
    chosen = sorted(offers)[: kind.ask.devices]
    return tuple(c[2] for c in chosen), all(c[3] for c in chosen), any(c[0] != whole for c in chosen)


def _emptied(session: Session, task: Task, node: int) -> list[str]:
    """GPUs of its own that nobody is left on: taking a fresh one, an evicted task may as well stay on these."""
    if task.held != node or task.kept >= 0:
        return []
    return [name for name in task.held_on if session.nodes.shared[node][name][LATER] == 0]


def affordable(session: Session, task: Task, node: int) -> bool:
    """The queue check repeated with what a request by memory costs on this very node."""
    ask = task.kind.ask
    if not ask.gpu_memory:
        return True
    gpus = math.ceil(100 * ask.gpu_memory / session.nodes.memory[node]) / 100
    cost = round(gpus * MICRO)
    for queue in task.job.queue.path:
        if queue.limit[0] != INFINITE and queue.held[0] + cost > queue.limit[0]:
            return False
        if not task.job.preemptible and queue.quota[0] != INFINITE and queue.firm[0] + cost > queue.quota[0]:
            return False
    return True


def _claim(session: Session, name: str, fits: Mask, now: Mask, task: Task) -> tuple[Mask, Mask]:
    """Where a claim's devices are, or may be taken."""
    nodes, claim = session.nodes, session.nodes.claims[name]
    if claim.gpu and claim.queue != task.job.queue.name:
        return np.zeros_like(fits), now
    held, kept = nodes.holders[name]
    if sum(kept.values()) + claim.others >= CONSUMERS:
        return np.zeros_like(fits), now
    row = nodes.device_rows[claim.device_class]
    at_once, later = nodes.idle[row] >= claim.count, nodes.future[row] >= claim.count
    if kept:
        later = np.zeros_like(fits)
        later[list(kept)] = True
    if held:
        at_once = at_once.copy()
        at_once[list(held)] = True
    return fits & later, now & at_once


def _domain(session: Session, key: str, others: Sequence[Task]) -> Mask:
    values = {session.nodes.given[t.kept].labels.get(key) for t in others}
    return np.array([n.labels.get(key) in values - {None} for n in session.nodes.given], dtype=bool)


def company(session: Session, task: Task) -> Mask:
    """Where a task's own affinity and anti-affinity let it go."""
    want = task.kind.ask.company
    found = np.ones(session.nodes.count, dtype=bool)
    if want is None or not want.labels:
        return found
    like = [t for t in session.companions if t is not task and t.kept >= 0 and _alike(t, want.labels)]
    if want.with_key and like:
        found &= _domain(session, want.with_key, like)
    if want.apart_key:
        found &= ~_domain(session, want.apart_key, like)
    return found


def unopposed(session: Session, task: Task) -> Mask:
    """Where no task already there wants to be apart from this one."""
    found = np.ones(session.nodes.count, dtype=bool)
    own = task.kind.ask.company
    if own is None or not own.labels:
        return found
    for other in session.companions:
        want = other.kind.ask.company
        if other is not task and other.kept >= 0 and want and want.apart_key and set(want.labels) <= set(own.labels):
            found &= ~_domain(session, want.apart_key, [other])
    return found


def _alike(task: Task, labels: tuple[tuple[str, str], ...]) -> bool:
    own = task.kind.ask.company
    return own is not None and set(labels) <= set(own.labels)
