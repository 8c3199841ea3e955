"""One platform for the tests that leave it whole; tests that break things start their own."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.harness import SHARED, Platform
from tests.e2e.kube import LEASE, UP, register
from tests.servers.kube.cluster import HOST_ADDRESS, Cluster


@pytest.fixture(scope="session")
def platform() -> Iterator[Platform]:
    """Shared by all tests of this folder that do not break it. Two logical GPUs, whatever this machine has."""
    yield from _platform({}, "--gpus", "2")


@pytest.fixture
def own_platform() -> Iterator[Platform]:
    """For tests that kill parts of it."""
    yield from _platform({})


def _platform(extra: dict[str, str], *options: str) -> Iterator[Platform]:
    home = Path(tempfile.mkdtemp(prefix="osmo-e2e-"))
    made = Platform(home, extra=extra)
    try:
        made.up(*options)
        yield made
    finally:
        made.down()
        shutil.rmtree(home, ignore_errors=True)


@pytest.fixture(scope="session")
def tutorials() -> Path:
    """The workflow files beside the checkout; their absence skips, and the skip names the folder."""
    folder = SHARED / "corpora" / "tutorials"
    if not folder.is_dir():
        message = f"{folder} is absent: the tutorial files were NOT run (OSMO_SHARED names where they are)"
        pytest.skip(message)
    return folder


@pytest.fixture(scope="session")
def kube_platform(kube: Cluster) -> Iterator[Platform]:
    """One that pods can reach, with the cluster registered as `kube`."""
    home = Path(tempfile.mkdtemp(prefix="osmo-kube-e2e-"))
    made = Platform(home, host=HOST_ADDRESS, extra={"OSMO_ATTEMPT_LEASE": str(LEASE)})
    try:
        made.up(*UP)
        made.cli("login", made.url, "--method", "token", "--token-file", str(home / "admin.token"))
        register(made, kube)
        yield made
    finally:
        made.down()
        shutil.rmtree(home, ignore_errors=True)
