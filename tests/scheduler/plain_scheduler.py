"""The rules again, slow and plain: dictionaries, copies instead of a journal, everything sorted anew at each step.

`plain_cluster.py` holds the cluster, the shares and the order; here is what a cycle does.
"""

from __future__ import annotations

import copy
import math

from plain_cluster import (
    J,
    T,
    World,
    add,
    below,
    chunk,
    gang_state,
    lines_of,
    list_index,
    may,
    next_leaf,
    service_key,
    shares,
    total,
)

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
