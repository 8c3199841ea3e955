"""Arrivals once more, with other quotas or nodes: the controller's own schedule loop and engine under a virtual clock.

Groups become workflows of one group each, `control.schedule.Scheduling` places them and asks others to give way, and
`engine.decide` says what follows, as in production. Only what happens on nodes is simple: a group that has its places
runs at once, and ends after its time. One that had to give way begins again from nothing.

Nothing is asked of a scheduler while nothing has changed: cycles follow arrivals, ends, and the moments at which a
minimum runtime is over.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from osmo_ray.control.schedule import Scheduling
from osmo_ray.engine.admit import admit
from osmo_ray.engine.decide import decide_all
from osmo_ray.engine.events import Event, Observed, Placed, Policy, Preempted
from osmo_ray.engine.exits import PREEMPTED
from osmo_ray.engine.model import Workflow
from osmo_ray.engine.plans import PoolRules
from osmo_ray.providers.quota import QuotaSnapshot
from osmo_ray.sim.trace import Arrival
from osmo_ray.spec.attempt import AttemptKey, NodeReport, Observation, Phase
from osmo_ray.spec.model import GroupSpec, ResourceSpec, TaskSpec, WorkflowSpec

_GROUP = "g"
_PLATFORM = "local"
_POLICY = Policy(exit_actions={"RESCHEDULE": str(PREEMPTED)})
"""Who gives way waits again, as on a platform that was not told otherwise."""
_ROUNDS = 50
"""Cycles at one moment, each after some had to give way in the one before; far more than ever follow."""
_HAIR = 1e-3
"""Later than a minimum runtime by this much, so that it is over by any rounding."""


@dataclass(frozen=True, slots=True)
class Variant:
    """A cluster as it is or might be. Without `quota` the rules without queues hold."""

    nodes: tuple[NodeReport, ...]
    quota: QuotaSnapshot | None = None

    @property
    def gpus(self) -> int:
        return sum(node.gpu for node in self.nodes)

    @property
    def cpus(self) -> float:
        return sum(node.cpu for node in self.nodes)


@dataclass(slots=True)
class Fate:
    """What became of one arrival. `started` is when it first had its places; `held` are seconds on nodes, of which
    `lost` were for nothing; `why` is the code of the reason that it waited for last."""

    arrival: Arrival
    started: float | None = None
    ended: float | None = None
    preempted: int = 0
    held: float = 0.0
    lost: float = 0.0
    why: str = ""
    since: float = 0.0
    """When the newest attempt began."""


@dataclass(frozen=True, slots=True)
class Point:
    """From this moment on: GPUs and cores in use, groups that wait."""

    at: float
    gpus: int
    cpus: int
    waiting: int


@dataclass(frozen=True, slots=True)
class Replayed:
    """One replay. `fates` are in the order of arrival; all times are those of the trace."""

    variant: Variant
    fates: tuple[Fate, ...]
    points: tuple[Point, ...]

    @property
    def begun(self) -> float:
        return self.points[0].at

    @property
    def ended(self) -> float:
        """When the last one ended (or, where none ever did, the last one came)."""
        return max((f.ended for f in self.fates if f.ended is not None), default=self.points[-1].at)


def replay(arrivals: Sequence[Arrival], variant: Variant, step: float = 1.0) -> Replayed:
    """Run them all (one at least) to their ends. Groups that can never start are left waiting at the end.
    Cycles are `step` seconds apart or more: a larger one is quicker where many wait, and coarser."""
    return _Replay(sorted(arrivals, key=lambda a: a.submitted), variant, step).run()


def nodes_like(count: int, cpu: float, memory: int, gpu: int) -> tuple[NodeReport, ...]:
    """So many equal nodes."""
    return tuple(
        NodeReport(f"node-{n:0{len(str(count))}}", "", cpu, memory, gpu, 0, platform=_PLATFORM) for n in range(count)
    )


@dataclass(frozen=True, slots=True)
class _Fixed:
    """Quotas that never change."""

    quota: QuotaSnapshot
    error: str = ""

    def snapshot(self) -> QuotaSnapshot:
        return self.quota


@dataclass
class _Replay:
    arrivals: Sequence[Arrival]
    variant: Variant
    step: float
    now: float = 0.0
    live: dict[str, Workflow] = field(default_factory=dict)
    fates: dict[str, Fate] = field(default_factory=dict)
    points: list[Point] = field(default_factory=list)

    def __post_init__(self) -> None:
        quota = self.variant.quota
        self.scheduling = Scheduling(
            PoolRules(),
            _PLATFORM,
            nodes=self.variant.nodes,
            quota=_Fixed(quota) if quota is not None else None,
            clock=lambda: self.now,
        )
        self.shields = _shields(quota)
        self._ids = itertools.count(1)
        self._order = itertools.count()
        self._ends: list[tuple[float, int, str, int]] = []
        self._alarms: list[float] = []
        self.gpus = self.cpus = self.running = 0
        self._due = -math.inf

    def run(self) -> Replayed:
        coming = 0
        while (moment := self._next(coming)) is not None:
            self.now = moment
            changed = self._finish()
            while coming < len(self.arrivals) and self.arrivals[coming].submitted <= moment:
                self._arrive(self.arrivals[coming])
                coming, changed = coming + 1, True
            alarm = bool(self._alarms) and self._alarms[0] <= moment
            while self._alarms and self._alarms[0] <= moment:
                heapq.heappop(self._alarms)
            if (changed or alarm) and len(self.live) > self.running:
                self._cycle_or_later()
            if changed or alarm:
                self.points.append(Point(moment, self.gpus, self.cpus, len(self.live) - self.running))
        return Replayed(self.variant, tuple(self.fates.values()), tuple(self.points))

    def _next(self, coming: int) -> float | None:
        """The next moment at which something happens."""
        moments = [self._ends[0][0]] if self._ends else []
        if coming < len(self.arrivals):
            moments.append(self.arrivals[coming].submitted)
        if self._alarms and len(self.live) > self.running:
            moments.append(self._alarms[0])
        return min(moments, default=None)

    def _arrive(self, arrival: Arrival) -> None:
        number = next(self._ids)
        uuid = f"{number:032x}"
        decision = admit(
            _spec(arrival), id=f"w{number}", uuid=uuid, uuids=(f"{uuid}-{n}" for n in itertools.count()),
            user=arrival.user, pool=arrival.pool, backend=_PLATFORM, priority=arrival.priority,
            now=arrival.submitted, exec_timeout=0.0, queue_timeout=0.0,
        )  # fmt: skip
        self.live[uuid] = decision.workflow
        self.fates[uuid] = Fate(arrival)

    def _cycle_or_later(self) -> None:
        if self.now >= self._due:
            self._cycles()
            self._due = self.now + self.step
        elif self._due not in self._alarms:
            heapq.heappush(self._alarms, self._due)

    def _cycles(self) -> None:
        """One cycle, and another one for as long as places became free by it."""
        for _ in range(_ROUNDS):
            gone = False
            for uuid, events in self.scheduling.events(self.live).items():
                self._decide(uuid, events)
                gone = self._note(uuid, events) or gone
            if not gone:
                return

    def _decide(self, uuid: str, events: Iterable[Event]) -> None:
        self.live[uuid] = decide_all(self.live[uuid], events, self.now, _POLICY).workflow

    def _note(self, uuid: str, events: Iterable[Event]) -> bool:
        """Keep count of what a cycle decided; True when somebody had to leave."""
        gone = False
        for event in events:
            if isinstance(event, Placed):
                self._start(uuid)
            elif isinstance(event, Preempted):
                self._leave(uuid)
                gone = True
        reason = self.live[uuid].groups[0].reason
        self.fates[uuid].why = reason.code if reason else ""
        return gone

    def _start(self, uuid: str) -> None:
        fate = self.fates[uuid]
        self._observe(uuid, Phase.RUNNING)
        fate.since = self.now
        fate.started = self.now if fate.started is None else fate.started
        self._use(fate.arrival, 1)
        heapq.heappush(self._ends, (self.now + fate.arrival.seconds, next(self._order), uuid, fate.preempted))
        for shield in self.shields:
            heapq.heappush(self._alarms, self.now + shield + _HAIR)

    def _leave(self, uuid: str) -> None:
        fate = self.fates[uuid]
        fate.preempted += 1
        fate.held += self.now - fate.since
        fate.lost += self.now - fate.since
        self._use(fate.arrival, -1)

    def _finish(self) -> bool:
        """End what has run its time."""
        changed = False
        while self._ends and self._ends[0][0] <= self.now:
            _, _, uuid, attempt = heapq.heappop(self._ends)
            fate = self.fates[uuid]
            if fate.preempted != attempt:
                continue  # of an attempt that had to give way
            self._observe(uuid, Phase.FINISHED)
            if not self.live[uuid].status.finished:
                raise AssertionError(f"group {uuid} ran its time and did not end: {self.live[uuid].status}")
            del self.live[uuid]
            fate.ended = self.now
            fate.held += self.now - fate.since
            self._use(fate.arrival, -1)
            changed = True
        return changed

    def _observe(self, uuid: str, phase: Phase) -> None:
        """All its tasks told the same, the lead last: a group ends with it."""
        code = 0 if phase is Phase.FINISHED else None
        tasks = sorted(self.live[uuid].groups[0].tasks, key=lambda t: t.lead)
        self._decide(
            uuid,
            [
                Observed(Observation(AttemptKey(t.uuid, t.retry_id), phase, self.now, t.node, exit_code=code), _GROUP)
                for t in tasks
            ],
        )

    def _use(self, arrival: Arrival, by: int) -> None:
        self.running += by
        self.gpus += by * arrival.gpus
        self.cpus += by * arrival.cpus


def _spec(arrival: Arrival) -> WorkflowSpec:
    resources: Mapping[str, ResourceSpec] = {
        f"r{n}": ResourceSpec(cpu=t.cpu, gpu=t.gpu, memory=str(t.memory), storage="0")
        for n, t in enumerate(arrival.tasks)
    }
    tasks = tuple(TaskSpec(f"t{n}", "-", ("-",), lead=n == 0, resource=f"r{n}") for n in range(len(arrival.tasks)))
    return WorkflowSpec("w", (GroupSpec(_GROUP, tasks, barrier=False),), resources)


def _shields(quota: QuotaSnapshot | None) -> tuple[float, ...]:
    """The minimum runtimes that queues have: when one is over, a cycle may decide otherwise."""
    queues = quota.queues if quota is not None else ()
    given = {q.preempt_min_runtime for q in queues} | {q.reclaim_min_runtime for q in queues}
    return tuple(sorted(seconds for seconds in given if seconds))
