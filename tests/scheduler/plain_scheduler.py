"""The rules again, slow and plain: dictionaries, copies instead of a journal, everything sorted anew at each step.

Whole GPUs, cores and memory only; no topology. It shares no code with the core, so that the two can disagree.
"""

from __future__ import annotations

import copy
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


def _under(self, name, leaf):
    return name in [q.name for q in self.path(leaf)]


World.queues_under = _under


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


# placement ------------------------------------------------------------------------------------------------------------


def within(w: World, j: J, cost) -> bool:
    for q in w.path(j.queue):
        held, firm = w.held(q.name), w.held(q.name, True)
        for r in range(3):
            if cost[r] and q.limit[r] != -1 and held[r] + cost[r] > q.limit[r]:
                return False
            if cost[r] and not j.preemptible and q.quota[r] != -1 and firm[r] + cost[r] > q.quota[r]:
                return False
    return True


def place(w: World, j: J, tasks: list[T], virtual: bool, nodes=None) -> bool:
    """Changes the world even when it fails: callers work on copies."""
    if not tasks or not within(w, j, total(t.need for t in tasks)):
        return False
    for t in tasks:
        fits = [n for n in sorted(nodes or w.nodes) if below_plain(t.need, w.future(n))]
        if not fits:
            return False
        row = 0 if t.need[0] else 1

        def score(n, t=t, row=row):
            now = below_plain(t.need, w.idle(n))
            return (-now, -(row == 1 and w.nodes[n][0] == 0), w.future(n)[row], n)

        best = min(fits, key=score)
        if t.status == "Releasing" and t.home == best:
            t.status, t.node = t.was, best
        elif below_plain(t.need, w.idle(best)) and not virtual:
            t.status, t.node = "Allocated", best
        else:
            t.status, t.node = "Pipelined", best
    started = sum(t.status in ("Allocated", "Running") for t in j.tasks)
    if not virtual and any(t.status == "Pipelined" for t in j.tasks) and started < j.minimum:
        for t in tasks:
            t.status = "Pipelined"
    return True


def below_plain(a, b) -> bool:
    return all(x <= y or x == 0 for x, y in zip(a, b, strict=True))


def attempt(w: World, name: str, virtual: bool) -> World | None:
    trial = copy.deepcopy(w)
    j = trial.jobs[name]
    return trial if place(trial, j, chunk(j, virtual), virtual) else None


def ready(w: World) -> list[J]:
    return [
        j
        for j in w.jobs.values()
        if any(t.status == "Pending" for t in j.tasks)
        and sum(t.status in ("Pending", "Running", "Allocated", "Pipelined") for t in j.tasks) >= j.minimum
    ]


def allocate(w: World) -> World:
    lines = lines_of(ready(w))
    while any(lines.values()):
        leaf = next_leaf(w, lines, lambda j, w=w: total(t.need for t in chunk(w.jobs[j.name])), {}, 1)
        j = lines[leaf].pop(0)
        trial = attempt(w, j.name, False)
        if trial is not None:
            w = trial
            lines = {q: [w.jobs[x.name] for x in line] for q, line in lines.items()}
            if chunk(w.jobs[j.name]):
                lines[leaf] = sorted([*lines[leaf], w.jobs[j.name]], key=service_key)
    return w


# victims --------------------------------------------------------------------------------------------------------------


def units(w: World, names: list[str]) -> list[list[tuple[str, str]]]:
    """(job, task) names, unit by unit."""
    left = {n: [t.name for t in w.jobs[n].stays() if t.status != "Allocated"] for n in names}
    taken: dict[str, list[int]] = {}
    out = []

    def key(n):
        j = w.jobs[n]
        return (j.priority, -gang_state(j, len(left[n])), j.age, -list_index(j))

    while any(left.values()):
        lines: dict[str, list[J]] = {}
        for n in sorted((n for n in left if left[n]), key=key):
            lines.setdefault(w.jobs[n].queue, []).append(w.jobs[n])
        leaf = next_leaf(w, lines, lambda j: [0, 0, 0], taken, -1)
        j = lines[leaf][0]
        unit = left[j.name][-1:] if len(left[j.name]) > j.minimum else list(left[j.name])
        left[j.name] = [t for t in left[j.name] if t not in unit]
        cost = total(t.need for t in j.tasks if t.name in unit)
        for q in w.path(leaf):
            taken[q.name] = add(taken.get(q.name, [0, 0, 0]), cost)
        out.append([(j.name, t) for t in unit])
    return out


