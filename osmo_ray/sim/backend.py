"""Nodes that run nothing: attempts go through their phases by the virtual clock, and nodes go down and come back.

It keeps the promises of a real backend (`backends.protocol`): a plan is the level, not an edge; a lower epoch is
refused; what a node saw is told until somebody has heard it, perhaps twice, perhaps late; an attempt of a node that
went down is told as lost.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from random import Random

from osmo_ray.sim.faults import Faults
from osmo_ray.spec.attempt import AttemptKey, AttemptPlan, GroupPlan, NodeReport, Observation, Phase
from osmo_ray.spec.reason import Reason

_CODES = (1, 1, 2, 137, 302, 2010, 3003, 3004)


class Broken(AssertionError):
    """The platform did what it must never do."""


@dataclass(slots=True)
class Attempt:
    """One attempt on a node. `phase` is the last one told; `stage` counts, so that old timers find nothing to do."""

    plan: AttemptPlan
    group: str
    phase: Phase = Phase.ACCEPTED
    generation: int = 0
    stage: int = 0

    @property
    def over(self) -> bool:
        return self.phase in (Phase.FINISHED, Phase.LOST)


@dataclass(slots=True)
class Backend:
    """`at` asks the clock to call a function later: `at(seconds from now, function)`."""

    dice: Random
    faults: Faults
    nodes: dict[str, NodeReport]
    at: Callable[[float, Callable[[], None]], None]
    now: Callable[[], float]
    epoch: int = 0
    attempts: dict[AttemptKey, Attempt] = field(default_factory=dict)
    groups: dict[str, set[AttemptKey]] = field(default_factory=lambda: defaultdict(set))
    known: dict[AttemptKey, int] = field(default_factory=dict)
    """Every attempt there ever was, and its code: 0 and more when it finished, -1 until then."""
    told: list[Observation] = field(default_factory=list)

    # -- verbs

    def apply(self, epoch: int, plans: Iterable[GroupPlan]) -> set[str]:
        """Make each group run exactly its plan; returns the uuids of groups that could not be applied now."""
        self._guard(epoch)
        refused = set()
        for plan in plans:
            if self.dice.random() < self.faults.refused:
                refused.add(plan.uuid)
                continue
            wanted = {a.key: a for a in plan.attempts}
            self._remove(plan.uuid, [k for k in self.groups.get(plan.uuid, ()) if k not in wanted])
            for key, attempt in wanted.items():
                self._level(plan.uuid, key, attempt)
        return refused

    def delete(self, epoch: int, groups: Iterable[str]) -> None:
        """End everything of these groups."""
        self._guard(epoch)
        for group in groups:
            self._remove(group, list(self.groups.get(group, ())))

    def forget(self, groups: Iterable[str]) -> None:
        """A workflow is history; nothing of it may run any more."""
        for group in groups:
            keys = list(self.groups.get(group, ()))
            if alive := [key for key in keys if not self.attempts[key].over]:
                raise Broken(f"attempt {alive[0]} goes on after the end of its workflow, and nobody will end it")
            self._remove(group, keys)

    def _remove(self, group: str, keys: Iterable[AttemptKey]) -> None:
        for key in keys:
            del self.attempts[key]
            self.groups[group].discard(key)

    def observe(self) -> Sequence[Observation]:
        """What is new, with some of it twice, and some of it later."""
        fresh: list[Observation] = []
        kept: list[Observation] = []
        for one in self.told:
            late = self.dice.random() < self.faults.late
            if not late:
                fresh.append(one)
            if late or self.dice.random() < self.faults.doubled:
                kept.append(one)
        self.told = kept
        return fresh

    def retell(self) -> None:
        """A new listener hears the state of everything once more."""
        for attempt in self.attempts.values():
            self._tell(attempt, attempt.phase)

    # -- the world

    def crash(self, name: str, away: float) -> None:
        """The node goes down with all that it runs, and comes back empty."""
        self.nodes[name] = replace(self.nodes[name], alive=False)
        for attempt in [a for a in self.attempts.values() if a.plan.node == name and not a.over]:
            attempt.stage += 1
            self.at(self.dice.uniform(1, 20), lambda a=attempt: self._lost(a))  # type: ignore[misc]
        self.at(away, lambda: self._back(name))

    def _back(self, name: str) -> None:
        self.nodes[name] = replace(self.nodes[name], alive=True)

    def _lost(self, attempt: Attempt) -> None:
        if self.attempts.get(attempt.plan.key) is attempt and not attempt.over:
            self._tell(attempt, Phase.LOST, reason=Reason("NodeLost", f"{attempt.plan.node} went down"))

    def _guard(self, epoch: int) -> None:
        if epoch < self.epoch:
            raise Broken(f"a command of epoch {epoch} came after epoch {self.epoch}")
        self.epoch = epoch

    def _level(self, group: str, key: AttemptKey, plan: AttemptPlan) -> None:
        attempt = self.attempts.get(key)
        if attempt is None:
            if key in self.known:
                return  # it ended and was removed: a late plan revives nothing
            mates = (k for k in self.groups[group] if k.task_uuid == key.task_uuid)
            if any(not self.attempts[k].over for k in mates):
                raise Broken(f"two attempts of one task at once: {key}")
            self.known[key] = -1
            attempt = self.attempts[key] = Attempt(plan, group, generation=plan.restart)
            self.groups[group].add(key)
            if not self.nodes[plan.node].alive:
                self.at(5.0, lambda: self._lost(attempt))
                return
            self._tell(attempt, Phase.PREPARING)
            self._after(attempt, self.dice.uniform(0.1, 3), self._prepared)
            return
        attempt.plan = plan
        if attempt.over:
            return
        if plan.restart > attempt.generation:
            attempt.generation, attempt.stage = plan.restart, attempt.stage + 1
            self._prepared(attempt)
        elif attempt.phase is Phase.READY and plan.go:
            self._start(attempt)

    def _after(self, attempt: Attempt, seconds: float, act: Callable[[Attempt], None]) -> None:
        stage = attempt.stage

        def later() -> None:
            if self.attempts.get(attempt.plan.key) is attempt and attempt.stage == stage and not attempt.over:
                act(attempt)

        self.at(seconds, later)

    def _prepared(self, attempt: Attempt) -> None:
        if attempt.plan.barrier and not attempt.plan.go:
            self._tell(attempt, Phase.READY)
        else:
            self._start(attempt)

    def _start(self, attempt: Attempt) -> None:
        attempt.stage += 1
        self._tell(attempt, Phase.RUNNING)
        self._after(attempt, self.dice.expovariate(1 / 30) + 0.1, self._end)

    def _end(self, attempt: Attempt) -> None:
        code = self.dice.choice(_CODES) if self.dice.random() < self.faults.failed else 0
        self.known[attempt.plan.key] = code
        self._tell(attempt, Phase.FINISHED, code=code)

    def _tell(self, attempt: Attempt, phase: Phase, code: int | None = None, reason: Reason | None = None) -> None:
        attempt.phase = phase
        if phase is Phase.FINISHED and code is None:
            code = self.known[attempt.plan.key]
        output = f"out/{attempt.plan.key}" if phase is Phase.FINISHED else ""
        node, key = attempt.plan.node, attempt.plan.key
        self.told.append(
            Observation(key, phase, self.now(), node, "10.0.0.1", attempt.generation, code, output, reason)
        )
