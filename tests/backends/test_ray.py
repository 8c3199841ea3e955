"""The Ray backend passes the contract, on a real Ray head with real processes."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from osmo_ray.backends.inside import NotInside
from osmo_ray.backends.protocol import Backend
from osmo_ray.backends.ray.doors import LocalPipe
from osmo_ray.platform import head
from osmo_ray.platform.files import Files
from osmo_ray.settings import Settings
from osmo_ray.spec.attempt import AttemptKey, Phase
from tests.backends.contract import BackendContract, attempt, fresh, group
from tests.backends.inside_contract import InsideContract, told

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def cluster() -> Iterator[tuple[Settings, head.Head]]:
    """A head of its own, and this process connected to it."""
    home = Path(tempfile.mkdtemp(prefix="osmo-ray-"))
    settings, files = Settings(home=home, cpu=4), Files(home)
    files.prepare()
    before = dict(os.environ)
    os.environ.update(head.environment(files, "127.0.0.1"))
    started = head.start(settings, files, home / "ray.log")
    import ray

    try:
        ray.init(address=started.address, namespace="osmo", log_to_driver=False, logging_level="ERROR")
        yield settings, started
        ray.shutdown()
    finally:
        head.stop(started.process, files)
        os.environ.clear()
        os.environ.update(before)
        shutil.rmtree(home, ignore_errors=True)


class TestRayBackend(BackendContract, InsideContract):
    @pytest.fixture
    async def backend(self, cluster: tuple[Settings, head.Head]) -> AsyncIterator[object]:
        from osmo_ray.backends.ray.agent import AgentSettings
        from osmo_ray.backends.ray.backend import RayBackend

        settings, started = cluster
        made = RayBackend("local", AgentSettings(settings.home, settings.storage, head=started.node))
        await made.capacity()
        yield made
        await made.close()


# -- sessions inside attempts of other hosts: the bytes go by Ray's calls, since no local socket reaches there


@pytest.fixture
async def relayed(cluster: tuple[Settings, head.Head], monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Backend]:
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


async def test_a_session_by_rays_calls(relayed: Backend) -> None:
    key, node = await running(relayed)
    session = await relayed.exec(key, node, ["sh", "-c", "head -c 700000; echo bad >&2; exit 9"])
    data = os.urandom(700_000)
    await session.send(data)
    out, errors = await told(session)
    assert (out == data, errors, session.code) == (True, b"bad\n", 9)
    await session.close()
    again = await relayed.exec(key, node, ["cat"])
    await again.send(b"up")
    said = await again.receive()
    assert said is not None and said.data == b"up"
    await again.signal(15)
    await told(again)
    assert again.code == 143
    await again.close()


async def test_refusals_by_rays_calls(relayed: Backend) -> None:
    key, node = await running(relayed)
    with pytest.raises(NotInside, match="nothing listens on port 7"):
        await relayed.connect(key, node, 7)
    with pytest.raises(NotInside):
        await relayed.exec(AttemptKey("f" * 32, 0), node, ["cat"])
