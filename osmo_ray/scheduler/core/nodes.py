"""Nodes as arrays: what is free now, what will be free, per resource; shared GPUs and claims beside them.

Two views of the same node, never confused: `idle` is what nothing sits on now, `future` what nothing will sit on
once everything that is on its way out has gone. A task that runs takes from both; one on its way out only from
`idle`; one that waits for another to go only from `future`. Shared GPUs and claims keep the same two counts, so a GPU
whose every user is leaving is a whole GPU of the future without any special case.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from osmo_ray.scheduler.core.entities import CPU, GPU, MEMORY, MICRO, Kind
from osmo_ray.scheduler.core.inputs import Ask, ClaimIn, NodeIn, Term

CONSUMERS = 256
"""Most tasks that may share one claim."""
_MIG = re.compile(r"mig-(\d+)g\.")
PODS = "pods"
NOW, LATER = 0, 1


def slices_of(name: str) -> int:
    """GPU slices that one device of an extra resource counts for: a MIG profile's `g`, else 0."""
    found = _MIG.search(name)
    return int(found.group(1)) if found else 0


class Nodes:
    """All nodes, in order of their names, so that the first of equals is the first by name."""

    def __init__(
        self,
        given: Sequence[NodeIn],
        claims: Sequence[ClaimIn] = (),
        extra: Sequence[str] = (),
        smallest_gpu: int = 0,
    ) -> None:
        self._smallest = smallest_gpu
        self.given = sorted(given, key=lambda n: n.name)
        self.names = [n.name for n in self.given]
        self.index = {name: i for i, name in enumerate(self.names)}
        self.claims = {c.name: c for c in claims}
        names = {k for n in given for k in n.extra} | set(extra) | {PODS}
        self.rows = {name: 3 + i for i, name in enumerate(sorted(names))}
        devices = sorted({k for n in given for k in n.devices} | {c.device_class for c in claims})
        self.device_rows = {name: 3 + len(self.rows) + i for i, name in enumerate(devices)}
        self.count = len(self.given)
        self.total = np.zeros((3 + len(self.rows) + len(devices), self.count))
        for i, node in enumerate(self.given):
            self._fill(i, node)
        self.idle, self.future = self.total.copy(), self.total.copy()
        gpu_classes = {c.device_class for c in claims if c.gpu} | {d for d in devices if "gpu" in d.lower()}
        self.gpu_weights = np.zeros(len(self.total))
        self.gpu_weights[GPU] = 1
        for name, row in self.rows.items():
            self.gpu_weights[row] = slices_of(name)
        for name, row in self.device_rows.items():
            self.gpu_weights[row] = name in gpu_classes
        self.memory = np.array([n.gpu_memory or 100 for n in self.given], dtype=float)
        self.sliced = np.array([n.sliced for n in self.given], dtype=bool)
        self.shared: list[dict[str, list[int]]] = [{} for _ in self.given]
        """Per node: shared GPU -> [MiB taken now, MiB taken later]."""
        self.holders: dict[str, tuple[dict[int, int], dict[int, int]]] = {c.name: ({}, {}) for c in claims}
        self.sharing: set[int] = set()
        """Nodes with shared GPUs."""
        self._fresh = 0

    def _fill(self, i: int, node: NodeIn) -> None:
        self.total[GPU, i], self.total[CPU, i], self.total[MEMORY, i] = node.gpu, node.cpu, node.memory
        self.total[self.rows[PODS], i] = node.extra.get(PODS, 1e9)
        for name, amount in node.extra.items():
            self.total[self.rows[name], i] = amount
        for name, count in node.devices.items():
            self.total[self.device_rows[name], i] = count

    def smallest_memory(self) -> int:
        """MiB of the smallest GPU: what a request by memory is measured with."""
        sizes = [n.gpu_memory for n in self.given if n.gpu_memory]
        return self._smallest or min(sizes, default=100)

    def capacity(self) -> list[int]:
        """What all nodes together can hold, as the quotas count it."""
        gpus = float(self.gpu_weights @ self.total.sum(axis=1)) if self.count else 0.0
        sums = self.total.sum(axis=1)
        return [round(gpus * MICRO), round(sums[CPU]), round(sums[MEMORY])]

    def kind(self, index: int, ask: Ask) -> Kind:
        """The class of a request."""
        need = np.zeros(len(self.total))
        need[GPU], need[CPU], need[MEMORY] = ask.gpu, ask.cpu, ask.memory
        need[self.rows[PODS]] = 1
        gpus = float(ask.gpu) + ask.fraction * ask.devices
        if ask.gpu_memory:
            gpus = ask.gpu_memory * ask.devices / self.smallest_memory()
        for name, amount in ask.extra:
            need[self.rows[name]] = amount
            gpus += slices_of(name) * amount
        gpus += sum(self.claims[c].count for c in ask.claims if c in self.claims and self.claims[c].gpu)
        shared = bool(ask.fraction or ask.gpu_memory)
        rows = tuple((int(r), float(need[r])) for r in np.flatnonzero(need))
        cost = (round(gpus * MICRO), round(ask.cpu), round(ask.memory))
        plain = not (shared or ask.claims or ask.company)
        return Kind(index, ask, need, rows, cost, shared, self._allowed(ask), gpus, plain)

    def _allowed(self, ask: Ask) -> NDArray[np.bool_]:
        if ask.refused or any(c not in self.claims for c in ask.claims):
            return np.zeros(self.count, dtype=bool)
        found = np.array([permits(node, ask) for node in self.given], dtype=bool)
        if ask.fraction or ask.gpu_memory:
            found &= ~self.sliced
        return found

    def hide_slices(self, node: int) -> None:
        """Something takes an unknown part of this node's slices: nobody else may count on them."""
        for name, row in self.rows.items():
            if slices_of(name):
                self.total[row, node] = self.idle[row, node] = self.future[row, node] = 0

    def fresh(self, node: int) -> str:
        """A name for a GPU of this node that is shared from now on, unlike any that is in use there."""
        while True:
            self._fresh += 1
            name = f"new-{self._fresh}"
            if name not in self.shared[node]:
                return name

    def need_mib(self, kind: Kind, node: int) -> int:
        """MiB of one GPU of this node that a part of a GPU takes."""
        return kind.ask.gpu_memory or round(kind.ask.fraction * self.memory[node])

    def take(self, view: int, kind: Kind, node: int, groups: Sequence[str], sign: int) -> None:
        """Take (sign 1) a task's request from a view of a node, or give it back (-1)."""
        array = self.idle if view == NOW else self.future
        for row, amount in kind.rows:
            array[row, node] -= sign * amount
        if kind.shared:
            self._share(view, array, kind, node, groups, sign)
        for name in kind.ask.claims:
            self._claim(view, array, name, node, sign)

    def _share(
        self, view: int, array: NDArray[np.float64], kind: Kind, node: int, groups: Sequence[str], sign: int
    ) -> None:
        mib = self.need_mib(kind, node)
        table = self.shared[node]
        for group in groups:
            taken = table.setdefault(group, [0, 0])
            before = taken[view]
            taken[view] += sign * mib
            array[GPU, node] -= (taken[view] > 0) - (before > 0)
            if not taken[NOW] and not taken[LATER]:
                del table[group]
        if table:
            self.sharing.add(node)
        else:
            self.sharing.discard(node)

    def _claim(self, view: int, array: NDArray[np.float64], name: str, node: int, sign: int) -> None:
        claim, users = self.claims[name], self.holders[name][view]
        before = users.get(node, 0)
        users[node] = before + sign
        if not users[node]:
            del users[node]
        if (before > 0) != (before + sign > 0):
            array[self.device_rows[claim.device_class], node] -= sign * claim.count

    def gpus_free(self) -> NDArray[np.float64]:
        """GPUs of each node that are or will be free, parts and slices included."""
        free: NDArray[np.float64] = self.gpu_weights @ self.future
        for i in self.sharing:
            table = self.shared[i]
            if table:
                free[i] += sum(1 - taken[LATER] / self.memory[i] for taken in table.values() if taken[LATER] > 0)
        return free


def permits(node: NodeIn, ask: Ask) -> bool:
    """Labels, names and taints."""
    return all(_holds(node, term) for term in ask.where) and node.taints <= ask.tolerates


def _holds(node: NodeIn, term: Term) -> bool:
    value = node.labels.get(term.key) if term.key else node.name
    return (value in term.values) != term.negated
