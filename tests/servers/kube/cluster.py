"""A real cluster for a test session: the one that KUBECONFIG names, or one started here from ready programs.

Without KUBECONFIG the programs come from KUBE_BIN, or from what `make kube-tools` built. It fails rather than skips
when the cluster does not come up. A cluster of one's own needs OSMO_TEST_RUNTIME_IMAGE, OSMO_TEST_TASK_IMAGE and
OSMO_TEST_STORAGE_URL beside KUBECONFIG: images that its nodes can have, and storage that its pods and we reach.
"""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from osmo_ray.objects import scope

HERE = Path(__file__).resolve().parent
UP = HERE.parent / "kube-up"
NODE_ADDRESS = "10.77.0.1"
_PORT, _GATEWAY = 16543, 18700


@dataclass(frozen=True)
class Cluster:
    """Where the cluster is, and what runs in it. `folder` is kube-up's state; None for a cluster of somebody else."""

    kubeconfig: Path
    storage_url: str
    """For pods."""
    storage: str
    """The same for us."""
    runtime_image: str
    task_image: str
    folder: Path | None = None

    def within(self, *argv: str) -> list[str]:
        """A command line that runs where pods' and nodes' addresses are reachable."""
        return ["nsenter", f"--net={self.folder}/net", "--", *argv] if self.folder else list(argv)


def environment(folder: Path | None, *argv: str) -> list[str]:
    return ["env", f"KUBE_DIR={folder}", f"KUBE_PORT={_PORT}", *argv]


@pytest.fixture(scope="session")
def kube() -> Iterator[Cluster]:
    given = os.environ.get("KUBECONFIG")
    if given:
        storage = os.environ["OSMO_TEST_STORAGE_URL"]
        images = os.environ["OSMO_TEST_RUNTIME_IMAGE"], os.environ["OSMO_TEST_TASK_IMAGE"]
        yield Cluster(Path(given), storage, storage, *images)
        return
    base = Path(tempfile.mkdtemp(prefix="osmo-kube-"))
    try:
        yield from _own(base)
    finally:
        shutil.rmtree(base, ignore_errors=True)


def _own(base: Path) -> Iterator[Cluster]:
    tools = subprocess.run(["bash", HERE / "build.sh"], capture_output=True, text=True, check=True)
    folder, store, key = base / "up", base / "storage", secrets.token_bytes(32)
    _kube_up(folder, "up", KUBE_BIN=tools.stdout.strip())
    gateway = None
    try:
        _image(folder, base)
        store.mkdir()
        serve = [sys.executable, str(HERE / "gateway.py"), str(store), key.hex(), NODE_ADDRESS, str(_GATEWAY)]
        cluster = Cluster(
            folder / "kubeconfig",
            f"osmo+http://{NODE_ADDRESS}:{_GATEWAY}#{scope.grant(key, scope.ALL, '', time.time() + 86400)}",
            store.as_uri(),
            "localhost/osmo-runtime:1",
            "localhost/busybox:1",
            folder,
        )
        gateway = subprocess.Popen(cluster.within(*serve), env={**os.environ, "PYTHONPATH": str(HERE.parents[2])})
        _await_gateway(cluster)
        yield cluster
    finally:
        if gateway is not None:
            gateway.terminate()
            gateway.wait(10)
        _kube_up(folder, "down")


def _kube_up(folder: Path, *argv: str, **more: str) -> None:
    done = subprocess.run(
        environment(folder, "bash", str(UP), *argv), env={**os.environ, **more}, capture_output=True, text=True
    )
    if done.returncode:
        pytest.fail(f"kube-up {argv[0]} gave {done.returncode}: {done.stderr[-2000:]}", pytrace=False)


def _image(folder: Path, base: Path) -> None:
    tools = Path(os.environ.get("OSMO_TOOLS") or Path.home() / ".cache/osmo-ray/tools")
    launcher = tools / "launcher/osmo-launcher"
    subprocess.run([sys.executable, HERE / "runtime_image.py", launcher, base / "image"], check=True)
    _kube_up(folder, "image", "localhost/osmo-runtime:1", str(base / "image"))


def _await_gateway(cluster: Cluster) -> None:
    url = f"http://{NODE_ADDRESS}:{_GATEWAY}/api/x/storage"
    ask = cluster.within("curl", "-sf", "--noproxy", "*", "-I", url)
    until = time.monotonic() + 30
    while subprocess.run(ask, capture_output=True).returncode:
        if time.monotonic() > until:
            pytest.fail("the storage gateway did not come up", pytrace=False)
        time.sleep(0.1)
