"""A controller over a real store and the fake backend."""

from __future__ import annotations

import asyncio
import itertools
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from osmo_ray.backends.fake import FakeBackend
from osmo_ray.control.controller import Controller, ControlSettings
from osmo_ray.engine.admit import admit
from osmo_ray.engine.events import Policy
from osmo_ray.engine.model import Workflow
from osmo_ray.spec.model import GroupSpec, Priority, TaskInput, TaskSpec, WorkflowSpec
from osmo_ray.store.protocol import Store, Texts
from osmo_ray.store.sql import SqlStore

FAST = ControlSettings(lease_ttl=3.0, attempt_lease=1.0, poll=0.2, tidy=0.2, watch=0.5)


def spec(*tasks: tuple[str, tuple[str, ...]], name: str = "w", **more: object) -> WorkflowSpec:
    """Loose tasks: (name, names of those whose output it reads)."""
    return WorkflowSpec(
        name,
        tuple(
            GroupSpec(
                f"{t}-group",
                (
                    TaskSpec(t, "ubuntu", ("true",), lead=True, inputs=tuple(TaskInput(n) for n in needs), **more),  # type: ignore[arg-type]
                ),
            )
            for t, needs in tasks
        ),
    )


def submit(store: Store, wanted: WorkflowSpec, user: str = "ann", backend: str = "local") -> Workflow:
    ids = (uuid.uuid4().hex for _ in itertools.count())

    def build(id: str):  # type: ignore[no-untyped-def]
        return admit(
            wanted,
            id=id,
            uuid=next(ids),
            uuids=ids,
            user=user,
            pool="default",
            backend=backend,
            priority=Priority.NORMAL,
            now=time.time(),
            exec_timeout=0.0,
            queue_timeout=0.0,
        )

    return store.submit(wanted.name, build, Texts("rendered"))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqlStore]:
    made = SqlStore(f"sqlite:///{tmp_path / 'osmo.db'}")
    made.migrate()
    yield made
    made.close()


@pytest.fixture
async def start(store: SqlStore) -> AsyncIterator[Callable[..., Controller]]:
    """Start controllers; all are stopped at the end."""
    running: list[tuple[Controller, asyncio.Task[None]]] = []

    def make(backend: FakeBackend, holder: str = "one", policy: Policy | None = None, **more: object) -> Controller:
        settings = more.pop("settings", FAST)
        controller = Controller(store, backend, holder, settings=settings, policy=policy, **more)  # type: ignore[arg-type]
        running.append((controller, asyncio.ensure_future(controller.run())))
        return controller

    yield make
    for controller, task in running:
        await controller.stop()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        controller.ledger.close()


async def ended(store: Store, id: str, limit: float = 20.0) -> Workflow:
    """Wait until a workflow has finished."""
    until = time.monotonic() + limit
    while time.monotonic() < until:
        found = await asyncio.to_thread(store.find, id)
        assert found is not None
        if found.status.finished:
            return found
        await asyncio.sleep(0.02)
    raise AssertionError(f"{id} did not end within {limit} s: {[(g.name, g.status, g.reason) for g in found.groups]}")
