"""Several backends as one: the platform's own nodes, and the registered clusters beside them.

A registered cluster's nodes carry its name (`lab/node-1`), and so do its platforms (`lab/a100`), so that whoever
plans needs no word for clusters: a task that asks for a platform of one cluster fits on no other node. What belongs
to the first, unnamed member looks as it would without this room.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from osmo_ray.backends.inside import Session, Size, Stream
from osmo_ray.backends.protocol import Backend, BackendUnavailable, PartlyUnavailable
from osmo_ray.spec.attempt import AttemptKey, GroupPlan, LogChunk, NodeReport, Observation, UsageSample
from osmo_ray.spec.reason import Reason

log = logging.getLogger(__name__)
T = TypeVar("T")
_MARK = "/"
_POLL, _PAUSE = 5.0, 1.0
_LIMIT = 25.0
"""Seconds that a registered cluster may take before the others go on without it."""


@dataclass(slots=True)
class Member:
    """One backend; `name` is empty for the platform's own."""

    name: str
    backend: Backend
    nodes: tuple[NodeReport, ...] = ()
    offline: str = ""
    """Why it does not answer now."""
    follower: asyncio.Task[None] | None = None
    groups: set[str] = field(default_factory=set)

    def outside(self, name: str) -> str:
        """A node's or platform's name as the platform knows it."""
        return f"{self.name}{_MARK}{name}" if self.name and name else name

    def inside(self, name: str) -> str:
        """The same as the cluster knows it."""
        return name.partition(_MARK)[2] if self.name else name

    def seen(self, observations: Iterable[Observation]) -> list[Observation]:
        return [replace(o, node=self.outside(o.node)) if self.name else o for o in observations]


