"""The production core under a virtual clock: `decide`, `plan` and the plans of groups, with everything around them
replaced by dictionaries, dice and a heap of things to come.

A controller's step is that of production: observations in, decisions committed, limits, placements, then commands out.
It may die between any two lines. What was committed stays (the store); what it only remembered is gone. After every
commit the laws are checked; a broken one names the seed, and the same seed gives the same history again.
"""

from __future__ import annotations

import hashlib
import heapq
import itertools
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from random import Random

from osmo_ray.control import schedule
from osmo_ray.engine.admit import admit
from osmo_ray.engine.decide import decide_all
from osmo_ray.engine.events import CancelRequested, Event, Observed, Policy, Preempted, Tick
from osmo_ray.engine.limits import next_limit
from osmo_ray.engine.model import ApplyGroup, Command, DeleteGroup, Task, Workflow
from osmo_ray.engine.plans import PoolRules, group_plan
from osmo_ray.engine.status import TaskStatus, may_move
from osmo_ray.sim.backend import Backend, Broken
from osmo_ray.sim.faults import Faults
from osmo_ray.sim.making import make
from osmo_ray.spec.attempt import AttemptKey, NodeReport
from osmo_ray.spec.model import Priority
from osmo_ray.spec.reason import Reason

_STEP = 1.0
_PATIENCE = 50_000.0
"""Virtual seconds after the last arrival in which everything must have ended."""


class Died(Exception):
    """The controller died here."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of it. `digest` is that of the whole history: equal for equal seeds."""

    statuses: Mapping[str, int]
    attempts: int
    crashes: int
    seconds: float
    digest: str


