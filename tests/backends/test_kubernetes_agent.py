"""The contract of all backends, and what pods do beyond it, for a cluster that nobody reaches: through its agent, which
runs there as a pod and dials out.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace

import pytest

from osmo_ray.backends.kubernetes.backend import KubernetesBackend
from osmo_ray.backends.kubernetes.client import ApiError, HttpApi
from osmo_ray.backends.kubernetes.kubeconfig import Access
from osmo_ray.backends.kubernetes.settings import ClusterSettings
from osmo_ray.backends.protocol import BackendUnavailable
from osmo_ray.spec.attempt import AttemptKey, AttemptPlan, Phase
from tests.backends import contract
from tests.backends import test_kubernetes as direct
from tests.servers.kube import agents
from tests.servers.kube.agents import Front
from tests.servers.kube.cluster import API_PORT, NEAR_ADDRESS, Cluster

pytestmark = pytest.mark.kubernetes
NAME = "far"


@pytest.fixture(scope="module")
def front(kube: Cluster) -> Iterator[Front]:
    """An agent in the cluster, behind a wall, and this end of its link."""
    made = Front()
    try:
        with agents.wall(kube), agents.installed(kube, NAME, made.url, made.token):
            yield made
    finally:
        made.close()


@pytest.fixture(scope="module")
def owner() -> str:
    return secrets.token_hex(6)


def connect(cluster: Cluster, front: Front, owner: str) -> KubernetesBackend:
    settings = ClusterSettings(owner, cluster.storage_url, cluster.runtime_image, f"osmo-{NAME}")
    return KubernetesBackend(NAME, api(front), settings)


def api(front: Front) -> HttpApi:
    return HttpApi(Access(f"http://{NAME}.agent", "", None, socket=front.way(NAME)))


class TestThroughAnAgent(direct.TestKubernetesBackend):
    @pytest.fixture
    async def backend(  # type: ignore[override]
        self, kube: Cluster, front: Front, owner: str, monkeypatch: pytest.MonkeyPatch
    ) -> AsyncIterator[KubernetesBackend]:
        made = contract.attempt

        def with_image(*args: str, **more: object) -> AttemptPlan:
            return replace(made(*args, **more), image=kube.task_image, cpu=0.1, storage=64 << 20)  # type: ignore[arg-type]

        monkeypatch.setattr(contract, "attempt", with_image)
        backend = connect(kube, front, owner)
        await backend.capacity()
        yield backend
        await backend.close()

    async def test_nobody_reaches_the_cluster_itself(self, backend: KubernetesBackend, kube: Cluster):
        """Neither its API server nor its kubelet, at the end of the only cable that leads there."""
        await backend.capacity()
        for port in (10250, API_PORT):
            with pytest.raises(OSError), socket.create_connection((NEAR_ADDRESS, port), 1.0):
                pass

    async def test_the_account_of_the_agent_may_not_do_more_than_it_needs(self, front: Front):
        """What the guard would let through, the cluster's own rules still judge."""
        client = api(front)
        for ask in (
            client.create("/apis/scheduling.run.ai/v2/queues", {"kind": "Queue"}),
            client.get("/apis/kueue.x-k8s.io/v1beta1/clusterqueues"),
        ):
            with pytest.raises(ApiError, match=r"403 Forbidden: .*cannot"):
                await ask
        await client.close()

    async def test_links_that_break_lose_nothing_and_do_nothing_twice(
        self, backend: KubernetesBackend, epoch: int, kube: Cluster, front: Front
    ):
        """Cut while pods are made, while they run, and the agent itself killed; each runs once, each end is seen."""
        node = await self.node(backend)
        plans = [contract.attempt(node, "sh", "-c", f"sleep {2 + n}; exit {n}") for n in range(4)]
        making = asyncio.ensure_future(backend.apply(epoch, [contract.group(p) for p in plans]))
        front.cut()
        refused = await asyncio.gather(making, return_exceptions=True)
        assert isinstance(refused[0], (dict, BackendUnavailable)), refused
        await eventually(backend, lambda: front.switch.linked)
        assert not await self.again(backend, epoch, plans)
        os.kill(agents.agent_pid(kube, NAME), signal.SIGKILL)
        await eventually(backend, lambda: not front.switch.linked)
        with pytest.raises(BackendUnavailable):
            await api(front).get("/version")
        await eventually(backend, lambda: front.switch.linked)
        assert not await self.again(backend, epoch, plans)
        async with asyncio.timeout(60):
            while len(ends := await self.ends(backend, plans)) < len(plans):
                await asyncio.sleep(0.1)
        assert ends == {plan.key: (number, 0) for number, plan in enumerate(plans)}

    async def ends(self, backend: KubernetesBackend, plans: list[AttemptPlan]) -> dict[AttemptKey, tuple[object, int]]:
        keys = {plan.key for plan in plans}
        found = [o for o in await backend.list() if o.key in keys and o.phase is Phase.FINISHED]
        return {o.key: (o.exit_code, o.restart) for o in found}

    async def again(self, backend: KubernetesBackend, epoch: int, plans: list[AttemptPlan]) -> dict[str, object]:
        """What the control plane does: it says what it wants until it is taken."""
        async with asyncio.timeout(30):
            while True:
                try:
                    return dict(await backend.apply(epoch, [contract.group(p) for p in plans]))
                except BackendUnavailable:
                    await asyncio.sleep(0.2)


async def eventually(backend: KubernetesBackend, what: Callable[[], object]) -> None:
    async with asyncio.timeout(60):
        while not what():
            await asyncio.sleep(0.05)