def find(w: World, job: str, task: str) -> T:
    return next(t for t in w.jobs[job].tasks if t.name == task)


def solve(w: World, name: str, prey: list[str], valid) -> World | None:
    tasks = [t.name for t in chunk(w.jobs[name])]
    recorded: list[tuple[str, str]] = []
    trial = None
    for count in range(1, len(tasks) + 1):
        found = prefix(w, name, tasks[:count], recorded, prey, valid)
        if found is None:
            return None
        trial, recorded = found
    return trial


def prefix(w, name, tasks, recorded, prey, valid):
    gpus = sorted((find(w, name, t).need[0] for t in tasks), reverse=True)
    if recorded:
        found = simulate(w, name, tasks, recorded, valid, gpus)
        if found:
            return found
    offered = []
    for unit in units(w, prey):
        if unit[0] in recorded or any(u in recorded for u in unit):
            continue
        offered.append(unit)
        for node in sorted({find(w, *u).node for u in unit}):
            jobs = {u[0] for one in offered for u in one if find(w, *u).node == node}
            victims = [u for one in offered for u in one if u[0] in jobs]
            found = simulate(w, name, tasks, [*recorded, *victims], valid, gpus)
            if found:
                return found
    return None


def simulate(w, name, tasks, victims, valid, gpus):
    s = copy.deepcopy(w)
    feasible = None
    if all(gpus):
        feasible = [n for n in s.nodes if s.future(n)[0] > 0]
        feasible += [find(s, *v).node for v in victims]
    for v in victims:
        t = find(s, *v)
        t.home = t.node if t.status == "Running" else t.home
        t.status = "Releasing" if t.home else "Pending"
        t.node = None
    touched = {v[0] for v in victims}
    waiting = touched | {name}
    members = {j.name for j in ready(w)} | waiting

    def wanted(j: J) -> list[T]:
        if j.name == name:
            return [t for t in j.tasks if t.name in tasks]
        return chunk(j, j.name in touched)

    lines = lines_of(s.jobs[n] for n in members)
    while any(lines.values()) and waiting:
        leaf = next_leaf(s, lines, lambda j, s=s: total(t.need for t in wanted(s.jobs[j.name])), {}, 1)
        j = lines[leaf].pop(0)
        if j.name not in waiting:
            continue
        waiting.discard(j.name)
        trial = copy.deepcopy(s)
        mine = trial.jobs[j.name]
        chosen = [t for t in mine.tasks if t.name in tasks] if j.name == name else chunk(mine, True)
        if place(trial, mine, chosen, True, feasible):
            s = trial
            lines = {q: [s.jobs[x.name] for x in line] for q, line in lines.items()}
        elif j.name == name:
            return None
    gone = [v for v in victims if find(s, *v).node is None]
    moved = [v for v in victims if find(s, *v).status == "Pipelined"]
    return (s, [*gone, *moved]) if valid(w, s, name, tasks, gone, moved) else None


def taking(w: World, allowed, prey, valid) -> World:
    names = [j.name for j in ready(w)]
    while names:
        lines = lines_of(w.jobs[n] for n in names)
        leaf = next_leaf(w, lines, lambda j, w=w: total(t.need for t in chunk(w.jobs[j.name])), {}, 1)
        name = lines[leaf][0].name
        names.remove(name)
        if allowed(w, name):
            w = solve(w, name, prey(w, name), valid) or w
    return w


