from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from hosting import Begin, Host

from osmo_ray.runtime import Options
from osmo_ray.runtime.spool import remove_tree


@pytest.fixture
def folder() -> Iterator[Path]:
    """A short path that any user may pass through: sockets and other users' processes live below it."""
    path = Path(tempfile.mkdtemp(prefix="osmo-"))
    path.chmod(0o755)
    yield path
    remove_tree(path)


@pytest.fixture
async def begin(folder: Path) -> AsyncIterator[Begin]:
    """Start hosts that are shut down at the end, whatever happened."""
    hosts: list[Host] = []

    async def one(options: Options | None = None) -> Host:
        host = await Host.begin(folder, options)
        hosts.append(host)
        return host

    yield one
    for host in reversed(hosts):
        if host is hosts[-1]:
            await host.shutdown(grace=0.2)
        else:
            await host.close()


@pytest.fixture
async def host(begin: Begin) -> Host:
    """A host in the best process mode that this machine allows."""
    return await begin()


@pytest.fixture(params=["process", "none"])
async def any_host(begin: Begin, request: pytest.FixtureRequest) -> Host:
    """The same test with namespaces and without."""
    return await begin(Options(sandbox=request.param, engine="off"))


@pytest.fixture
async def sandboxed(host: Host) -> Host:
    """Only where namespaces are allowed; says so where they are not."""
    if not host.report().sandbox.startswith("namespaces"):
        pytest.skip(f"this machine forbids namespaces: {host.report().sandbox}")
    return host
