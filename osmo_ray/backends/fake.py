"""A backend in memory: nodes that exist only as numbers, attempts that end as a script says.

It passes the same contract suite as the real ones and is what simulations and tests of the control plane run on. It
never stands in for a real backend where that one is the subject.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from osmo_ray.backends.fake_inside import FakeSession, FakeStream
from osmo_ray.backends.inside import NotInside, Size
from osmo_ray.backends.protocol import BackendUnavailable, StaleEpoch
from osmo_ray.spec.attempt import (
    AttemptKey,
    AttemptPlan,
    GroupPlan,
    LogChunk,
    NodeReport,
    Observation,
    Phase,
    UsageSample,
)
from osmo_ray.spec.reason import Reason


@dataclass(frozen=True, slots=True)
class Ending:
    """How an attempt goes: seconds that it runs, and its exit code; `seconds` of infinity runs until deleted."""

    seconds: float = 0.0
    exit_code: int = 0


Script = Callable[[AttemptPlan], Ending]


class FakeBackend:
    """`script` decides how each attempt goes. `unplug()` makes every verb fail until `plug()`."""

    def __init__(
        self,
        name: str = "local",
        nodes: Sequence[NodeReport] | None = None,
        script: Script | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.name = name
        self.nodes: list[NodeReport] = list(nodes or [NodeReport("n1", "10.0.0.1", 1000.0, 1 << 40, 8, 1 << 40)])
        self.script: Script = script or (lambda plan: Ending())
        self.clock = clock
        self.started: list[AttemptKey] = []
        """Every attempt whose command began, in order: a doubled entry would be work done twice."""
        self.listening: set[int] = set()
        """Ports on which every attempt answers with what it hears."""
        self.released: list[AttemptKey] = []
        self.run_again: list[AttemptKey] = []
        self._epoch = 0
        self._plugged = True
        self._newest: dict[AttemptKey, Observation] = {}
        self._plans: dict[AttemptKey, AttemptPlan] = {}
        self._buried: set[str] = set()
        self._settled: set[AttemptKey] = set()
        self._running: dict[AttemptKey, asyncio.Task[None]] = {}
        self._news: asyncio.Queue[Observation] = asyncio.Queue()

    # -- the protocol

    async def capacity(self) -> Sequence[NodeReport]:
        self._check()
        return tuple(self.nodes)

    async def apply(self, epoch: int, plans: Sequence[GroupPlan]) -> Mapping[str, Reason]:
        self._check()
        self._fence(epoch)
        for plan in plans:
            if plan.uuid not in self._buried:
                self._apply_group(plan)
        return {}

    async def delete(self, epoch: int, groups: Sequence[str], grace: float) -> None:
        self._check()
        self._fence(epoch)
        self._buried.update(groups)
        for key in [k for k, p in self._plans.items() if p.group_uuid in groups]:
            self._end(key)

    async def list(self) -> Sequence[Observation]:
        self._check()
        return tuple(self._newest.values())

    async def watch(self, wait: float) -> Sequence[Observation]:
        self._check()
        try:
            async with asyncio.timeout(wait):
                seen = [await self._news.get()]
        except TimeoutError:
            return ()
        while not self._news.empty():
            seen.append(self._news.get_nowait())
        return seen

    async def settle(self, keys: Sequence[AttemptKey]) -> None:
        self._check()
        self._settled.update(keys)
        for key in keys:
            self._newest.pop(key, None)
            self._end(key)

    async def logs(self, key: AttemptKey, node: str, offset: int, limit: int, wait: float) -> LogChunk:
        self._check()
        text = f"1 O ran {key}\n".encode()
        part = text[offset : offset + limit]
        at = offset + len(part)
        return LogChunk(part, at, at == len(text) and key not in self._running)

    async def exec(
        self, key: AttemptKey, node: str, argv: Sequence[str], size: Size | None = None, term: str = "xterm"
    ) -> FakeSession:
        self._look_inside(key)
        return FakeSession(tuple(argv), size)

    async def connect(self, key: AttemptKey, node: str, port: int, *, udp: bool = False) -> FakeStream:
        self._look_inside(key)
        if port not in self.listening:
            raise NotInside(Reason("NotRunning", f"nothing listens on port {port} of the task"))
        return FakeStream()

    async def release(self, key: AttemptKey, node: str, *, rerun: bool = False) -> None:
        self._check()
        (self.run_again if rerun else self.released).append(key)

    def _look_inside(self, key: AttemptKey) -> None:
        self._check()
        if key not in self._running:
            raise NotInside(Reason("NotRunning", "the task does not run on this node (any more)"))

    async def usage(self) -> Sequence[UsageSample]:
        return ()

    async def close(self) -> None:
        for task in self._running.values():
            task.cancel()
        await asyncio.gather(*self._running.values(), return_exceptions=True)

    # -- faults

    def unplug(self) -> None:
        """Nothing answers any more; what runs goes on."""
        self._plugged = False

    def plug(self) -> None:
        self._plugged = True

    def vanish(self, key: AttemptKey) -> None:
        """Every trace of an attempt is gone, as after the loss of a disk."""
        self._end(key)
        self._newest.pop(key, None)

    # -- inside

    def _check(self) -> None:
        if not self._plugged:
            raise BackendUnavailable(f"{self.name} does not answer")

    def _fence(self, epoch: int) -> None:
        if epoch < self._epoch:
            raise StaleEpoch(f"epoch {epoch} is over; {self._epoch} was seen")
        self._epoch = epoch

    def _apply_group(self, plan: GroupPlan) -> None:
        wanted = {a.key: a for a in plan.attempts if a.key not in self._settled}
        for key in [k for k, p in self._plans.items() if p.group_uuid == plan.uuid and k not in wanted]:
            self._end(key)
        for key, attempt in wanted.items():
            old = self._plans.get(key)
            self._plans[key] = attempt
            if key not in self._newest:
                self._report(attempt, Phase.ACCEPTED)
                self._run(attempt)
            elif old is not None and _again(old, attempt) and (key in self._running or not old.go):
                self._stop(key)
                self._run(attempt)

    def _run(self, plan: AttemptPlan) -> None:
        self._running[plan.key] = asyncio.ensure_future(self._live(plan))

    async def _live(self, plan: AttemptPlan) -> None:
        if plan.barrier and not plan.go:
            self._report(plan, Phase.READY)
            return
        self.started.append(plan.key)
        self._report(plan, Phase.RUNNING)
        ending = self.script(plan)
        if ending.seconds == float("inf"):
            await asyncio.Event().wait()
        await asyncio.sleep(ending.seconds)
        self._running.pop(plan.key, None)
        output = next((o.target for o in plan.outputs if o.kind == "prefix"), "")
        self._report(plan, Phase.FINISHED, exit_code=ending.exit_code, output=output)

    def _report(self, plan: AttemptPlan, phase: Phase, exit_code: int | None = None, output: str = "") -> None:
        seen = Observation(
            plan.key, phase, self.clock(), plan.node, "10.1.0.1", plan.restart, exit_code=exit_code, output=output
        )
        self._newest[plan.key] = seen
        self._news.put_nowait(seen)

    def _stop(self, key: AttemptKey) -> None:
        task = self._running.pop(key, None)
        if task is not None:
            task.cancel()

    def _end(self, key: AttemptKey) -> None:
        self._stop(key)
        plan = self._plans.pop(key, None)
        seen = self._newest.get(key)
        if plan is not None and seen is not None and seen.phase not in (Phase.FINISHED, Phase.LOST):
            self._newest[key] = replace(seen, phase=Phase.LOST, at=self.clock(), reason=Reason("Deleted", "deleted"))


def _again(old: AttemptPlan, new: AttemptPlan) -> bool:
    """Whether the new plan opens the barrier or asks for the command to begin again."""
    return (old.go, old.restart) != (new.go, new.restart)
