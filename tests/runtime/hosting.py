"""Shared by the runtime's tests: a host in a folder of its own, plans in one line, and waiting for what happens."""

from __future__ import annotations

import asyncio
import itertools
import os
import time
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from osmo_ray.runtime import NodeHost, Options
from osmo_ray.runtime.process import Identity, marked
from osmo_ray.spec.attempt import AttemptKey, AttemptPlan, Observation, Phase

FINAL = (Phase.FINISHED, Phase.LOST)
LIMIT = 40.0
_numbers = itertools.count()


def plan(*argv: str, group: str = "", task: str = "", retry: int = 0, **more: Any) -> AttemptPlan:
    """A task of one command; every call is another task unless `task_uuid` says otherwise."""
    number = next(_numbers)
    task = task or f"t{number}"
    return AttemptPlan(
        key=AttemptKey(more.pop("task_uuid", uuid.uuid4().hex), retry),
        workflow_id="wf-1", workflow_uuid="wfuuid", group=group or f"g{number}", group_uuid=group or uuid.uuid4().hex,
        task=task, user="ada", node="n1", image=more.pop("image", ""), argv=argv, **more,
    )  # fmt: skip


def shell(script: str, **more: Any) -> AttemptPlan:
    return plan("sh", "-c", script, **more)


def again(one: AttemptPlan, **changes: Any) -> AttemptPlan:
    return replace(one, **changes)


class Host(NodeHost):
    """A node host with the waiting that tests need."""

    seen: list[Observation]

    @classmethod
    async def begin(cls, root: Path, options: Options | None = None) -> Host:
        host = cls(root / "spool", "n1", "127.0.0.1", (root / "store").as_uri(), options or Options(engine="off"))
        host.seen = []
        await host.start()
        return host

    async def until(self, key: AttemptKey, good: Callable[[Observation], bool]) -> Observation:
        """The first observation of an attempt that is good, among those seen and those to come."""
        deadline = time.monotonic() + LIMIT
        while time.monotonic() < deadline:
            for one in self.seen:
                if one.key == key and good(one):
                    return one
            self.seen.extend(await self.observe(1.0))
        log = (await self.logs(key, 0, 4000, 0)).data.decode(errors="replace")
        raise AssertionError(
            f"{key} never came there: {[(o.phase, o.reason) for o in self.seen if o.key == key]}\n{log}"
        )

    async def end(self, key: AttemptKey) -> Observation:
        return await self.until(key, lambda o: o.phase in FINAL)

    async def phase(self, key: AttemptKey, phase: Phase, restart: int = 0) -> Observation:
        return await self.until(key, lambda o: o.phase is phase and o.restart == restart)

    async def run(self, *plans: AttemptPlan, epoch: int = 1) -> Observation:
        """Apply and wait for the end of the first."""
        await self.apply(epoch, plans)
        return await self.end(plans[0].key)

    async def text(self, key: AttemptKey) -> str:
        """What the command said, without stamps."""
        data = (await self.logs(key, 0, 64 << 20, 0)).data
        lines = [line.split(b" ", 2) for line in data.splitlines()]
        return "\n".join(parts[2].decode(errors="replace") for parts in lines if parts[1] == b"O")

    async def says(self, key: AttemptKey, text: str) -> str:
        """Wait until the command has said something."""
        return await wait_for(lambda: self._said(key, text), f"{key} never said {text!r}")

    async def _said(self, key: AttemptKey, text: str) -> str:
        said = await self.text(key)
        return said if text in said else ""

    def supervisor(self, key: AttemptKey) -> Identity:
        found = self.spool.folder(key).claimed()
        assert found is not None
        return found


Begin = Callable[..., Awaitable[Host]]


async def wait_for(look: Callable[[], Any], message: str) -> Any:
    """Poll until `look` gives something true; it may be a coroutine function."""
    deadline = time.monotonic() + LIMIT
    while time.monotonic() < deadline:
        found = look()
        if asyncio.iscoroutine(found):
            found = await found
        if found:
            return found
        await asyncio.sleep(0.02)
    raise AssertionError(message)


def alive(pid: int) -> bool:
    return Identity.of(pid) is not None


def is_root() -> bool:
    return os.geteuid() == 0


def pids_of(key: AttemptKey) -> list[int]:
    """Processes of an attempt, wherever they are."""
    return marked(f"OSMO_ATTEMPT={key}")
