"""The Ray backend passes the contract, on a real Ray head with real processes."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from osmo_ray.platform import head
from osmo_ray.platform.files import Files
from osmo_ray.settings import Settings
from tests.backends.contract import BackendContract

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


class TestRayBackend(BackendContract):
    @pytest.fixture
    async def backend(self, cluster: tuple[Settings, head.Head]) -> AsyncIterator[object]:
        from osmo_ray.backends.ray.agent import AgentSettings
        from osmo_ray.backends.ray.backend import RayBackend

        settings, started = cluster
        made = RayBackend("local", AgentSettings(settings.home, settings.storage, head=started.node))
        await made.capacity()
        yield made
        await made.close()
