"""Who is next: a heap of queues per level of the tree, a sorted list of jobs per leaf.

Only what lies on the path of the last pop can have changed, so only that is keyed anew, from the leaf up. Victims
come in exactly the reverse of this order.
"""

from __future__ import annotations

import heapq
from bisect import insort
from collections.abc import Callable, Iterable, Sequence
from typing import Generic, Protocol, TypeVar

from osmo_ray.scheduler.core.entities import INFINITE, Amounts, Queue
from osmo_ray.scheduler.core.inputs import JobIn

Key = tuple[object, ...]
Rank = tuple[int, int, float, int]


class Member(Protocol):
    """What stands in a line: a job, or what is left of one to take."""

    @property
    def queue(self) -> Queue: ...
    @property
    def given(self) -> JobIn: ...
    @property
    def index(self) -> int: ...
    def gang_state(self) -> int: ...


M = TypeVar("M", bound=Member)


class Tail:
    """The last two comparisons: a share that is smaller in every way, then the older queue."""

    __slots__ = ("queue",)

    def __init__(self, queue: Queue) -> None:
        self.queue = queue

    def __lt__(self, other: Tail) -> bool:
        a, b = self.queue.may, other.queue.may
        if a != b:
            if _below(a, b):
                return True
            if _below(b, a):
                return False
        return (self.queue.given.created, self.queue.name) < (other.queue.given.created, other.queue.name)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Tail) and self.queue is other.queue

    def __hash__(self) -> int:
        return hash(self.queue.name)


def _below(a: Sequence[float], b: Sequence[float]) -> bool:
    return all(y == INFINITE or (x != INFINITE and x <= y) for x, y in zip(a, b, strict=True))


class Reverse:
    """A key that sorts the other way round."""

    __slots__ = ("key",)

    def __init__(self, key: Key) -> None:
        self.key = key

    def __lt__(self, other: Reverse) -> bool:
        return other.key < self.key

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Reverse) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)


def queue_key(queue: Queue, request: Sequence[int], taken: Sequence[int], total: Sequence[int]) -> Key:
    """How a queue compares with its siblings when its best job asks for `request`; smaller goes first."""
    held, quota, may, fair = queue.held, queue.quota, queue.may, queue.fair
    over = held[0] > fair[0] and held[1] > fair[1] and held[2] > fair[2]
    starved, forbidden, with_job, without = True, False, 0.0, 0.0
    for r in range(3):
        have = held[r] + request[r]
        if quota[r] != INFINITE and have > quota[r]:
            starved = False
        bound = may[r]
        if bound == 0:
            forbidden = forbidden or have > 0
            with_job = max(with_job, (have - taken[r]) * 1000.0)
            without = max(without, (held[r] - taken[r]) * 1000.0)
            continue
        if bound == INFINITE:
            bound = total[r]
            if not bound:
                continue
        with_job = max(with_job, (have - taken[r]) / bound)
        without = max(without, (held[r] - taken[r]) / bound)
    return (over, not starved, -queue.given.priority, forbidden, with_job, without, Tail(queue))


def job_key(job: Member, reverse: bool) -> Rank:
    """Inside a leaf: priority, gangs below their minimum first, age. Greater keys are served first, or taken first."""
    given = job.given
    if reverse:
        return (-given.priority, job.gang_state(), given.created, job.index)
    return (given.priority, -job.gang_state(), -given.created, -job.index)


