"""The host of a node: takes plans, starts supervisors, reports what the spool says. It owns nothing that a restart
would lose: all state is the spool's.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from osmo_ray.runtime import container, pyenv, wakeup
from osmo_ray.runtime.book import Book, Entry
from osmo_ray.runtime.capacity import Samples, UsageSample, find_gpus, node_report
from osmo_ray.runtime.errors import StaleEpoch
from osmo_ray.runtime.helpers import Helpers, only_host
from osmo_ray.runtime.host import Host
from osmo_ray.runtime.inside.frames import Ask
from osmo_ray.runtime.logs import live_log
from osmo_ray.runtime.options import Options
from osmo_ray.runtime.recovery import is_late, prove_dead, ship_late
from osmo_ray.runtime.spool import Spool
from osmo_ray.spec.attempt import AttemptKey, AttemptPlan, LogChunk, NodeReport, Observation
from osmo_ray.spec.model import Sandbox

logger = logging.getLogger(__name__)
T = TypeVar("T")

_LOOK_EVERY = 1.0
_CLEAN_EVERY = 3600.0
_START_AGAIN = 3.0
_LOG_LOOK = 0.05
_RENEW_PART = 0.03
_LISTEN = 0.004
_CROWD = 0.02


class NodeHost:
    """One per node and spool. All verbs may be called at once and repeated."""

    def __init__(self, root: Path, node: str, address: str, storage_url: str, options: Options | None = None) -> None:
        self.root = root
        self.node, self.address = node, address
        self.options = options or Options()
        self.spool = Spool(root)
        self.book = Book(self.spool, node, address, storage_url, self.options)
        self.helpers = Helpers(root, self.options)
        self.host: Host | None = None
        self.engine = container.Engine("", "not looked for")
        self._lock = asyncio.Lock()
        # One thread that stays warm: what it does is short, and one at a time anyway.
        self._thread = ThreadPoolExecutor(1, "book")
        self._news: deque[Observation] = deque()
        self._rang = asyncio.Event()
        self._samples = Samples()
        self._tasks: list[asyncio.Task[None]] = []
        self._held = -1
        self._renew_at = 0.0
        self._clean_at = 0.0
        self._rung: set[str] = set()
        self._reading: asyncio.TimerHandle | None = None
        self._read_at = 0.0

    # --- life ------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Take the spool over: start the helpers, adopt what lives, prove dead what does not. Raises HostBusy."""
        await asyncio.to_thread(self._start)
        loop = asyncio.get_running_loop()
        self._bell = wakeup.listen(self.root)
        loop.add_reader(self._bell.fileno(), self._hear)
        for entry in self.book.entries.values():
            if entry.newest is not None:
                self._news.append(entry.newest)
        await self._look()
        self._tasks.append(asyncio.create_task(self._watch()))

    def _start(self) -> None:
        self.spool.prepare()
        self._held = only_host(self.root, 10.0)
        self.options.save(self.root / "options.json")
        self.spool.renew(self.options.lease)
        self.book.load()
        self.book.gpus = find_gpus(self.options.gpu)
        self.helpers.renew_zygote()
        self.host = self.helpers.examine()
        self.engine = container.find(self.options.engine)
        self._keep_network()

    async def close(self) -> None:
        """Let go of the spool. Attempts, their supervisors and the helpers go on."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()
        if self._held >= 0:
            asyncio.get_running_loop().remove_reader(self._bell.fileno())
            self._bell.close()
            self.helpers.close()
            os.close(self._held)
            self._held = -1

    async def shutdown(self, grace: float = 5.0) -> None:
        """End all attempts and the helpers, then let go: for taking the platform down."""
        async with self._lock:
            for entry in self.book.live():
                self.book.stop(entry, grace, "the platform is going down")
        deadline = time.monotonic() + grace + 10.0
        while self.book.live() and time.monotonic() < deadline:
            await self._look()
            await asyncio.sleep(0.05)
        await self.close()
        await asyncio.to_thread(self.helpers.end)
        if self.host is not None and self.host.cgroup is not None:
            self.host.cgroup.remove()

    # --- verbs -----------------------------------------------------------------------------------------------------

    async def apply(self, epoch: int, attempts: Sequence[AttemptPlan]) -> None:
        """Make exactly these attempts of their groups run here. Raises StaleEpoch."""
        plans = list(attempts)
        await self._locked(lambda: self._apply(epoch, plans))

    def _apply(self, epoch: int, plans: list[AttemptPlan]) -> None:
        self._hear_epoch(epoch)
        good = [plan for plan in plans if not self.book.refused(plan)]
        for entry in self.book.superseded(good):
            self.book.stop(entry, self.options.grace, "it is no longer part of its group")
        for plan in good:
            known = self.book.entries.get(plan.key)
            if known is not None:
                self.book.update(known, plan)
            else:
                self._take(plan)

    async def drop(self, epoch: int, group_uuids: Sequence[str]) -> None:
        """End what runs of these groups here, without burying them: their tasks run elsewhere now. Raises
        StaleEpoch."""
        groups = set(group_uuids)
        await self._locked(lambda: self._drop(epoch, groups))

    def _drop(self, epoch: int, groups: set[str]) -> None:
        self._hear_epoch(epoch)
        for entry in self.book.live():
            if entry.job.plan.group_uuid in groups:
                self.book.stop(entry, self.options.grace, "it is no longer part of its group")

    @property
    def running(self) -> int:
        """How many attempts have not ended here."""
        return len(self.book.live())

    def ended(self, key: AttemptKey) -> bool:
        """Whether nothing more will come of this attempt here."""
        entry = self.book.entries.get(key)
        return entry is None or entry.final

    def _take(self, plan: AttemptPlan) -> None:
        if plan.ray is not None and not plan.trusted:
            self._news.append(self.book.untrusted(plan))
            return
        mode, why, private = self._how(plan)
        entry, seen = self.book.accept(plan, mode, why, private=private, engine=self.engine)
        if seen is not None:
            self._news.append(seen)
        if entry is not None:
            self._spawn(entry)

    def _spawn(self, entry: Entry) -> None:
        entry.asked = time.monotonic()
        self.helpers.begin(str(entry.key))

    def _how(self, plan: AttemptPlan) -> tuple[str, str, bool]:
        """Mode, why, and whether it gets an address of its own."""
        host = self._examined()
        if plan.ray is not None:
            return "none", "runs as a Ray program, outside the sandbox", False
        wants = plan.sandbox
        if self.options.sandbox == "container" and wants is Sandbox.AUTO:
            wants = Sandbox.CONTAINER
        if self.options.sandbox in ("process", "none") and wants is Sandbox.AUTO:
            wants = Sandbox.PROCESS
        private = host.bridge and plan.network != "node"
        contained = private and self.engine.joins()
        if wants is Sandbox.CONTAINER:
            self.engine.ready(self.root)
            return "container", f"runs in a container of {plan.image}: {self.engine.why}", contained
        why = ""
        if wants is Sandbox.AUTO and plan.image:
            usable, why = self.engine.usable(plan.image, self.root)
            if usable and len(plan.peers) > 1 and plan.network != "node" and not contained:
                why = f"containers of {self.engine.name} cannot join the network of the task's group here"
            elif usable:
                return "container", f"runs in a container of {plan.image}: {why}", contained
        reason = f"runs as a process on the host, not in {plan.image or 'an image'}"
        reason += f" ({why})" if why else ""
        return host.mode, f"{reason}; {host.why}", private

    async def preview(self, images: Sequence[str]) -> Mapping[str, str]:
        """How a task of each of these images that insists on nothing would run here: the mode, and a sentence."""

        def look() -> dict[str, str]:
            found = {image: self._how(_of_image(image)) for image in images}
            return {image: f"{mode}: {why}" for image, (mode, why, _) in found.items()}

        return await asyncio.to_thread(look)

    def _examined(self) -> Host:
        if self.host is None:
            raise RuntimeError("NodeHost.start() was not called")
        return self.host

    async def delete(self, epoch: int, group_uuids: Sequence[str], grace: float) -> None:
        """Begin to end everything of these groups, and never let them come back. Raises StaleEpoch."""
        groups = list(group_uuids)
        await self._locked(lambda: self._delete(epoch, groups, grace))

    def _delete(self, epoch: int, groups: list[str], grace: float) -> None:
        self._hear_epoch(epoch)
        self.book.bury("g", groups)
        for key, plan in list(self.book.waiting.items()):
            if plan.group_uuid in groups:
                del self.book.waiting[key]
        for entry in self.book.live():
            if entry.job.plan.group_uuid in groups:
                self.book.stop(entry, grace, "its group was ended")

    def _hear_epoch(self, epoch: int) -> None:
        if epoch < self.book.epoch:
            raise StaleEpoch(f"epoch {epoch} is older than {self.book.epoch}, which this node has heard")
        if epoch > self.book.epoch:
            self.spool.raise_epoch(epoch)
            self.book.epoch = epoch

    async def release(self, key: AttemptKey, *, rerun: bool = False) -> None:
        """End the hold of a failed attempt: let it go on, or run its command again in place."""
        entry = self.book.entries.get(key)
        if entry is not None:
            await self._locked(lambda: self.book.release(entry, rerun=rerun))

    async def inside(self, ask: Ask, end: int) -> None:
        """Begin a session that speaks `inside.frames` over the socket `end`, which stays the caller's to close.
        LookupError when the attempt is not here."""
        entry = self.book.entries.get(ask.key)
        if entry is None or entry.final:
            raise LookupError(f"no attempt {ask.key} runs on {self.node}")
        await asyncio.to_thread(self.helpers.ask, "inside", fds=(end,), ask=ask.to_json())

    async def attempts(self) -> Sequence[Observation]:
        """The newest observation of every attempt in the spool."""
        await self._look()
        return [entry.newest for entry in self.book.entries.values() if entry.newest is not None]

    async def observe(self, wait: float) -> Sequence[Observation]:
        """Observations since the last call, waiting up to `wait` seconds for the first."""
        deadline = time.monotonic() + wait
        while not self._news:
            self._rang.clear()
            left = deadline - time.monotonic()
            if left <= 0:
                break
            try:
                async with asyncio.timeout(left):
                    await self._rang.wait()
            except TimeoutError:
                break
        found = list(self._news)
        self._news.clear()
        return found

    def give_back(self, seen: Sequence[Observation]) -> None:
        """These were taken by `observe` and reached nobody: the next call gets them first."""
        self._news.extendleft(reversed(seen))
        self._rang.set()

    async def settle(self, keys: Sequence[AttemptKey]) -> None:
        """Forget ended attempts whose end the store has accepted. One whose log could not be kept yet stays."""
        found = [entry for key in keys if (entry := self.book.entries.get(key)) is not None and entry.final]
        late = [entry for entry in found if is_late(entry)]
        kept = await asyncio.to_thread(self._ship_late, late) if late else set()
        await self._locked(lambda: self._forget([entry for entry in found if entry.key not in kept]))

    def _ship_late(self, entries: Iterable[Entry]) -> set[AttemptKey]:
        return {entry.key for entry in entries if not ship_late(entry)}

    def _forget(self, entries: list[Entry]) -> None:
        self.book.bury("k", [str(entry.key) for entry in entries])
        for entry in entries:
            self.book.entries.pop(entry.key, None)
            entry.folder.remove()

    async def logs(self, key: AttemptKey, offset: int, limit: int, wait: float) -> LogChunk:
        """Part of a log here, waiting up to `wait` seconds for news. LookupError when the attempt is not here (any
        more): then the store has its log, `runtime.logs.stored_log` reads it."""
        deadline = time.monotonic() + wait
        while True:
            entry = self.book.entries.get(key)
            if entry is None:
                raise LookupError(f"no attempt {key} on {self.node}; read its log from the store")
            chunk = live_log(entry.folder.log, offset, limit, ended=entry.final)
            left = deadline - time.monotonic()
            if chunk.data or chunk.end or left <= 0:
                return chunk
            await asyncio.sleep(min(_LOG_LOOK, left))

    def renew(self, ttl: float) -> None:
        """A controller is alive: attempts may go on for `ttl` seconds more, less the little that goes by before a
        renewal is worth writing."""
        now = time.monotonic()
        if now >= self._renew_at:
            self._renew_at = now + ttl * _RENEW_PART
            self.spool.renew(ttl)

    def report(self) -> NodeReport:
        """Capacity and abilities of this node."""
        host = self._examined()
        return node_report(
            self.root, self.node, self.address, self.options, host, self.engine, self.book.gpus, self.helpers.out_why
        )

    async def usage(self) -> Sequence[UsageSample]:
        """What each running attempt uses now."""
        entries = [(e.key, e.job, self.book.claimed(e)) for e in self.book.live()]
        cgroup = self._examined().cgroup
        return await asyncio.to_thread(self._samples.take, entries, cgroup)

    # --- watching ------------------------------------------------------------------------------------------------

    async def _locked(self, act: Callable[[], T]) -> T:
        async with self._lock:
            value = await asyncio.get_running_loop().run_in_executor(self._thread, act)
        if self._news:
            self._rang.set()
        return value

    def _hear(self) -> None:
        """Bells of many attempts come in quick succession: those are listened to for a moment, and read together."""
        try:
            while True:
                self._rung.add(self._bell.recv(256).decode())
        except BlockingIOError:
            pass
        now = time.monotonic()
        if not self._rung or self._reading is not None:
            return
        if now - self._read_at > _CROWD:
            self._read_rung()
        else:
            self._reading = asyncio.get_running_loop().call_later(_LISTEN, self._read_rung)

    def _read_rung(self) -> None:
        self._reading, rung, self._rung = None, self._rung, set()
        self._read_at = time.monotonic()
        for key in rung:
            with suppress(ValueError):
                if (entry := self.book.entries.get(AttemptKey.parse(key))) is not None:
                    self._read(entry)

    def _read(self, entry: Entry) -> None:
        before = entry.final
        seen = self.book.read(entry)
        if seen:
            self._news.extend(seen)
            self._rang.set()
        if entry.final and not before:
            self._samples.forget(entry.key)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_EVERY)
            try:
                await self._look()
                await asyncio.to_thread(self._keep_network)
                await self._clean()
            except Exception:
                logger.exception("looking after the attempts of %s failed; trying again", self.node)

    async def _look(self) -> None:
        """The fallback scan: news that no bell told, supervisors that died, plans that waited for GPUs."""
        async with self._lock:
            for entry in self.book.live():
                self._read(entry)
            dead = await asyncio.to_thread(lambda: [entry for entry in self.book.live() if self._is_dead(entry)])
            for entry in dead:
                await asyncio.to_thread(prove_dead, entry, self._examined().cgroup, self.engine)
                self._read(entry)
            for plan in list(self.book.waiting.values()):
                await asyncio.to_thread(self._take, plan)

    def _is_dead(self, entry: Entry) -> bool:
        supervisor = self.book.claimed(entry)
        if supervisor is None:
            if time.monotonic() - entry.asked > _START_AGAIN or not entry.asked:
                self._spawn(entry)
            return False
        if supervisor.alive():
            return False
        self.book.read(entry)  # it may have said its last word just before
        return not entry.final

    async def _clean(self) -> None:
        if time.monotonic() < self._clean_at:
            return
        self._clean_at = time.monotonic() + _CLEAN_EVERY
        wanted = {pyenv.name(e.job.plan.requirements) for e in self.book.live() if e.job.plan.requirements}
        await asyncio.to_thread(pyenv.clean, self.root, wanted, self.options.keep_environments)

    def _keep_network(self) -> None:
        pids = [who.pid for e in self.book.live() if (who := self.book.claimed(e)) is not None]
        self.helpers.keep_network(self._examined(), lambda: pids)


def _of_image(image: str) -> AttemptPlan:
    """A plan that says nothing but its image."""
    nobody = AttemptKey("preview", 0)
    return AttemptPlan(nobody, "", "", group="", group_uuid="", task="", user="", node="", image=image, argv=())