class ManyBackends:
    """`own` and whatever was added. Passes for a `Backend`; `name` is that of `own`."""

    def __init__(self, own: Backend) -> None:
        self.name = own.name
        self._members: dict[str, Member] = {"": Member("", own)}
        self._news: asyncio.Queue[Sequence[Observation]] = asyncio.Queue()
        self._home: dict[AttemptKey, str] = {}
        self._told: dict[str, set[str]] = {}
        """By group whose deletion some cluster still has to hear of: the members that have heard."""

    # --- members ---------------------------------------------------------------------------------------------------

    @property
    def offline(self) -> frozenset[str]:
        """Clusters that do not answer: what runs there is neither known nor lost."""
        return frozenset(m.name for m in self._members.values() if m.name and m.offline)

    @property
    def clusters(self) -> Mapping[str, str]:
        """Registered clusters by name, and why each does not answer (empty: it does)."""
        return {m.name: m.offline for m in self._members.values() if m.name}

    def add(self, name: str, backend: Backend) -> None:
        self._members[name] = Member(name, backend, offline="it was not asked yet")

    async def remove(self, name: str) -> None:
        """Forget a cluster; what runs there runs on."""
        member = self._members.pop(name)
        if member.follower is not None:
            member.follower.cancel()
            await asyncio.gather(member.follower, return_exceptions=True)
        await member.backend.close()

    # --- the protocol ----------------------------------------------------------------------------------------------

    async def capacity(self) -> Sequence[NodeReport]:
        own, *others = self._members.values()
        await asyncio.gather(*(self._look(member) for member in others))
        return (*await own.backend.capacity(), *(node for member in others for node in member.nodes))

    async def _look(self, member: Member) -> None:
        """A cluster's nodes; those of one that does not answer stay, and take no work."""
        try:
            async with asyncio.timeout(_LIMIT):
                found = await member.backend.capacity()
            member.offline = ""
            member.nodes = tuple(
                replace(
                    node, name=member.outside(node.name), platform=member.outside(node.platform), backend=member.name
                )
                for node in found
            )
        except (BackendUnavailable, TimeoutError) as error:
            if not member.offline:
                log.warning("cluster %s is offline: %s", member.name, error)
            member.offline = str(error) or "it did not answer in time"
            reason = Reason("BackendOffline", f"cluster {member.name} does not answer: {member.offline}")
            member.nodes = tuple(replace(node, alive=False, reasons=(reason,)) for node in member.nodes)

    async def apply(self, epoch: int, plans: Sequence[GroupPlan]) -> Mapping[str, Reason]:
        parts: dict[str, list[GroupPlan]] = {}
        refused: dict[str, Reason] = {}
        for plan in plans:
            names = {_member(a.node) for a in plan.attempts}
            held = {m.name for m in self._members.values() if plan.uuid in m.groups}
            for name in names | held:
                member = self._members.get(name)
                if member is None:
                    refused[plan.uuid] = Reason("BackendUnknown", f"no cluster {name!r} is registered now")
                    continue
                mine = tuple(replace(a, node=member.inside(a.node)) for a in plan.attempts if _member(a.node) == name)
                member.groups.add(plan.uuid)
                parts.setdefault(name, []).append(replace(plan, attempts=mine))
                self._home.update((a.key, name) for a in mine)
        answers = await self._each(parts, lambda member, part: member.backend.apply(epoch, part))
        for name, answer in answers.items():
            if isinstance(answer, BackendUnavailable) and name:
                reason = Reason("BackendOffline", f"cluster {name} does not answer: {answer}")
                refused.update({plan.uuid: reason for plan in parts[name]})
            elif isinstance(answer, BaseException):
                raise answer
            else:
                refused.update(answer)
        return refused

    async def delete(self, epoch: int, groups: Sequence[str], grace: float) -> None:
        """Raises `PartlyUnavailable` for the groups that a cluster could not be told of; one that is known not to
        answer is not asked."""
        parts: dict[str, list[str]] = {}
        waiting: dict[str, str] = {}
        for uuid in groups:
            held = [m.name for m in self._members.values() if uuid in m.groups]
            for name in held or [n for n in self._members if n not in self._told.get(uuid, ())]:
                if name and self._members[name].offline:
                    waiting[uuid] = name
                else:
                    parts.setdefault(name, []).append(uuid)
        answers = await self._each(parts, lambda member, part: member.backend.delete(epoch, part, grace))
        for name, answer in answers.items():
            if isinstance(answer, BackendUnavailable) and name:
                self._members[name].offline = str(answer)
                waiting.update(dict.fromkeys(parts[name], name))
            elif isinstance(answer, BaseException):
                raise answer
            else:
                self._members[name].groups.difference_update(parts[name])
                for uuid in parts[name]:
                    self._told.setdefault(uuid, set()).add(name)
        for uuid in (uuid for uuid in groups if uuid not in waiting):
            self._told.pop(uuid, None)
        if waiting:
            names = ", ".join(sorted(set(waiting.values())))
            raise PartlyUnavailable(f"cluster {names} does not answer now", frozenset(waiting))

    async def list(self) -> Sequence[Observation]:
        """What the answering members know; `offline` names those whose attempts are missing here."""
        parts = {name: () for name, member in self._members.items() if not (name and member.offline)}
        answers = await self._each(parts, lambda member, _: member.backend.list())
        seen: list[Observation] = []
        for name, answer in answers.items():
            if isinstance(answer, BackendUnavailable) and name:
                self._members[name].offline = str(answer)
            elif isinstance(answer, BaseException):
                raise answer
            else:
                seen += self._members[name].seen(answer)
                self._home.update((o.key, name) for o in answer)
        return seen

    async def watch(self, wait: float) -> Sequence[Observation]:
        own = self._members[""]
        if len(self._members) == 1 and own.follower is None and self._news.empty():
            return own.seen(await own.backend.watch(wait))
        for member in self._members.values():
            if member.follower is None or member.follower.done():
                member.follower = asyncio.ensure_future(self._follow(member))
        try:
            async with asyncio.timeout(wait):
                seen = list(await self._news.get())
        except TimeoutError:
            return ()
        while not self._news.empty():
            seen += self._news.get_nowait()
        return seen

    async def settle(self, keys: Sequence[AttemptKey]) -> None:
        parts: dict[str, list[AttemptKey]] = {}
        for key in keys:
            home = self._home.pop(key, None)
            for name in (home,) if home in self._members else self._members:
                parts.setdefault(name or "", []).append(key)
        for answer in (await self._each(parts, lambda member, part: member.backend.settle(part))).values():
            if isinstance(answer, BaseException) and not isinstance(answer, BackendUnavailable):
                raise answer

    async def logs(self, key: AttemptKey, node: str, offset: int, limit: int, wait: float) -> LogChunk:
        member = self._of(node)
        return await member.backend.logs(key, member.inside(node), offset, limit, wait)

    async def exec(
        self, key: AttemptKey, node: str, argv: Sequence[str], size: Size | None = None, term: str = "xterm"
    ) -> Session:
        member = self._of(node)
        return await member.backend.exec(key, member.inside(node), argv, size, term)

    async def connect(self, key: AttemptKey, node: str, port: int, *, udp: bool = False) -> Stream:
        member = self._of(node)
        return await member.backend.connect(key, member.inside(node), port, udp=udp)

    async def release(self, key: AttemptKey, node: str, *, rerun: bool = False) -> None:
        member = self._of(node)
        await member.backend.release(key, member.inside(node), rerun=rerun)

    async def usage(self) -> Sequence[UsageSample]:
        parts = {name: () for name, member in self._members.items() if not (name and member.offline)}
        answers = await self._each(parts, lambda member, _: member.backend.usage())
        return [sample for answer in answers.values() if not isinstance(answer, BaseException) for sample in answer]

    async def close(self) -> None:
        followers = [m.follower for m in self._members.values() if m.follower is not None]
        for follower in followers:
            follower.cancel()
        await asyncio.gather(*followers, return_exceptions=True)
        await asyncio.gather(*(m.backend.close() for m in self._members.values()), return_exceptions=True)

    def _of(self, node: str) -> Member:
        member = self._members.get(_member(node))
        if member is None:
            raise BackendUnavailable(f"no cluster {_member(node)!r} is registered now")
        return member

    # --- inside ----------------------------------------------------------------------------------------------------

    async def _each(
        self, parts: Mapping[str, Any], ask: Callable[[Member, Any], Coroutine[Any, Any, T]]
    ) -> dict[str, T | BaseException]:
        """One question to each of these members; a registered cluster has a limit of time."""

        async def one(name: str) -> T:
            if not name:
                return await ask(self._members[name], parts[name])
            try:
                async with asyncio.timeout(_LIMIT):
                    return await ask(self._members[name], parts[name])
            except TimeoutError as error:
                raise BackendUnavailable(f"no answer within {_LIMIT:g} s") from error

        if len(parts) == 1:  # by far the most frequent: spares it a task of its own
            (name,) = parts
            try:
                return {name: await one(name)}
            except Exception as error:
                return {name: error}
        answers = await asyncio.gather(*(one(name) for name in parts), return_exceptions=True)
        return dict(zip(parts, answers, strict=True))

    async def _follow(self, member: Member) -> None:
        while True:
            try:
                seen = await member.backend.watch(_POLL)
                if seen:
                    self._news.put_nowait(member.seen(seen))
            except BackendUnavailable as error:
                log.info("cluster %s: %s", member.name or "(own)", error)
                await asyncio.sleep(_PAUSE)


def _member(node: str) -> str:
    """The cluster that a node belongs to; empty for the platform's own."""
    return node.partition(_MARK)[0] if _MARK in node else ""
