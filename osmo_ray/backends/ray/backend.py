"""The Ray backend: plans go to the agents of the nodes they name, observations come back from all of them."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

from ray.exceptions import RayError

from osmo_ray.backends.inside import Session, Size, Stream
from osmo_ray.backends.protocol import BackendUnavailable, StaleEpoch
from osmo_ray.backends.ray import inside, names
from osmo_ray.backends.ray.agent import AgentSettings
from osmo_ray.backends.ray.agents import Agents
from osmo_ray.backends.ray.line import LineBroken
from osmo_ray.backends.ray.lines import Lines
from osmo_ray.runtime import StaleEpoch as NodeStaleEpoch
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

log = logging.getLogger(__name__)
_ROUND = 1.0
_NAME_AFTER = 1.0
_CALL = 15.0
"""Seconds that an agent may take to answer before it counts as silent."""
_LISTEN = 5.0
"""Seconds after which a listener says again that it is there."""


class RayBackend:
    """One Ray cluster. Needs a connected `ray`; `settings` go to every agent it starts."""

    def __init__(self, name: str, settings: AgentSettings) -> None:
        self.name = name
        self._agents = Agents(settings)
        self._reports: dict[str, NodeReport] = {}
        self._where: dict[str, set[str]] = defaultdict(set)
        self._news: asyncio.Queue[Sequence[Observation]] = asyncio.Queue()
        self._unnamed: set[AttemptKey] = set()
        self._listener = uuid.uuid4().hex
        self._settled: list[AttemptKey] = []
        self._settling: asyncio.Task[None] | None = None
        self._followers: dict[str, asyncio.Task[None]] = {}
        self._lines = Lines()

    async def capacity(self) -> Sequence[NodeReport]:
        alive = await self._agents.refresh()
        for node in alive:
            if node not in self._followers or self._followers[node].done():
                self._followers[node] = asyncio.ensure_future(self._follow(node))
        for node in [n for n in self._followers if n not in alive]:
            self._followers.pop(node).cancel()
        answers = await asyncio.gather(*(self._ask(n, "report") for n in alive), return_exceptions=True)
        found = {n: a for n, a in zip(alive, answers, strict=True) if isinstance(a, NodeReport)}
        gone = {n: replace(r, alive=False) for n, r in self._reports.items() if n not in found}
        self._reports = {**gone, **found}
        return tuple(self._reports.values())

    async def apply(self, epoch: int, plans: Sequence[GroupPlan]) -> Mapping[str, Reason]:
        per_node: dict[str, list[AttemptPlan]] = defaultdict(list)
        groups: dict[str, list[str]] = defaultdict(list)
        for plan in plans:
            for attempt in plan.attempts:
                per_node[attempt.node].append(attempt)
            self._where[plan.uuid].update(a.node for a in plan.attempts)
            for node in self._where[plan.uuid]:
                groups[node].append(plan.uuid)
        nodes = list(groups)
        answers = await asyncio.gather(
            *(self._ask(n, "apply", epoch, per_node[n], groups[n]) for n in nodes), return_exceptions=True
        )
        refused: dict[str, Reason] = {}
        for node, answer in zip(nodes, answers, strict=True):
            if isinstance(answer, StaleEpoch):
                raise answer
            if isinstance(answer, BaseException):
                reason = Reason("NodeSilent", f"node {node} does not answer: {answer}")
                # A node that is gone has nothing to be told; its attempts are found lost by the tidy loop.
                wanted = {a.group_uuid for a in per_node[node]} if node in self._agents.known else set()
                refused.update(dict.fromkeys(wanted, reason))
        self._name_later(per_node)
        return refused

    async def delete(self, epoch: int, groups: Sequence[str], grace: float) -> None:
        per_node: dict[str, list[str]] = defaultdict(list)
        for group in groups:
            for node in self._where.pop(group, None) or set(self._agents.known):
                per_node[node].append(group)
        nodes = [n for n in per_node if n in self._agents.known]
        answers = await asyncio.gather(
            *(self._ask(n, "delete", epoch, per_node[n], grace) for n in nodes), return_exceptions=True
        )
        for answer in answers:
            if isinstance(answer, BaseException):
                for group in groups:
                    self._where[group].update(per_node)
                raise answer

    async def list(self) -> Sequence[Observation]:
        nodes = list(self._agents.known)
        answers = await asyncio.gather(*(self._ask(n, "attempts") for n in nodes), return_exceptions=True)
        seen: list[Observation] = []
        for node, answer in zip(nodes, answers, strict=True):
            if isinstance(answer, BaseException):
                raise BackendUnavailable(f"node {node} could not list its attempts: {answer}")
            seen += answer
        return seen

    async def watch(self, wait: float) -> Sequence[Observation]:
        try:
            async with asyncio.timeout(wait):
                seen = list(await self._news.get())
        except TimeoutError:
            return ()
        while not self._news.empty():
            seen += self._news.get_nowait()
        return seen

    async def settle(self, keys: Sequence[AttemptKey]) -> None:
        """Told in rounds rather than one by one; what a crash keeps from being told, the tidy loop settles."""
        self._settled += keys
        if self._settling is None or self._settling.done():
            self._settling = asyncio.ensure_future(self._settle())

    async def _settle(self) -> None:
        await asyncio.sleep(_ROUND)
        keys, self._settled = self._settled, []
        nodes = list(self._agents.known)
        await asyncio.gather(*(self._ask(n, "settle", keys) for n in nodes), return_exceptions=True)

    async def logs(self, key: AttemptKey, node: str, offset: int, limit: int, wait: float) -> LogChunk:
        chunk: LogChunk = await self._ask(node, "logs", key, offset, limit, wait, limit_s=wait + _CALL)
        return chunk

    async def exec(
        self, key: AttemptKey, node: str, argv: Sequence[str], size: Size | None = None, term: str = "xterm"
    ) -> Session:
        return await inside.reached(node, inside.begin_exec(self._agent(node), key, tuple(argv), size, term))

    async def connect(self, key: AttemptKey, node: str, port: int, *, udp: bool = False) -> Stream:
        return await inside.reached(node, inside.begin_connect(self._agent(node), key, port, udp=udp))

    async def release(self, key: AttemptKey, node: str, *, rerun: bool = False) -> None:
        await inside.reached(node, self._agent(node).release.remote(key, rerun))

    def _agent(self, node: str) -> Any:
        if (agent := self._agents.known.get(node)) is None:
            raise BackendUnavailable(f"node {node} is not part of the cluster now")
        return agent

    async def usage(self) -> Sequence[UsageSample]:
        nodes = list(self._agents.known)
        answers = await asyncio.gather(*(self._ask(n, "usage") for n in nodes), return_exceptions=True)
        return [s for a in answers if not isinstance(a, BaseException) for s in a]

    async def close(self) -> None:
        for task in self._followers.values():
            task.cancel()
        await asyncio.gather(*self._followers.values(), return_exceptions=True)
        self._lines.close()

    # -- inside

    async def _ask(self, node: str, verb: str, *args: Any, limit_s: float = _CALL) -> Any:
        """One call to an agent, with its faults in the words of the protocol."""
        agent = self._agent(node)
        async with self._faults(node, verb, limit_s):
            line = await self._lines.to(node, agent)
            return await (line.ask(verb, *args) if line else getattr(agent, verb).remote(*args))

    @asynccontextmanager
    async def _faults(self, node: str, verb: str, limit_s: float) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(limit_s):
                yield
        except TimeoutError as error:
            raise BackendUnavailable(f"node {node} did not answer {verb} within {limit_s:g} s") from error
        except NodeStaleEpoch as error:
            raise StaleEpoch(str(error)) from error
        except (RayError, LineBroken) as error:
            self._agents.suspect(node)
            raise BackendUnavailable(f"node {node}: {type(error).__name__}") from error

    async def _follow(self, node: str) -> None:
        """Keep listening to an agent; what a broken call missed, the tidy loop finds by listing."""
        while True:
            try:
                await self._listen(node)
            except BackendUnavailable as error:
                log.info("%s", error)
                await asyncio.sleep(0.5)

    async def _listen(self, node: str) -> None:
        """For a while: over a line news come by themselves, otherwise one long poll brings them."""
        agent = self._agent(node)
        async with self._faults(node, "observe", _LISTEN + _CALL):
            line = await self._lines.to(node, agent)
            if line is not None:
                await line.hear(self._heard, "follow", self._listener, _LISTEN)
            else:
                self._heard(await agent.observe.remote(self._listener, _LISTEN))

    def _heard(self, seen: Sequence[Observation]) -> None:
        if seen:
            self._unnamed.difference_update(o.key for o in seen if o.phase in (Phase.FINISHED, Phase.LOST))
            self._news.put_nowait(seen)

    def _name_later(self, per_node: Mapping[str, Sequence[AttemptPlan]]) -> None:
        """One call per attempt, named after it, is how Ray's dashboard shows what runs. It costs both sides a
        millisecond or two, so an attempt that is over before anybody could look gets none."""
        fresh = [
            (node, plan) for node, plans in per_node.items() for plan in plans if self._agents.first_time(plan.key)
        ]
        if fresh:
            self._unnamed.update(plan.key for _, plan in fresh)
            asyncio.get_running_loop().call_later(_NAME_AFTER, self._name, fresh)

    def _name(self, fresh: Sequence[tuple[str, AttemptPlan]]) -> None:
        for node, plan in fresh:
            agent = self._agents.known.get(node)
            if agent is not None and plan.key in self._unnamed:
                name = names.attempt(plan.workflow_id, plan.task, plan.key.retry_id)
                agent.attempt.options(name=name, enable_task_events=True).remote(plan.key)
            self._unnamed.discard(plan.key)
