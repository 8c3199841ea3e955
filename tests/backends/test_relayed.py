"""Sessions inside attempts of other hosts: the bytes go by Ray's calls, since no local socket reaches there."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator

import pytest

from osmo_ray.backends.inside import NotInside
from osmo_ray.backends.protocol import Backend
from osmo_ray.backends.ray.doors import LocalPipe
from osmo_ray.platform import head
from osmo_ray.settings import Settings
from osmo_ray.spec.attempt import AttemptKey, Phase
from tests.backends.contract import BackendContract, attempt, fresh, group
from tests.backends.inside_contract import told
from tests.backends.test_ray import cluster

pytestmark = pytest.mark.ray
__all__ = ["cluster"]


@pytest.fixture
async def backend(cluster: tuple[Settings, head.Head], monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Backend]:
    from osmo_ray.backends.ray.agent import AgentSettings
    from osmo_ray.backends.ray.backend import RayBackend

    async def elsewhere(*_: object) -> None:
        return None

    monkeypatch.setattr(LocalPipe, "connect", elsewhere)
    settings, started = cluster
    made = RayBackend("local", AgentSettings(settings.home, settings.storage, head=started.node))
    await made.capacity()
    yield made
    await made.close()


async def running(backend: Backend) -> tuple[AttemptKey, str]:
    plan = attempt((await backend.capacity())[0].name, "sleep", "600")
    await backend.apply(int(fresh(), 16), [group(plan)])
    await BackendContract().until(backend, plan.key, lambda o: o.phase is Phase.RUNNING)
    return plan.key, plan.node


async def test_a_session_by_rays_calls(backend: Backend) -> None:
    key, node = await running(backend)
    session = await backend.exec(key, node, ["sh", "-c", "head -c 700000; echo bad >&2; exit 9"])
    data = os.urandom(700_000)
    await session.send(data)
    out, errors = await told(session)
    assert (out == data, errors, session.code) == (True, b"bad\n", 9)
    await session.close()
    again = await backend.exec(key, node, ["cat"])
    await again.send(b"up")
    said = await again.receive()
    assert said is not None and said.data == b"up"
    await again.signal(15)
    await told(again)
    assert again.code == 143
    await again.close()


async def test_refusals_by_rays_calls(backend: Backend) -> None:
    key, node = await running(backend)
    with pytest.raises(NotInside, match="nothing listens on port 7"):
        await backend.connect(key, node, 7)
    with pytest.raises(NotInside):
        await backend.exec(AttemptKey("f" * 32, 0), node, ["cat"])
