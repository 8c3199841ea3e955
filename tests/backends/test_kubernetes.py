"""The Kubernetes backend passes the contract of all backends, on a real cluster with a real node."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from typing import Any

import pytest

from osmo_ray.backends.inside import NotInside, Stream
from osmo_ray.backends.kubernetes import pods
from osmo_ray.backends.kubernetes.backend import KubernetesBackend
from osmo_ray.backends.kubernetes.client import HttpApi
from osmo_ray.backends.kubernetes.kubeconfig import open_kubeconfig
from osmo_ray.backends.kubernetes.settings import ClusterSettings
from osmo_ray.objects import open_store
from osmo_ray.objects.keyed import below
from osmo_ray.spec.attempt import AttemptKey, AttemptPlan, CheckpointPlan, FilePlan, Phase, Secrets
from osmo_ray.spec.reason import HELD
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
def owner(kube: Cluster) -> Iterator[str]:
    """Whose pods these tests make; what they leave is deleted at the end."""
    owner = secrets.token_hex(6)
    yield owner
    asyncio.run(_delete_all(kube, owner))


async def _delete_all(kube: Cluster, owner: str) -> None:
    api = HttpApi(open_kubeconfig(kube.kubeconfig.read_text()))
    await api.delete("/api/v1/namespaces/osmo/pods", 1, {"labelSelector": f"{pods.OWNER}={owner}"})
    await api.close()


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
        script = (
            "import socket, threading\n"
            "udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); udp.bind(('127.0.0.1', 7002))\n"
            "door = socket.create_server(('127.0.0.1', 7001))\n"
            "def echo():\n"
            "    while True:\n"
            "        data, who = udp.recvfrom(100); udp.sendto(data, who)\n"
            "threading.Thread(target=echo, daemon=True).start()\n"
            "while True:\n"
            "    one, _ = door.accept(); one.sendall(one.recv(100)); one.close()\n"
        )
        plan = contract.attempt(await self.node(backend), "python3", "-c", script)
        plan = replace(plan, image=backend.settings.runtime_image)
        await backend.apply(epoch, [contract.group(plan)])
        await self.until(backend, plan.key, lambda o: o.phase is Phase.RUNNING)
        stream = await self.reached(backend, plan, 7001)
        await stream.send(b"there")
        assert await stream.receive() == b"there"
        await stream.close()
        wire = await backend.connect(plan.key, plan.node, 7002, udp=True)
        sender = bytes([127, 0, 0, 1, 0x12, 0x34])
        await wire.send(sender + b"one")
        async with asyncio.timeout(20):
            assert await wire.receive() == sender + b"one"
        await wire.close()

    async def reached(self, backend: KubernetesBackend, plan: AttemptPlan, port: int) -> Stream:
        """A connection, as soon as the command listens."""
        async with asyncio.timeout(20):
            while True:
                try:
                    return await backend.connect(plan.key, plan.node, port)
                except NotInside as error:
                    assert "nothing listens" in str(error)
                    await asyncio.sleep(0.1)

    async def started(self, backend: KubernetesBackend, epoch: int, script: str, **more: Any) -> AttemptPlan:
        plan = replace(contract.attempt(await self.node(backend), "sh", "-c", script), **more)
        assert not await backend.apply(epoch, [contract.group(plan)])
        return plan

    async def test_credentials_reach_the_task_and_no_log(self, backend: KubernetesBackend, epoch: int, kube: Cluster):
        given = Secrets({"TOKEN": "correct horse"}, (FilePlan("/etc/keys/a", "battery staple"),), ("correct horse",))
        script = 'test "$TOKEN" = "$0" && test "$(cat /etc/keys/a)" = "battery staple" && echo "it is $TOKEN" && exit 5'
        plan = await self.started(backend, epoch, script, secrets=given)
        other = replace(plan, key=AttemptKey(contract.fresh(), 0), group_uuid=contract.fresh())
        other = replace(other, argv=(*other.argv, "$(TOKEN)"))
        await backend.apply(epoch, [contract.group(other)])
        seen = await self.until(backend, other.key, lambda o: o.phase is Phase.FINISHED)
        assert seen[-1].exit_code == 5
        log = b""
        async with asyncio.timeout(20):
            while b"it is" not in log:
                log += (await backend.logs(other.key, other.node, len(log), 1 << 20, 1.0)).data
        assert b"it is [MASKED]" in log and b"horse" not in log
        await backend.delete(epoch, [plan.group_uuid, other.group_uuid], 1.0)
        api = HttpApi(open_kubeconfig(kube.kubeconfig.read_text()))
        async with asyncio.timeout(60):
            while (
                await api.get(
                    f"/api/v1/namespaces/{backend.settings.namespace}/secrets",
                    {"labelSelector": f"{pods.ATTEMPT}={other.key}"},
                )
            )["items"]:
                await asyncio.sleep(0.2)
        await api.close()

    async def test_a_failed_task_is_held_and_runs_again_in_place(self, backend: KubernetesBackend, epoch: int):
        plan = await self.started(backend, epoch, "test -e /tmp/mended", hold=600.0)
        held = await self.until(backend, plan.key, lambda o: o.reason is not None and o.reason.code == HELD, 40)
        assert held[-1].phase is Phase.RUNNING
        session = await backend.exec(plan.key, plan.node, ["touch", "/tmp/mended"])
        await told(session)
        await backend.release(plan.key, plan.node, rerun=True)
        seen = await self.until(backend, plan.key, lambda o: o.phase is Phase.FINISHED)
        assert seen[-1].exit_code == 0

    async def test_a_released_task_fails_as_it_had_failed(self, backend: KubernetesBackend, epoch: int):
        plan = await self.started(backend, epoch, "exit 6", hold=600.0)
        await self.until(backend, plan.key, lambda o: o.reason is not None and o.reason.code == HELD, 40)
        await backend.release(plan.key, plan.node)
        seen = await self.until(backend, plan.key, lambda o: o.phase is Phase.FINISHED)
        assert seen[-1].exit_code == 6

    async def test_a_folder_outside_the_shared_one_is_kept(self, backend: KubernetesBackend, epoch: int, kube: Cluster):
        place = f"checkpoints/{contract.fresh()}"
        one = CheckpointPlan("/model", below(kube.storage_url, place), 3600.0)
        plan = await self.started(backend, epoch, "mkdir /model; echo one >/model/x; exit 3", checkpoints=(one,))
        seen = await self.until(backend, plan.key, lambda o: o.phase is Phase.FINISHED)
        assert seen[-1].exit_code == 3
        assert open_store(kube.storage).read(f"{place}/x") == b"one\n"

    async def test_a_folder_of_the_node_and_its_network(self, backend: KubernetesBackend, epoch: int, kube: Cluster):
        """The pod's address is the node's own."""
        script = "test -d /node/kernel && grep -q '^CapEff:.*ffffff' /proc/self/status"
        plan = await self.started(backend, epoch, script, mounts=("/sys:/node",), host_network=True, privileged=True)
        seen = await self.until(backend, plan.key, lambda o: o.phase is Phase.FINISHED)
        assert seen[-1].exit_code == 0
        api = HttpApi(open_kubeconfig(kube.kubeconfig.read_text()))
        node = await api.get(f"/api/v1/nodes/{plan.node}")
        await api.close()
        assert seen[-1].address in [one["address"] for one in node["status"]["addresses"]]

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