class Line(Generic[M]):
    """Jobs of many queues in the order in which they are served, or, reversed, taken from."""

    def __init__(
        self,
        jobs: Iterable[M],
        total: Sequence[int],
        request: Callable[[M], Amounts],
        reverse: bool = False,
        ranked: dict[Queue, list[tuple[Rank, M]]] | None = None,
    ) -> None:
        self._total, self._request, self._reverse = total, request, reverse
        self._jobs: dict[Queue, list[tuple[Rank, M]]] = ranked if ranked is not None else {}
        self._heaps: dict[Queue | None, list[tuple[object, int, Queue]]] = {}
        self._taken: dict[Queue, Amounts] = {}
        self._stale: Queue | None = None
        self._zero = [0, 0, 0]
        self._version, self._asked = -1, self._zero
        for job in jobs:
            self._jobs.setdefault(job.queue, []).append((job_key(job, reverse), job))
        for line in self._jobs.values() if ranked is None else ():
            line.sort(key=_rank)
        self._build()

    def _build(self) -> None:
        by_depth = sorted(self._jobs, key=lambda q: -len(q.path))
        levels: dict[int, set[Queue]] = {}
        for leaf in by_depth:
            for queue in leaf.path:
                levels.setdefault(len(queue.path), set()).add(queue)
        for depth in sorted(levels, reverse=True):
            for queue in levels[depth]:
                self._heaps.setdefault(queue.parent, []).append((self._queue_key(queue), queue.index, queue))
            for parent in {q.parent for q in levels[depth]}:
                heapq.heapify(self._heaps[parent])

    def _best(self, queue: Queue) -> M:
        while queue.children:
            queue = self._heaps[queue][0][2]
        return self._jobs[queue][-1][1]

    def _queue_key(self, queue: Queue) -> object:
        request = self._request(self._best(queue))
        key = queue_key(queue, request, self._taken.get(queue, self._zero), self._total)
        return Reverse(key) if self._reverse else key

    def _refresh(self) -> None:
        leaf, self._stale = self._stale, None
        if leaf is None or self._unchanged(leaf):
            return
        for queue in leaf.path:
            heap = self._heaps[queue.parent]
            if (queue.children and not self._heaps.get(queue)) or (not queue.children and not self._jobs[queue]):
                self._drop(heap, queue)
            else:
                self._rekey(heap, queue)

    def _unchanged(self, leaf: Queue) -> bool:
        """Whether the next job of the leaf asks for the same and nothing has moved: then no key has changed."""
        line = self._jobs[leaf]
        return (
            not self._reverse
            and bool(line)
            and leaf.path[-1].version == self._version
            and self._request(line[-1][1]) == self._asked
        )

    def _drop(self, heap: list[tuple[object, int, Queue]], queue: Queue) -> None:
        if heap and heap[0][2] is queue:
            heapq.heappop(heap)

    def _rekey(self, heap: list[tuple[object, int, Queue]], queue: Queue) -> None:
        entry = (self._queue_key(queue), queue.index, queue)
        if heap and heap[0][2] is queue:
            heapq.heapreplace(heap, entry)

    def __bool__(self) -> bool:
        self._refresh()
        return bool(self._heaps.get(None))

    def pop(self) -> M:
        """The next job; ask whether there is one first."""
        self._refresh()
        queue = self._heaps[None][0][2]
        while queue.children:
            queue = self._heaps[queue][0][2]
        self._stale = queue
        job = self._jobs[queue].pop()[1]
        if not self._reverse:
            self._version, self._asked = queue.path[-1].version, self._request(job)
        return job

    def push(self, job: M) -> None:
        """Put a job that was popped back into its place."""
        insort(self._jobs[job.queue], (job_key(job, self._reverse), job), key=_rank)

    def changed(self) -> None:
        """Queues beside the path of the last pop have changed too: key them all anew."""
        self._stale = None
        self._jobs = {leaf: line for leaf, line in self._jobs.items() if line}
        self._heaps = {}
        self._build()

    def take(self, job: M, cost: Sequence[int]) -> None:
        """Count something of a job as taken, which changes the order of who is taken from next."""
        for queue in job.queue.path:
            taken = self._taken.setdefault(queue, [0, 0, 0])
            for r in range(3):
                taken[r] += cost[r]


def _rank(entry: tuple[Rank, object]) -> Rank:
    return entry[0]