@dataclass
class World:
    """One simulation. `run` raises `Broken` with the seed in its message."""

    seed: int
    workflows: int
    faults: Faults = field(default_factory=Faults)
    nodes: int = 12
    every: float = 4.0
    """Virtual seconds between two submissions, in the mean."""

    policy: Policy = field(default_factory=lambda: Policy(task_retries=1, platform_retries=3, start_timeout=300.0))
    rules: PoolRules = field(default_factory=PoolRules)
    now: float = 1_000_000.0
    # What the store holds: it survives everything.
    stored: dict[str, Workflow] = field(default_factory=dict)
    outbox: dict[int, tuple[str, Command]] = field(default_factory=dict)
    scheduling: schedule.Scheduling = field(init=False)
    """What a controller remembers."""
    epoch: int = 1

    def __post_init__(self) -> None:
        self.scheduling = schedule.Scheduling(self.rules, "local")
        self.dice = Random(self.seed)  # noqa: S311 - a simulation has to be repeatable
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._order, self._ids, self._seqs = itertools.count(), itertools.count(1), itertools.count(1)
        self._history = hashlib.blake2b(digest_size=16)
        self._done: Counter[str] = Counter()
        self._home: dict[str, str] = {}
        self.crashes = 0
        reports = (
            NodeReport(f"n{n}", "10.0.0.1", cpu=16.0, memory=64 << 30, gpu=4, storage=1 << 40)
            for n in range(self.nodes)
        )
        made = {n.name: n for n in reports}
        self.backend = Backend(self.dice, self.faults, made, self._at, lambda: self.now)

    # -- the clock

    def run(self) -> Outcome:
        """Until every workflow has ended and nothing runs any more."""
        begun, at = self.now, 0.0
        for number in range(self.workflows):
            at += self.dice.expovariate(1 / self.every)
            self._at(at, lambda number=number: self._submit(number))  # type: ignore[misc]
        self._at(0.0, self._controller)
        deadline = self.now + at + _PATIENCE
        try:
            while self._heap:
                self.now, _, act = heapq.heappop(self._heap)
                if self.now > deadline:
                    left = next(iter(self.stored.values())).id
                    raise Broken(f"{len(self.stored)} workflows never ended, {left} for one")
                act()
            if alive := [k for k, a in self.backend.attempts.items() if not a.over]:
                raise Broken(f"{len(alive)} attempts go on that nobody waits for, {alive[0]} for one")
        except Exception as error:
            raise Broken(f"seed {self.seed}, second {self.now - begun:.1f}: {type(error).__name__}: {error}") from error
        return Outcome(
            dict(self._done), len(self.backend.known), self.crashes, self.now - begun, self._history.hexdigest()
        )

    def _at(self, seconds: float, act: Callable[[], None]) -> None:
        heapq.heappush(self._heap, (self.now + seconds, next(self._order), act))

    # -- people

    def _submit(self, number: int) -> None:
        spec = make(self.dice, f"w{number}")
        decision = admit(
            spec, id=f"w{number}-1", uuid=self._id(), uuids=iter(self._id, ""), user="ann", pool="default",
            backend="local", priority=self.dice.choice(tuple(Priority)), now=self.now,
            exec_timeout=spec.timeout.exec_timeout or 0.0, queue_timeout=spec.timeout.queue_timeout or 0.0,
        )  # fmt: skip
        uuid = decision.workflow.uuid
        self.stored[uuid] = decision.workflow
        self._home.update({t.uuid: uuid for g in decision.workflow.groups for t in g.tasks})
        if self.dice.random() < self.faults.canceled:
            self._at(self.dice.expovariate(1 / 60), lambda: self._cancel(uuid))

    def _cancel(self, uuid: str) -> None:
        """Through the API, which writes to the store behind the controller's back."""
        if uuid in self.stored:
            self._commit(self.stored[uuid], [CancelRequested("bob", force=self.dice.random() < 0.5)])

    def _id(self) -> str:
        return f"{next(self._ids):032x}"

    # -- the controller

    def _controller(self) -> None:
        """One step, at the end of which the next one is due; dead controllers begin again with an empty memory."""
        pause = _STEP
        try:
            self._step()
        except Died:
            self.crashes += 1
            self.epoch += 1
            self.scheduling = schedule.Scheduling(self.rules, "local")
            self.backend.retell()
            pause = self.dice.uniform(1, 30)
        if self.stored or self.outbox or self._heap:
            self._at(pause, self._controller)

    def _step(self) -> None:
        self._weather()
        seen: dict[str, list[Event]] = defaultdict(list)
        for one in self.backend.observe():
            home = self._home.get(one.key.task_uuid)
            if home in self.stored:
                seen[home].append(Observed(one))
        self._apply(seen)
        self._may_die()
        self._apply({u: [Tick()] for u, w in self.stored.items() if next_limit(w, self.policy) <= self.now})
        self._place()
        self._may_die()
        self._dispatch()

    def _may_die(self) -> None:
        if self.dice.random() < self.faults.controller:
            raise Died

    def _weather(self) -> None:
        for name, node in list(self.backend.nodes.items()):
            if node.alive and self.dice.random() < self.faults.node:
                self.backend.crash(name, self.dice.uniform(5, 300))
        if self.dice.random() < self.faults.preempted:
            running = [(w, g.name) for w in self.stored.values() for g in w.groups if g.status is TaskStatus.RUNNING]
            if running:
                workflow, group = self.dice.choice(running)
                self._commit(workflow, [Preempted(group, Reason("Preempted", "a better claim"))])

    def _apply(self, events: Mapping[str, Iterable[Event]]) -> None:
        for uuid, found in events.items():
            if uuid in self.stored:
                self._commit(self.stored[uuid], found)

    def _place(self) -> None:
        self.scheduling.nodes = list(self.backend.nodes.values())
        for node in self.scheduling.take(self.stored).nodes:
            if not node.total.holds(node.used):
                raise Broken(f"{node.name} has given away more than it has: {node.used} of {node.total}")
        self._apply(self.scheduling.events(self.stored))

    def _dispatch(self) -> None:
        """Commands of the outbox, deletes last; each is settled after it was taken, or is sent again."""
        deletes = [seq for seq, (_, c) in self.outbox.items() if isinstance(c, DeleteGroup)]
        applies = [seq for seq, (_, c) in self.outbox.items() if isinstance(c, ApplyGroup)]
        for seq in (*applies, *deletes):
            uuid, command = self.outbox[seq]
            if not self._send(uuid, command):
                continue
            self._may_die()
            del self.outbox[seq]
            if not any(u == uuid for u, _ in self.outbox.values()):
                self._forget(uuid)

    def _send(self, uuid: str, command: Command) -> bool:
        workflow = self.stored[uuid]
        group = workflow.group(command.group)
        if group is None:
            return True
        if isinstance(command, DeleteGroup):
            self.backend.delete(self.epoch, [group.uuid])
            return True
        if group.status.finished:
            return True
        return not self.backend.apply(self.epoch, [group_plan(workflow, group, self.rules)])

    # -- the store

    def _commit(self, workflow: Workflow, events: Iterable[Event]) -> None:
        decision = decide_all(workflow, events, self.now, self.policy)
        if not decision.changed:
            return
        after = replace(decision.workflow, version=workflow.version + 1)
        self._check(workflow, after)
        self.stored[after.uuid] = after
        for command in decision.commands:
            self.outbox[next(self._seqs)] = (after.uuid, command)
        tasks = " ".join(f"{t.status}/{t.retry_id}" for g in after.groups for t in g.tasks)
        self._history.update(f"{self.now:.3f} {after.id} {after.status} {tasks}\n".encode())
        if after.status.finished and not any(u == after.uuid for u, _ in self.outbox.values()):
            self._forget(after.uuid)

    def _forget(self, uuid: str) -> None:
        """An ended workflow whose commands are all sent is history."""
        workflow = self.stored.get(uuid)
        if workflow is None or not workflow.status.finished:
            return
        self._done[workflow.status.value] += 1
        self.backend.forget(g.uuid for g in workflow.groups)
        del self.stored[uuid]

    # -- the laws

    def _check(self, before: Workflow, after: Workflow) -> None:
        if before.status.finished:
            raise Broken(f"{after.id} changed after its end")
        complete = {g.name for g in after.groups if g.status is TaskStatus.COMPLETED}
        for old, new in zip(before.groups, after.groups, strict=True):
            if new.status is not old.status and not may_move(old.status, new.status):
                raise Broken(f"{after.id}/{new.name} went from {old.status} to {new.status}")
            placed = any(t.node for t in new.tasks)
            if placed and not set(new.upstream) <= complete:
                raise Broken(f"{after.id}/{new.name} was placed before its upstream was complete")
            for was, task in zip(old.tasks, new.tasks, strict=True):
                same = task.retry_id == was.retry_id and task.status is was.status
                if not same and not may_move(was.status, TaskStatus.RESCHEDULED if _again(was, task) else task.status):
                    raise Broken(f"{after.id}/{task.name} went from {was.status} to {task.status}")
                if task.output and self.backend.known.get(_key(task.output), -1) < 0:
                    raise Broken(f"{after.id}/{task.name} took the output {task.output} of an attempt that never ended")
        if after.status.finished and not all(g.status.finished for g in after.groups):
            raise Broken(f"{after.id} ended before its groups")


def _again(old: Task, new: Task) -> bool:
    """Whether a new attempt took the place of the old one."""
    return new.retry_id > old.retry_id


def _key(output: str) -> AttemptKey:
    return AttemptKey.parse(output.removeprefix("out/"))


def simulate(seed: int, workflows: int, faults: Faults | None = None, nodes: int = 12) -> Outcome:
    """Run one world. Raises `Broken`, which names the seed."""
    return World(seed, workflows, faults or Faults(), nodes).run()
