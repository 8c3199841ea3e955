"""The next chunk of a job, and its placement: all of it or nothing.

A job below a minimum asks for what is missing in every such pod set at once; a satisfied, elastic one grows by a
single task. Placement follows the tree of sub-groups, each inside the nodes chosen for the one above it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from osmo_ray.scheduler.core import status as st
from osmo_ray.scheduler.core.entities import INFINITE, Amounts, Job, PodSet, Task, cost_of, fits_in, plus
from osmo_ray.scheduler.core.fit import beside, find
from osmo_ray.scheduler.core.inputs import GroupIn, Near, PodSetIn
from osmo_ray.scheduler.core.session import Session
from osmo_ray.scheduler.core.topology import Choice, Mask, choices


def open_tasks(pod_set: PodSet, virtual: bool) -> list[Task]:
    """Tasks that want a place, in order; in a simulation also those that it evicted."""
    return sorted(
        (
            t
            for t in pod_set.tasks
            if t.status == st.PENDING or (virtual and t.status == st.RELEASING and t.first != st.RELEASING)
        ),
        key=lambda t: t.rank,
    )


def chunk(job: Job, virtual: bool = False) -> list[Task]:
    """The tasks that the job would start next."""
    if len(job.tasks) == 1:
        return open_tasks(job.tasks[0].pod_set, virtual)
    behind = [p for p in job.pod_sets.values() if p.stays < p.minimum]
    if behind:
        missing = []
        for p in sorted(behind, key=_progress):
            missing += open_tasks(p, virtual)[: p.minimum - p.stays]
        return missing
    for p in sorted(job.pod_sets.values(), key=_progress):
        tasks = open_tasks(p, virtual)
        if tasks:
            return tasks[:1]
    return []


def upcoming(job: Job) -> tuple[list[Task], Amounts]:
    """The next chunk and its cost, remembered until a task of the job changes."""
    if job.upcoming is None:
        tasks = chunk(job)
        job.upcoming = (tasks, cost_of(tasks))
    return job.upcoming


def request(job: Job) -> Amounts:
    """What the next chunk of a job costs."""
    return upcoming(job)[1]


def _progress(p: PodSet) -> tuple[float, str]:
    return (p.stays / p.minimum if p.minimum else float(p.stays)), p.name


def within_bounds(job: Job, cost: Amounts) -> bool:
    """Limit and, for non-preemptible work, quota on the leaf and every ancestor, for what is asked at all."""
    for queue in job.queue.path:
        for r in range(3):
            if cost[r] <= 0:
                continue
            if queue.limit[r] != INFINITE and queue.held[r] + cost[r] > queue.limit[r]:
                return False
            if not job.given.preemptible and queue.quota[r] != INFINITE and queue.firm[r] + cost[r] > queue.quota[r]:
                return False
    return True


def within_quota(job: Job, cost: Amounts) -> bool:
    """Whether non-preemptible work stays within the quota of its leaf."""
    return job.preemptible or fits_in(plus(job.queue.firm, cost), job.queue.quota)


def place_job(session: Session, job: Job, tasks: Sequence[Task], mask: Mask | None, virtual: bool) -> bool:
    """Place a chunk; on failure nothing has changed."""
    if not tasks or not within_bounds(job, cost_of(tasks)):
        return False
    mark = len(session.journal)
    inside = _Anywhere(mask)
    if job.plain:
        placed = (session.settings.together and _place_together(session, job, tasks, mask, virtual)) or all(
            _place_task(session, task, inside, virtual) for task in tasks
        )
    else:
        placed = _place_group(session, job, job.given.tree, tasks, inside, virtual)
    if not placed:
        session.undo(mark)
        return False
    if not virtual:
        _wait_together(session, job, tasks)
    return True


def _place_together(session: Session, job: Job, tasks: Sequence[Task], mask: Mask | None, virtual: bool) -> bool:
    """All on one node that has room for the sum: where members run already, else the fullest."""
    near = {t.kept for t in job.tasks if t.kept >= 0}
    if len(tasks) == 1 and not near:
        return False
    fits = beside(session, tasks, mask)
    wanted = np.zeros_like(fits)
    wanted[list(near)] = True
    if near and not (fits & wanted).any():
        return False
    fits = fits & wanted if near else fits
    mark = len(session.journal)
    for node in np.flatnonzero(fits)[np.argsort(session.nodes.future[0, fits], kind="stable")][:1]:
        only = np.zeros_like(fits)
        only[node] = True
        if all(_place_task(session, task, _Anywhere(only), virtual) for task in tasks):
            return True
    session.undo(mark)
    return False


def _wait_together(session: Session, job: Job, tasks: Sequence[Task]) -> None:
    """If a pod set has to wait for something to go and cannot start without it, everything new waits."""
    if all(t.status == st.ALLOCATED for t in tasks) and not any(t.status == st.PIPELINED for t in job.tasks):
        return
    for p in job.pod_sets.values():
        waiting = any(t.status == st.PIPELINED for t in p.tasks)
        if waiting and sum(st.REALLY[t.status] for t in p.tasks) < p.minimum:
            break
    else:
        return
    for task in tasks:
        if task.status == st.ALLOCATED:
            node, groups = task.kept, task.kept_on
            session.move(task, st.PIPELINED, -1, node, (), groups)


def _place_group(
    session: Session, job: Job, group: GroupIn, tasks: Sequence[Task], above: Choice | _Anywhere, virtual: bool
) -> bool:
    names = names_of(group)
    for choice in _choices(session, job, group.near, tasks, names, above.mask):
        mark = len(session.journal)
        if all(
            _place_group(session, job, inner, part, _within(choice, above), virtual)
            for inner in group.groups
            if (part := [t for t in tasks if t.pod_set.name in names_of(inner)])
        ) and _place_sets(session, job, group, tasks, _within(choice, above), virtual):
            return True
        session.undo(mark)
    return False


class _Anywhere:
    """No topology has a say."""

    def __init__(self, mask: Mask | None, points: NDArray[np.float64] | None = None) -> None:
        self.mask = mask
        self.points = points


def _within(choice: Choice | _Anywhere, above: Choice | _Anywhere) -> Choice | _Anywhere:
    """A choice that says nothing of points inherits those of the group above."""
    return _Anywhere(choice.mask, above.points) if choice.points is None else choice


def _choices(
    session: Session, job: Job, near: Near | None, tasks: Sequence[Task], names: frozenset[str], mask: Mask | None
) -> Sequence[Choice | _Anywhere]:
    if near is None or not near.topology:
        return [_Anywhere(mask)]
    tree = session.trees.get(near.topology)
    if tree is None:
        return []
    running = [t.kept for t in job.tasks if t.kept >= 0 and t.pod_set.name in names]
    offered = mask if mask is not None else np.ones(session.nodes.count, dtype=bool)
    return choices(tree, near, tasks, running, session.nodes, offered)


def _place_sets(
    session: Session, job: Job, group: GroupIn, tasks: Sequence[Task], above: Choice | _Anywhere, virtual: bool
) -> bool:
    by_name = {p.name: p for p in group.pod_sets}
    parts: dict[str, list[Task]] = {}
    for task in tasks:
        if task.pod_set.name in by_name:
            parts.setdefault(task.pod_set.name, []).append(task)
    return all(_place_set(session, job, by_name[name], part, above, virtual) for name, part in parts.items())


def _place_set(
    session: Session, job: Job, given: PodSetIn, tasks: Sequence[Task], above: Choice | _Anywhere, virtual: bool
) -> bool:
    for choice in _choices(session, job, given.near, tasks, frozenset({given.name}), above.mask):
        mark = len(session.journal)
        inside = _within(choice, above)
        if all(_place_task(session, task, inside, virtual) for task in tasks):
            return True
        session.undo(mark)
    return False


def _place_task(session: Session, task: Task, inside: Choice | _Anywhere, virtual: bool) -> bool:
    place = find(session, task, inside.mask, inside.points)
    if place is None:
        return False
    node, groups, now = place
    if task.held == node and task.kept < 0 and (not groups or groups == task.held_on):
        session.restore(task)
    else:
        session.place(task, node, groups, now and not virtual)
    return True


def names_of(group: GroupIn) -> frozenset[str]:
    """All pod sets below a group."""
    return frozenset(p.name for p in group.pod_sets).union(*(names_of(g) for g in group.groups))