def preempt(w: World) -> World:
    def allowed(w, name):
        j = w.jobs[name]
        cost = total(t.need for t in chunk(j))
        return j.preemptible or below(add(w.held(j.queue, True), cost), w.queues[j.queue].quota)

    def prey(w, name):
        j = w.jobs[name]
        return [
            o.name
            for o in w.jobs.values()
            if o.queue == j.queue and o.preemptible and o.priority < j.priority and o.stays()
        ]

    return taking(w, allowed, prey, lambda *_: True)


def consolidate(w: World) -> World:
    def allowed(w, name):
        j = w.jobs[name]
        return j.preemptible and sum(w.future(n)[0] for n in w.nodes) >= sum(t.need[0] for t in chunk(j))

    def prey(w, name):
        return [o.name for o in w.jobs.values() if o.name != name and o.preemptible and o.stays()]

    return taking(w, allowed, prey, lambda w, s, n, t, gone, moved: not gone)


def reclaim(w: World) -> World:
    def allowed(w, name):
        j = w.jobs[name]
        q = w.queues[j.queue]
        cost = total(t.need for t in chunk(j))
        return below(add(w.held(q.name), cost), q.fair) and (
            j.preemptible or below(add(w.held(q.name, True), cost), q.quota)
        )

    def prey(w, name):
        j = w.jobs[name]
        return [o.name for o in w.jobs.values() if o.queue != j.queue and o.preemptible and o.stays()]

    return taking(w, allowed, prey, fair)


def fair(w, s, name, tasks, gone, moved) -> bool:
    j = w.jobs[name]
    cost = total(find(w, name, t).need for t in tasks)
    left = {q: w.held(q) for q in w.queues}
    lost, used = set(), [c > 0 for c in cost]
    for job in dict.fromkeys(v[0] for v in gone):
        mine = [v[1] for v in gone if v[0] == job]
        victim = w.jobs[job]
        alive = sum(t.was == "Running" or t.was == "Pipelined" for t in victim.tasks)
        spare = max(0, alive - victim.minimum)
        for unit in [*([m] for m in mine[:spare]), mine[spare:]]:
            if not unit:
                continue
            amount = total(find(w, job, t).need for t in unit)
            ours, theirs = levelled(w, j.queue, victim.queue)
            over_fair = not below(left[theirs.name], may(theirs))
            owed = below(add(w.held(ours.name), cost), ours.quota) and not below(left[theirs.name], theirs.quota)
            if not (over_fair or owed):
                return False
            used = [u or a > 0 for u, a in zip(used, amount, strict=True)]
            for q in w.path(victim.queue):
                left[q.name] = [a - b for a, b in zip(left[q.name], amount, strict=True)]
                lost.add(q.name)
    if not j.preemptible and not all(below(add(w.held(q.name, True), cost), q.quota) for q in w.path(j.queue)):
        return False
    for q in w.path(j.queue):
        for o in w.queues.values():
            if o.parent == q.parent and o is not q and o.name in lost:
                for r in range(3):
                    mine = ratio(left[q.name][r] + cost[r], q.fair[r])
                    if used[r] and mine > 1 and o.fair[r] > 0 and mine >= ratio(left[o.name][r], o.fair[r]):
                        return False
    return True


def levelled(w, a, b):
    pair = None
    for pair in zip(reversed(w.path(a)), reversed(w.path(b)), strict=False):
        if pair[0] is not pair[1]:
            break
    return pair


def ratio(held, share):
    return (math.inf if held else 0.0) if share == 0 else held / share


def stale(w: World) -> World:
    for j in w.jobs.values():
        uses = [t for t in j.tasks if t.status in ("Running", "Pipelined", "Allocated", "Releasing")]
        if uses and len(uses) < j.minimum:
            for t in j.stays():
                t.home, t.node, t.status = (
                    (t.node, None, "Releasing") if t.status == "Running" else (None, None, "Pending")
                )
    return w


def cycle(w: World) -> World:
    shares(w)
    for action in (allocate, consolidate, reclaim, preempt, stale):
        w = action(w)
    return w
