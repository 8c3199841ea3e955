"""The Kubernetes backend: a pod per attempt, told by server-side apply, seen by a watch.

All that matters stands in the cluster, in labels and annotations of the pods; what is kept here is a copy. A
controller that starts anew lists it and goes on.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from osmo_ray.backends.inside import Session, Size, Stream
from osmo_ray.backends.kubernetes import nodes, pods
from osmo_ray.backends.kubernetes.client import ApiError, HttpApi, Object
from osmo_ray.backends.kubernetes.fence import Fence
from osmo_ray.backends.kubernetes.following import Follower
from osmo_ray.backends.kubernetes.gangs import Gangs
from osmo_ray.backends.kubernetes.inside import PodSessions
from osmo_ray.backends.kubernetes.metrics import Metrics
from osmo_ray.backends.kubernetes.observe import OVER, Seen
from osmo_ray.backends.kubernetes.reflector import Reflector
from osmo_ray.backends.kubernetes.sending import Sender
from osmo_ray.backends.kubernetes.settings import ClusterSettings, Platform
from osmo_ray.backends.protocol import BackendUnavailable
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
_FIRST_LIST = 20.0
_QUIET = 75.0
_ROUND, _SETTLE_AGAIN = 0.3, 3.0
_AT_ONCE = 16
_DAY = 86400.0
_TOLD = ("FailedScheduling",)  # the pod's condition says the same
_START_ERROR = 3003
_BEYOND = (Phase.UPLOADING, *OVER)


class KubernetesBackend:
    """One cluster, in which `settings.namespace` is ours to use."""

    def __init__(self, name: str, api: HttpApi, settings: ClusterSettings) -> None:
        self.name, self.settings = name, settings
        self._api = api
        self.inside = PodSessions(name, api, settings.namespace, settings.owner)
        base = f"/api/v1/namespaces/{settings.namespace}"
        self._metrics = Metrics(api, settings.namespace, settings.owner)
        self._send = Sender(api, settings.namespace)
        mine = {"labelSelector": f"{pods.OWNER}={settings.owner}"}
        others = {"labelSelector": f"{pods.OWNER}!={settings.owner}"}
        warnings = {"fieldSelector": "involvedObject.kind=Pod,type=Warning"}
        self._fence = Fence(api, settings.namespace, settings.owner)
        self._mine = Reflector(api, self._send.pods, mine, self._pod_changed)
        self._nodes = Reflector(api, "/api/v1/nodes", {})
        self._others = Reflector(api, "/api/v1/pods", others, optional=True)
        self._events = Reflector(api, f"{base}/events", warnings, self._event, optional=True)
        self._reflectors = [self._mine, self._nodes, self._others, self._events, self._fence.reflector]
        self._gangs: Gangs | None = None
        if settings.scheduler:
            self._gangs = Gangs(api, settings.namespace, {pods.OWNER: settings.owner})
            about = {"fieldSelector": "involvedObject.kind=PodGroup"}
            self._reflectors.append(Reflector(api, f"{base}/events", about, self._gangs.heard, optional=True))
        self._pods: dict[AttemptKey, dict[int, Object]] = {}
        """By attempt and restart: the newest restart counts."""
        self._groups: dict[str, set[AttemptKey]] = {}
        """By group: the attempts that have pods."""
        self._newest: dict[AttemptKey, Observation] = {}
        self._news: asyncio.Queue[Observation] = asyncio.Queue()
        self._said: dict[AttemptKey, tuple[str, str]] = {}
        self._told: set[AttemptKey] = set()
        """Attempts that were applied from here."""
        self._strays: set[str] = set()
        """Names of pods that nobody wants, on their way out."""
        self._buried: dict[str, float] = {}
        self._settled: dict[AttemptKey, float] = {}
        self._to_settle: list[AttemptKey] = []
        self._background: set[asyncio.Task[None]] = set()
        self._followers: dict[AttemptKey, Follower] = {}
        self._sending = asyncio.Semaphore(_AT_ONCE)

    # --- the protocol ----------------------------------------------------------------------------------------------

    async def capacity(self) -> Sequence[NodeReport]:
        await self._connected()
        self._forget_old()
        return nodes.reports(self._nodes.objects.values(), self._others.objects.values(), self.settings)

    async def apply(self, epoch: int, plans: Sequence[GroupPlan]) -> Mapping[str, Reason]:
        await self._connected()
        await self._fence.pass_with(epoch)
        wanted = [plan for plan in plans if plan.uuid not in self._buried]
        await self._end_superseded(wanted)
        answers = await asyncio.gather(*(self._apply_group(epoch, plan) for plan in wanted))
        refused: dict[str, Reason] = {}
        for uuid, answer in ((plan.uuid, one) for plan, found in zip(wanted, answers, strict=True) for one in found):
            if isinstance(answer, (ApiError, BackendUnavailable)):
                refused[uuid] = Reason("ClusterRefused", f"cluster {self.name}: {answer}")
            elif isinstance(answer, BaseException):
                raise answer
        return refused

    async def delete(self, epoch: int, groups: Sequence[str], grace: float) -> None:
        await self._connected()
        await self._fence.pass_with(epoch)
        self._buried.update(dict.fromkeys(groups, time.monotonic()))
        await self._send.delete_by(
            self.settings.owner, pods.GROUP, [uuid for uuid in groups if uuid in self._groups], grace
        )

    async def list(self) -> Sequence[Observation]:
        await self._connected()
        for key, found in self._pods.items():
            newest, pod = self._newest.get(key), found[max(found)]
            if "deletionTimestamp" in pod["metadata"] or (newest is not None and newest.phase is Phase.PENDING):
                self._look(key, pod)  # patience ends without any change of the pod
        return tuple(self._newest.values())

    async def watch(self, wait: float) -> Sequence[Observation]:
        self._start()
        try:
            async with asyncio.timeout(wait):
                seen = [await self._news.get()]
        except TimeoutError:
            return ()
        while not self._news.empty():
            seen.append(self._news.get_nowait())
        return seen

    async def settle(self, keys: Sequence[AttemptKey]) -> None:
        """Told in rounds; what a crash keeps from being told, the tidy loop settles again."""
        for key in keys:
            self._settled[key] = time.monotonic()
            self._newest.pop(key, None)
            if (follower := self._followers.pop(key, None)) is not None:
                follower.close()
        if not self._to_settle:
            self._later(self._settle())
        self._to_settle += [key for key in keys if key in self._pods]

    async def logs(self, key: AttemptKey, node: str, offset: int, limit: int, wait: float) -> LogChunk:
        found = self._pods.get(key)
        if not found or key in self._settled:
            raise BackendUnavailable(f"cluster {self.name} has no pod of {key}")
        self._close_idle()
        follower = self._followers.get(key)
        if follower is None:
            path = f"{self._send.pods}/{found[max(found)]['metadata']['name']}/log"
            follower = Follower(self._api, path, {"container": pods.CTRL, "follow": "true"})
            self._followers[key] = follower
        newest = self._newest.get(key)
        return await follower.read(offset, limit, wait, ended=newest is not None and newest.phase in OVER)

    async def exec(
        self, key: AttemptKey, node: str, argv: Sequence[str], size: Size | None = None, term: str = "xterm"
    ) -> Session:
        return await self.inside.exec(key, node, argv, size, term)

    async def connect(self, key: AttemptKey, node: str, port: int, *, udp: bool = False) -> Stream:
        return await self.inside.connect(key, node, port, udp=udp)

    async def release(self, key: AttemptKey, node: str, *, rerun: bool = False) -> None:
        await self.inside.release(key, node, rerun=rerun)

    def use_templates(self, templates: Mapping[str, Mapping[str, Any]]) -> None:
        """From now on pods of `pool/platform` are merged over these."""
        self.settings = replace(self.settings, templates=templates)

    async def usage(self) -> Sequence[UsageSample]:
        """From the metrics API, where the cluster has one."""
        return await self._metrics.samples() if self._pods else ()

    async def close(self) -> None:
        for follower in self._followers.values():
            follower.close()
        for task in self._background:
            task.cancel()
        await asyncio.gather(*self._background, *(r.close() for r in self._reflectors), return_exceptions=True)
        await self._api.close()

    # --- what is told ----------------------------------------------------------------------------------------------

    async def _apply_group(self, epoch: int, plan: GroupPlan) -> Sequence[BaseException | None]:
        """What came of it: one for each attempt, or one for all of them."""
        if self._gangs is not None and plan.delegated is not None and plan.attempts:
            try:
                await self._gangs.prepare(plan, plan.delegated)
            except (ApiError, BackendUnavailable) as error:
                return [error]
        work = (self._apply(epoch, plan, attempt) for attempt in plan.attempts)
        return await asyncio.gather(*work, return_exceptions=True)

    async def _apply(self, epoch: int, group: GroupPlan, plan: AttemptPlan) -> None:
        key, found = plan.key, self._pods.get(plan.key, {})
        newest = self._newest.get(key)
        if key in self._settled or (newest is not None and newest.phase in _BEYOND):
            return
        last = max(found, default=-1)
        if last > plan.restart:
            return
        self._told.add(key)
        async with self._sending:
            if last == plan.restart:
                await self._update(plan, found[last])
            else:
                await self._create(epoch, group, plan)
                await self._send.delete([pod for restart, pod in found.items() if restart < plan.restart], 1.0)

    async def _update(self, plan: AttemptPlan, pod: Object) -> None:
        """An attempt that is there already: only its orders can have changed, or its Secret be missing."""
        if (changed := await self._send.order(plan, pod)) is not None:
            self._take(changed)
        waits = self._newest.get(plan.key)
        if waits is not None and waits.phase in (Phase.PENDING, Phase.ACCEPTED):
            await self._send.give_missing_secret(plan, self.settings, pod)

    async def _create(self, epoch: int, group: GroupPlan, plan: AttemptPlan) -> None:
        try:
            made = await self._send.make(plan, group, self.settings, self._platform(group, plan), epoch)
            self._take(made)
            await self._send.give_secret(plan, self.settings, str(made["metadata"]["uid"]))
        except ApiError as error:
            if error.status not in (400, 422):
                raise
            reason = Reason("PodRefused", f"cluster {self.name} refused the pod: {error.message[:500]}")
            self._tell(
                Observation(
                    plan.key, Phase.FINISHED, time.time(), plan.node, "", plan.restart,
                    exit_code=_START_ERROR, reason=reason,
                )
            )  # fmt: skip

    def _platform(self, group: GroupPlan, plan: AttemptPlan) -> Platform:
        if group.delegated is not None:
            return self.settings.platform_named(group.delegated.platforms.get(plan.key, ""))
        if (node := self._nodes.objects.get(f"/{plan.node}")) is not None:
            return self.settings.platform_of(nodes.reports([node], (), self.settings)[0])
        return self.settings.platforms[0]

    async def _end_superseded(self, plans: Iterable[GroupPlan]) -> None:
        """Attempts of these groups that the plans no longer list."""
        for plan in plans:
            old = self._groups.get(plan.uuid, set()) - {a.key for a in plan.attempts}
            await self._send.delete([p for k in old for p in self._pods[k].values() if not self._is_over(p)], 10.0)

    def _is_over(self, pod: Object) -> bool:
        """Its end is known, or it is being ended: settling it deletes it."""
        newest = self._newest.get(pods.key_of(pod))
        return (newest is not None and newest.phase in OVER) or "deletionTimestamp" in pod["metadata"]

    async def _settle(self, pause: float = _ROUND) -> None:
        await asyncio.sleep(pause)
        keys, self._to_settle = self._to_settle, []
        try:
            await self._send.delete_by(self.settings.owner, pods.ATTEMPT, [str(key) for key in keys], 1.0)
        except (ApiError, BackendUnavailable) as error:
            log.warning("cluster %s: settled pods could not be deleted yet: %s", self.name, error)
            self._to_settle = keys + self._to_settle
            self._later(self._settle(_SETTLE_AGAIN))

    # --- what is seen ----------------------------------------------------------------------------------------------

    def _start(self) -> None:
        for reflector in self._reflectors:
            reflector.start()

    async def _connected(self) -> None:
        """Raises `BackendUnavailable` while our copy of the cluster may be stale."""
        self._start()
        for reflector in self._reflectors:
            await reflector.ready(_FIRST_LIST)
        for reflector in (self._mine, self._nodes):
            if reflector.error:
                raise BackendUnavailable(f"cluster {self.name}: {reflector.error}")
        if time.monotonic() - max(r.heard for r in self._reflectors) > _QUIET:
            await self._api.get("/version")
        if self._gangs is not None:
            await self._gangs.begin(self._groups)

    def _take(self, pod: Object) -> None:
        """A pod as an answer shows it, which may be newer than what the watch has told."""
        self._pod_changed(pod, False)

    def _pod_changed(self, pod: Object, deleted: bool) -> None:
        key, restart = pods.key_of(pod), pods.restart_of(pod)
        group = str(pod["metadata"]["labels"][pods.GROUP])
        found = self._pods.setdefault(key, {})
        self._groups.setdefault(group, set()).add(key)
        known = found.get(restart)
        if deleted:
            found.pop(restart, None)
            self._send.forget(str(pod["metadata"]["name"]))
            self._strays.discard(str(pod["metadata"]["name"]))
            if not found:
                self._pods.pop(key)
                self._groups[group].discard(key)
                if not self._groups[group]:
                    self._groups.pop(group)
                    self._later(self._ungang(group))
            if restart > max(found, default=-1):
                self._gone(key, pod)
            return
        if known is not None and _version(known) > _version(pod):
            return
        found[restart] = pod
        if group in self._buried or (known is None and self._stale(key, pod)):
            self._strays.add(str(pod["metadata"]["name"]))
            self._later(self._delete_late(pod))
        elif restart == max(found):
            self._look(key, pod)

    def _stale(self, key: AttemptKey, pod: Object) -> bool:
        """Made after our first command by a controller that we have replaced: it did not know yet."""
        epoch = int(pod["metadata"]["annotations"].get(pods.EPOCH) or 0)
        return self._mine.synced and key not in self._told and epoch < self._fence.won

    async def _ungang(self, group: str) -> None:
        """It has no pods any more; what cannot be removed now is swept later."""
        if self._gangs is not None:
            try:
                await self._gangs.remove(group)
            except (ApiError, BackendUnavailable) as error:
                log.warning("cluster %s: %s", self.name, error)

    async def _delete_late(self, pod: Object) -> None:
        """Nobody wants it: its group was deleted before, or it is a stale controller's."""
        try:
            await self._send.delete([pod], 1.0)
        except (ApiError, BackendUnavailable) as error:
            log.warning("cluster %s: %s", self.name, error)

    def _look(self, key: AttemptKey, pod: Object) -> None:
        if key not in self._settled and pod["metadata"]["name"] not in self._strays:
            self._tell(Seen(pod, time.time(), self._evicted(pod)).observation())

    def _gone(self, key: AttemptKey, pod: Object) -> None:
        newest = self._newest.get(key)
        self._said.pop(key, None)
        if key in self._settled or str(pod["metadata"]["labels"][pods.GROUP]) in self._buried:
            self._newest.pop(key, None)
        elif newest is not None and newest.phase not in OVER:
            self._tell(Seen(pod, time.time(), self._evicted(pod)).vanished())

    def _evicted(self, pod: Object) -> str:
        return self._gangs.evicted(str(pod["metadata"]["labels"][pods.GROUP])) if self._gangs is not None else ""

    def _tell(self, seen: Observation) -> None:
        """News, unless it is none. The first end of a restart is its end."""
        old = self._newest.get(seen.key)
        if old is not None and old.restart == seen.restart:
            if old.phase in OVER or _same(old, seen):
                return
            if seen.phase is Phase.PENDING and old.phase is not Phase.PENDING:
                return
        self._newest[seen.key] = seen
        self._news.put_nowait(seen)

    def _event(self, event: Object, deleted: bool) -> None:
        """A warning of the cluster about one of our pods, told once for each new text."""
        key = pods.key_in(str(event["involvedObject"].get("name")))
        newest = self._newest.get(key) if key is not None else None
        said = str(event.get("reason") or ""), " ".join(str(event.get("message") or "").split())[:500].rstrip(".")
        if deleted or newest is None or newest.phase in OVER or said[0] in _TOLD:
            return
        if self._said.get(newest.key) != said:
            self._said[newest.key] = said
            self._news.put_nowait(replace(newest, phase=Phase.PENDING, reason=Reason(*said)))

    # --- small help ------------------------------------------------------------------------------------------------

    def _later(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    def _close_idle(self) -> None:
        for key in [k for k, f in self._followers.items() if f.idle]:
            self._followers.pop(key).close()

    def _forget_old(self) -> None:
        """Tombstones are kept for a day, as the nodes of other backends do."""
        limit = time.monotonic() - _DAY
        self._buried = {uuid: at for uuid, at in self._buried.items() if at > limit}
        self._settled = {key: at for key, at in self._settled.items() if at > limit}
        self._told.intersection_update(self._pods)


def _version(value: Object) -> int:
    text = str(value["metadata"].get("resourceVersion") or "0")
    return int(text) if text.isdigit() else 0


def _same(old: Observation, new: Observation) -> bool:
    """Nothing that anybody acts on differs."""
    return (old.phase, old.restart, old.address, old.reason) == (new.phase, new.restart, new.address, new.reason)
