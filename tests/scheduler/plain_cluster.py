"""The plain rules' cluster: what there is, who may have how much, and who is next.

Whole GPUs, cores and memory only; no topology. It shares no code with the core, so that the two can disagree.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cmp_to_key


@dataclass
class T:
    name: str
    need: tuple[int, int, int]
    status: str = "Pending"
    node: str | None = None
    home: str | None = None
    was: str = "Pending"


@dataclass
class J:
    name: str
    queue: str
    priority: int
    preemptible: bool
    age: int
    minimum: int
    tasks: list[T] = field(default_factory=list)

    def stays(self) -> list[T]:
        return [t for t in self.tasks if t.status in ("Running", "Allocated", "Pipelined")]


@dataclass
class Q:
    name: str
    parent: str | None
    priority: int
    created: int
    quota: tuple[float, float, float]
    limit: tuple[float, float, float]
    weight: tuple[float, float, float]
    fair: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0])


@dataclass
class World:
    nodes: dict[str, tuple[int, int, int]]
    queues: dict[str, Q]
    jobs: dict[str, J]

    def job_of(self, task: T) -> J:
        return next(j for j in self.jobs.values() if any(t is task for t in j.tasks))

    def path(self, name: str) -> list[Q]:
        out = []
        while name is not None:
            out.append(self.queues[name])
            name = self.queues[name].parent
        return out

    def under(self, queue: str) -> list[J]:
        return [j for j in self.jobs.values() if queue in [q.name for q in self.path(j.queue)]]

    def queues_under(self, name: str, leaf: str) -> bool:
        return name in [q.name for q in self.path(leaf)]

    def held(self, queue: str, firm: bool = False) -> list[int]:
        return total(t.need for j in self.under(queue) if not (firm and j.preemptible) for t in j.stays())

    def idle(self, node: str) -> list[int]:
        gone = total(t.need for j in self.jobs.values() for t in j.tasks if on_now(t) == node)
        return [a - b for a, b in zip(self.nodes[node], gone, strict=True)]

    def future(self, node: str) -> list[int]:
        gone = total(t.need for j in self.jobs.values() for t in j.stays() if t.node == node)
        return [a - b for a, b in zip(self.nodes[node], gone, strict=True)]

    def states(self) -> dict[str, tuple[str, str | None]]:
        return {t.name: (t.status, t.node or t.home) for j in self.jobs.values() for t in j.tasks}


def on_now(t: T) -> str | None:
    if t.status in ("Running", "Allocated"):
        return t.node
    return t.home if t.status in ("Releasing", "Pipelined") else None


def total(needs) -> list[int]:
    out = [0, 0, 0]
    for need in needs:
        out = [a + b for a, b in zip(out, need, strict=True)]
    return out


def below(a, b) -> bool:
    return all(y == -1 or x <= y for x, y in zip(a, b, strict=True))


def add(a, b) -> list[int]:
    return [x + y for x, y in zip(a, b, strict=True)]


# shares ---------------------------------------------------------------------------------------------------------------


def shares(w: World) -> None:
    capacity = total(w.nodes.values())
    asked = {
        name: add(w.held(name), total(t.need for j in w.under(name) for t in j.tasks if t.status == "Pending"))
        for name in w.queues
    }

    def level(parent, amounts):
        siblings = [q for q in w.queues.values() if q.parent == parent]
        for r in range(3):
            for q, got in zip(siblings, split(amounts[r], siblings, r, asked), strict=True):
                q.fair[r] = got
        for q in siblings:
            level(q.name, q.fair)

    level(None, capacity)


def split(amount, siblings, r, asked):
    wants = [asked[q.name][r] if q.limit[r] == -1 else min(q.limit[r], asked[q.name][r]) for q in siblings]
    got = [min(amount if q.quota[r] == -1 else q.quota[r], want) for q, want in zip(siblings, wants, strict=True)]
    left = amount - sum(got)
    cut = [0.0] * len(siblings)
    if left <= 0:
        return got
    levels = sorted({q.priority for q in siblings}, reverse=True)
    for priority in levels:
        while left > 0:
            hungry = [
                i for i, q in enumerate(siblings) if q.priority == priority and q.weight[r] > 0 and wants[i] > got[i]
            ]
            weights = sum(siblings[i].weight[r] for i in hungry)
            if not hungry:
                break
            offers = {i: left * siblings[i].weight[r] / weights for i in hungry}
            less = False
            for i in hungry:
                if wants[i] - got[i] <= offers[i] + 1e-9:
                    less = less or wants[i] - got[i] < offers[i] - 1e-9
                    given, cut[i] = wants[i] - got[i], 0.0
                else:
                    given = math.floor(offers[i] + 1e-9)
                    cut[i] = max(0.0, offers[i] - given)
                got[i] += given
                left -= given
            if not less:
                break
    for priority in levels:
        rest = [i for i, q in enumerate(siblings) if q.priority == priority and cut[i] > 1e-9]
        for i in sorted(rest, key=lambda i: (-cut[i], siblings[i].created, siblings[i].name)):
            if left > 0:
                got[i] += min(1, left)
                left -= min(1, left)
    return got


def may(q: Q) -> list[float]:
    out = []
    for r in range(3):
        share = max(q.quota[r], q.fair[r])
        out.append(q.limit[r] if q.quota[r] == -1 else share if q.limit[r] == -1 else min(q.limit[r], share))
    return out


# order ----------------------------------------------------------------------------------------------------------------


def chunk(j: J, virtual: bool = False) -> list[T]:
    free = [
        t for t in j.tasks if t.status == "Pending" or (virtual and t.status == "Releasing" and t.was != "Releasing")
    ]
    missing = j.minimum - len(j.stays())
    return free[:missing] if missing > 0 else free[:1]


def compare(w: World, a: Q, b: Q, ask_a, ask_b, taken) -> int:
    def numbers(q, ask):
        held = w.held(q.name)
        bound = may(q)
        capacity = total(w.nodes.values())
        have = add(held, ask)
        over = all(h > f for h, f in zip(held, q.fair, strict=True))
        starved = below(have, q.quota)
        zero = any(bound[r] == 0 and have[r] > 0 for r in range(3))

        def dominant(x):
            worst = 0.0
            for r in range(3):
                v = x[r] - taken.get(q.name, [0, 0, 0])[r]
                y = bound[r] if bound[r] != -1 else capacity[r]
                worst = max(worst, v * 1000 if bound[r] == 0 else v / y if y else 0.0)
            return worst

        return (over, not starved, -q.priority, zero, dominant(have), dominant(held))

    x, y = numbers(a, ask_a), numbers(b, ask_b)
    if x != y:
        return -1 if x < y else 1
    p, q = may(a), may(b)
    inside = [all(v == -1 or (u != -1 and u <= v) for u, v in zip(m, n, strict=True)) for m, n in ((p, q), (q, p))]
    if p != q and inside[0] != inside[1]:
        return -1 if inside[0] else 1
    return -1 if (a.created, a.name) < (b.created, b.name) else 1


def next_leaf(w: World, lines: dict[str, list[J]], request, taken, sign: int) -> str:
    """Walk down from the top, at each level to the first queue by comparing all of them."""

    def best(name: str) -> J:
        while name not in lines or any(q.parent == name for q in w.queues.values()):
            name = first(name)
        return lines[name][0]

    def first(parent) -> str:
        names = [
            q.name
            for q in w.queues.values()
            if q.parent == parent and any(w.queues_under(q.name, leaf) for leaf in live)
        ]
        key = cmp_to_key(
            lambda a, b: sign * compare(w, w.queues[a], w.queues[b], request(best(a)), request(best(b)), taken)
        )
        return min(names, key=key)

    live = [leaf for leaf, jobs in lines.items() if jobs]
    name = first(None)
    while any(q.parent == name for q in w.queues.values()):
        name = first(name)
    return name


def gang_state(j: J, count: int) -> int:
    return 0 if count < j.minimum else 1 + (count > j.minimum)


def service_key(j: J):
    return (-j.priority, gang_state(j, len(j.stays())), -j.age, list_index(j))


def list_index(j: J) -> int:
    return int(j.name.rsplit("-", 1)[1])


def lines_of(jobs) -> dict[str, list[J]]:
    lines: dict[str, list[J]] = {}
    for j in sorted(jobs, key=service_key):
        lines.setdefault(j.queue, []).append(j)
    return lines
