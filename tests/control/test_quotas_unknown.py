"""A source of quotas that has not answered yet: what runs goes on, what waits waits for it."""

from __future__ import annotations

import asyncio
import itertools
import time
import uuid
from dataclasses import dataclass, field

from osmo_ray.backends.fake import Ending, FakeBackend
from osmo_ray.control.controller import Controller
from osmo_ray.engine.admit import admit
from osmo_ray.engine.status import WorkflowStatus
from osmo_ray.providers.quota import QuotaQueue, QuotaSnapshot
from osmo_ray.spec.attempt import NodeReport
from osmo_ray.spec.model import Priority
from osmo_ray.store.protocol import Texts
from tests.control.conftest import FAST, ended, spec


@dataclass
class Later:
    """A provider that knows nothing until it is told."""

    now: QuotaSnapshot = field(default_factory=lambda: QuotaSnapshot("", (), stale=True, error="no answer yet"))

    @property
    def error(self) -> str:
        return self.now.error

    def snapshot(self) -> QuotaSnapshot:
        return self.now


async def test_work_waits_for_quotas_that_are_not_known_and_runs_when_they_are(store):
    quota = Later()
    backend = FakeBackend(nodes=[NodeReport("n1", "", 64, 1 << 40, 4, 1 << 40)], script=lambda plan: Ending(0.0))
    controller = Controller(store, backend, "one", settings=FAST, quota=quota)
    running = asyncio.ensure_future(controller.run())
    ids = (uuid.uuid4().hex for _ in itertools.count())

    def build(id: str):
        return admit(
            spec(("t", ())),
            id=id,
            uuid=next(ids),
            uuids=ids,
            user="ann",
            pool="default",
            backend="local",
            priority=Priority.NORMAL,
            now=time.time(),
            exec_timeout=0.0,
            queue_timeout=0.0,
        )

    sent = store.submit("waits", build, Texts("rendered"))
    for _ in range(500):
        reason = store.find(sent.id).groups[0].reason
        if reason:
            break
        await asyncio.sleep(0.02)
    assert reason.code == "QuotasUnknown" and "no answer yet" in reason.sentence
    quota.now = QuotaSnapshot("1", (QuotaQueue("default"),))
    assert (await ended(store, sent.id)).status is WorkflowStatus.COMPLETED
    await controller.stop()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    controller.ledger.close()
