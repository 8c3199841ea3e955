"""The real API under uvicorn on a free loopback port, and the command line against it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvicorn

from tests.api.world import World


class Site:
    """An address with a world behind it."""

    def __init__(self, world: World) -> None:
        self.world = world
        config = uvicorn.Config(world.app(), port=0, log_level="error", timeout_graceful_shutdown=1, lifespan="off")
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run, daemon=True)
        self.thread.start()
        deadline = time.monotonic() + 20
        while not self.server.started:
            assert time.monotonic() < deadline, "uvicorn did not start"
            time.sleep(0.01)
        self.port = self.server.servers[0].sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"

    def close(self) -> None:
        self.server.should_exit = True
        self.thread.join(20)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path / "platform")
    yield made
    made.close()


@pytest.fixture
def site(world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Site]:
    made = Site(world)
    monkeypatch.setenv("OSMO_URL", made.url)
    monkeypatch.setenv("OSMO_CONFIG_FILE_DIR", str(tmp_path / "client"))
    monkeypatch.delenv("OSMO_TOKEN", raising=False)
    monkeypatch.chdir(tmp_path)
    yield made
    made.close()
