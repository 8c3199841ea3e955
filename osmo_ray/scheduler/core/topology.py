"""Trees of domains, and the sets of nodes in which a gang may gather, the best first.

A domain is the nodes that share the label values of all levels down to its own. Which sets are tried follows the
packing rule: the finest level allowed, in the order of a tree whose children are sorted by how tightly the request
fills them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from osmo_ray.scheduler.core.entities import CPU, GPU, MEMORY, Task
from osmo_ray.scheduler.core.inputs import Near, NodeIn
from osmo_ray.scheduler.core.nodes import Nodes

Mask = NDArray[np.bool_]


@dataclass(slots=True, eq=False)
class Domain:
    id: str
    level: int
    """0 is the root, 1 the coarsest level."""
    nodes: NDArray[np.intp]
    children: list[Domain] = field(default_factory=list)


class Tree:
    """The domains of one topology."""

    def __init__(self, levels: Sequence[str], nodes: Sequence[NodeIn]) -> None:
        self.levels = tuple(levels)
        self._given = nodes
        members = [i for i, n in enumerate(nodes) if any(level in n.labels for level in levels)]
        self.root = self._domain("", 0, members)

    def _domain(self, id: str, level: int, members: Sequence[int]) -> Domain:
        domain = Domain(id, level, np.array(members, dtype=np.intp))
        if level < len(self.levels):
            label = self.levels[level]
            parts: dict[str, list[int]] = {}
            for i in members:
                if label in self._given[i].labels:
                    parts.setdefault(self._given[i].labels[label], []).append(i)
            domain.children = [self._domain(f"{id}.{v}", level + 1, m) for v, m in sorted(parts.items())]
        return domain

    def depth(self, label: str) -> int:
        """The level with this label, or -1."""
        return self.levels.index(label) + 1 if label in self.levels else -1


@dataclass(frozen=True, slots=True)
class Choice:
    """A set of nodes to try, and points for some of them."""

    mask: Mask
    points: NDArray[np.float64] | None = None


def choices(
    tree: Tree, near: Near, tasks: Sequence[Task], running: Sequence[int], nodes: Nodes, mask: Mask
) -> list[Choice]:
    """Node sets for these tasks, best first; `running` are nodes where the group runs already."""
    required, preferred = tree.depth(near.required), tree.depth(near.preferred)
    if (near.required and required < 0) or (near.preferred and preferred < 0):
        return []
    room = _Room(tasks, nodes, mask)
    finest = preferred if near.preferred else required
    top = required if near.required else 0
    root = _common(tree.root, mask)
    ordered = {level: list[Domain]() for level in range(len(tree.levels) + 1)}
    _order(root, finest, room, ordered)
    inside = _containing(ordered.get(required, []), running) if near.required and running else None
    found: list[Choice] = []
    for level in range(finest, top - 1, -1):
        for domain in ordered[level]:
            if room.fits(domain) and (inside is None or np.isin(domain.nodes, inside).all()):
                found.append(
                    Choice(_mask(domain, mask), _points(domain, preferred, room, len(mask)) if near.preferred else None)
                )
    return found


def _common(domain: Domain, mask: Mask) -> Domain:
    """The lowest domain that has all the offered nodes that the tree knows."""
    offered = domain.nodes[mask[domain.nodes]]
    while True:
        inner = next((c for c in domain.children if len(offered) and np.isin(offered, c.nodes).all()), None)
        if inner is None:
            return domain
        domain = inner


def _order(domain: Domain, finest: int, room: _Room, into: dict[int, list[Domain]]) -> None:
    into[domain.level].append(domain)
    if domain.level < finest:
        for child in sorted(domain.children, key=lambda c: (-room.ratio(c), c.id)):
            _order(child, finest, room, into)


def _containing(domains: Sequence[Domain], running: Sequence[int]) -> NDArray[np.intp]:
    parts = [d.nodes for d in domains if np.isin(running, d.nodes).any()]
    return np.concatenate(parts) if parts else np.array([], dtype=np.intp)


def _mask(domain: Domain, mask: Mask) -> Mask:
    found = np.zeros_like(mask)
    found[domain.nodes] = mask[domain.nodes]
    return found


def _points(domain: Domain, preferred: int, room: _Room, count: int) -> NDArray[np.float64]:
    """Later domains of the preferred level, the emptier ones, get more."""
    ordered: dict[int, list[Domain]] = {level: [] for level in range(preferred + 1)}
    if domain.level <= preferred:
        _order(domain, preferred, room, ordered)
    points = np.zeros(count)
    inner = ordered[preferred]
    for i, one in enumerate(inner):
        points[one.nodes] = np.floor(10.0 * (i + 1) / len(inner))
    return points


class _Room:
    """What is or will be free in a domain, against what the tasks ask for."""

    def __init__(self, tasks: Sequence[Task], nodes: Nodes, mask: Mask) -> None:
        self.need = np.sum([t.kind.need for t in tasks], axis=0) if tasks else np.zeros(len(nodes.total))
        self.need[GPU] += sum(t.kind.gpus for t in tasks if t.kind.shared)
        self.tasks = len(tasks)
        free = np.where(mask, np.maximum(nodes.future, 0), 0)
        free[GPU] = np.where(mask, _with_parts(nodes), 0)
        self.free = free
        self.biggest = np.max([t.kind.need for t in tasks], axis=0) if tasks else self.need
        self.biggest[GPU] = max([t.kind.gpus if t.kind.shared else t.kind.ask.gpu for t in tasks], default=0)
        self.alike = len({frozenset(r for r, _ in t.kind.rows) for t in tasks}) <= 1
        asked = self.biggest > 0
        self.copies = np.floor((free[asked] + 1e-9) / self.biggest[asked, None]).min(axis=0)
        self.rows = [r for r in np.flatnonzero(self.need) if r in (GPU, CPU, MEMORY) or nodes.gpu_weights[r] > 0]

    def fits(self, domain: Domain) -> bool:
        if self.alike:
            return bool(self.copies[domain.nodes].sum() >= self.tasks)
        return self.ratio(domain) <= 1

    def ratio(self, domain: Domain) -> float:
        free = self.free[:, domain.nodes].sum(axis=1)
        return max((self.need[r] / free[r] if free[r] > 0 else 1e9 for r in self.rows), default=0.0)


def _with_parts(nodes: Nodes) -> NDArray[np.float64]:
    free: NDArray[np.float64] = np.maximum(nodes.future[GPU], 0)
    for i in nodes.sharing:
        free[i] += sum(1 - t[1] / nodes.memory[i] for t in nodes.shared[i].values() if t[1] > 0)
    return free
