"""The Kubernetes backend passes the contract of all backends, on a real cluster with a real node."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from osmo_ray.backends.kubernetes.backend import KubernetesBackend
from osmo_ray.backends.kubernetes.client import HttpApi
from osmo_ray.backends.kubernetes.kubeconfig import open_kubeconfig
from osmo_ray.backends.kubernetes.settings import ClusterSettings
from osmo_ray.spec.attempt import AttemptKey, AttemptPlan, Phase
from tests.backends import contract
from tests.backends.contract import BackendContract
from tests.backends.inside_contract import InsideContract, told
from tests.servers.kube.cluster import Cluster

pytestmark = pytest.mark.kubernetes


def connect(cluster: Cluster, owner: str) -> KubernetesBackend:
    access = open_kubeconfig(cluster.backend_kubeconfig.read_text())
    settings = ClusterSettings(owner, cluster.storage_url, cluster.runtime_image, access.namespace)
    return KubernetesBackend("kube", HttpApi(access), settings)


@pytest.fixture(scope="module")
def owner() -> str:
    return secrets.token_hex(6)


class TestKubernetesBackend(InsideContract, BackendContract):
    @pytest.fixture
    async def backend(
        self,
        kube: Cluster,
        owner: str,
        monkeypatch: pytest.MonkeyPatch,
    ) -> AsyncIterator[KubernetesBackend]:
        made = contract.attempt

        def with_image(*args: str, **more: object) -> AttemptPlan:
            return replace(made(*args, **more), image=kube.task_image, cpu=0.1, storage=64 << 20)

        monkeypatch.setattr(contract, "attempt", with_image)
        backend = connect(kube, owner)
        await backend.capacity()
        yield backend
        await backend.close()

    async def test_a_port_of_the_pod_carries_bytes_and_datagrams(self, backend: KubernetesBackend, epoch: int):
        key, node = await self.listening(backend, epoch, "nc -l -p 7001 -e cat & nc -u -l -p 7002 -e cat & wait")
        stream = await backend.connect(key, node, 7001)
        await stream.send(b"there")
        assert await stream.receive() == b"there"
        await stream.close()
        wire = await backend.connect(key, node, 7002, udp=True)
        sender = bytes([127, 0, 0, 1, 0x12, 0x34])
        await wire.send(sender + b"one")
        async with asyncio.timeout(20):
            assert await wire.receive() == sender + b"one"
        await wire.close()

    async def listening(self, backend: KubernetesBackend, epoch: int, script: str) -> tuple[AttemptKey, str]:
        """An attempt whose command runs `script`, once it listens on port 7001."""
        plan = contract.attempt(await self.node(backend), "sh", "-c", script)
        await backend.apply(epoch, [contract.group(plan)])
        await self.until(backend, plan.key, lambda o: o.phase is Phase.RUNNING)
        session = await backend.exec(
            plan.key, plan.node, ["sh", "-c", "until netstat -ltn | grep -q :7001; do sleep 0.1; done"]
        )
        await told(session)
        assert session.code == 0
        return plan.key, plan.node

    async def test_a_closed_session_leaves_nothing_behind(self, backend: KubernetesBackend, epoch: int):
        key, node = await self.running(backend, epoch)
        script = "trap '' HUP; setsid sleep 4321 & echo up; exec sleep 4321"
        session = await backend.exec(key, node, ["sh", "-c", script])
        assert (said := await session.receive()) is not None and said.data == b"up\n"
        await session.close()
        looking = "until ! ps -o args | grep -q '[s]leep 4321'; do sleep 0.1; done; echo gone"
        session = await backend.exec(key, node, ["sh", "-c", looking])
        assert (await told(session))[0] == b"gone\n"
        await session.close()

    async def test_a_command_inside_has_the_environment_and_ends_with_the_task(
        self, backend: KubernetesBackend, epoch: int
    ):
        plan = contract.attempt(await self.node(backend), *self.stays)
        await backend.apply(epoch, [contract.group(plan)])
        await self.until(backend, plan.key, lambda o: o.phase is Phase.RUNNING)
        key, node = plan.key, plan.node
        session = await backend.exec(key, node, ["sh", "-c", "echo $OSMO_TASK $0; no-such", "zero"])
        assert (await told(session))[0].split() == [b"t", b"zero"] and session.code == 127
        await session.close()
        session = await backend.exec(key, node, ["sh", "-c", "echo up; sleep 600"])
        assert (said := await session.receive()) is not None and said.data == b"up\n"
        await backend.delete(epoch, [plan.group_uuid], 1.0)
        await told(session)
        assert session.code is None
        await session.close()
