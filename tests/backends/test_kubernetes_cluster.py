"""What the Kubernetes backend does beyond the contract, on a real cluster with a real node."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest

from osmo_ray.backends.kubernetes import observe, pods
from osmo_ray.backends.kubernetes.backend import KubernetesBackend
from osmo_ray.backends.kubernetes.client import HttpApi, Object
from osmo_ray.backends.kubernetes.kubeconfig import open_kubeconfig
from osmo_ray.backends.kubernetes.settings import ClusterSettings
from osmo_ray.backends.protocol import StaleEpoch
from osmo_ray.objects import open_store
from osmo_ray.runtime import transfer
from osmo_ray.runtime.logs import stored_log
from osmo_ray.spec.attempt import AttemptKey, AttemptPlan, FilePlan, InputPlan, Observation, OutputPlan, Phase
from tests.backends import contract
from tests.servers.kube.cluster import Cluster

pytestmark = pytest.mark.kubernetes
CLIENT = """
import socket, time
for _ in range(100):  # the barrier says that the server's command begins, not that it listens
    try:
        print("got", socket.create_connection(("{{host:server}}", 7000), 10).recv(9).decode())
        break
    except ConnectionRefusedError:
        time.sleep(0.1)
"""
NODE, PODS = "node-1", "/api/v1/namespaces/osmo/pods"


@dataclass
class World:
    """A backend of its own platform, and the cluster's API beside it."""

    cluster: Cluster
    backend: KubernetesBackend
    api: HttpApi
    owner: str

    def attempt(self, *argv: str, image: str = "", **more: Any) -> AttemptPlan:
        made = contract.attempt(NODE, *argv, **{"group": more.pop("group", ""), **more})
        return replace(made, image=image or self.cluster.task_image, cpu=0.1, storage=64 << 20)

    def python(self, script: str, **more: Any) -> AttemptPlan:
        return self.attempt("python3", "-c", script, image=self.cluster.runtime_image, **more)

    async def apply(self, *attempts: AttemptPlan) -> None:
        assert await self.backend.apply(1, [contract.group(*attempts)]) == {}

    async def until(self, key: AttemptKey, done: Callable[[Observation], bool], limit: float = 40) -> list[Observation]:
        return await contract.BackendContract().until(self.backend, key, done, limit)

    async def finished(self, key: AttemptKey) -> Observation:
        return (await self.until(key, lambda o: o.phase in (Phase.FINISHED, Phase.LOST)))[-1]

    async def runs(self, plan: AttemptPlan) -> Observation:
        return (await self.until(plan.key, lambda o: o.phase is Phase.RUNNING))[-1]

    async def objects(self, plan: AttemptPlan, kind: str = "pods") -> Sequence[Object]:
        selector = {"labelSelector": f"{pods.ATTEMPT}={plan.key}"}
        return list((await self.api.get(f"/api/v1/namespaces/osmo/{kind}", selector))["items"])

    def name(self, plan: AttemptPlan) -> str:
        return pods.name_of(plan.key, plan.restart)

    def log(self, plan: AttemptPlan) -> str:
        found = stored_log(open_store(self.cluster.storage), plan.workflow_uuid, plan.key, 0, 1 << 20)
        return "\n".join(line.split(" ", 2)[2] for line in found.data.decode().splitlines())


def connect(cluster: Cluster, owner: str) -> KubernetesBackend:
    access = open_kubeconfig(cluster.backend_kubeconfig.read_text())
    settings = ClusterSettings(owner, cluster.storage_url, cluster.runtime_image, access.namespace)
    return KubernetesBackend("kube", HttpApi(access), settings)


@pytest.fixture
async def world(kube: Cluster) -> AsyncIterator[World]:
    owner = secrets.token_hex(6)
    made = World(kube, connect(kube, owner), HttpApi(open_kubeconfig(kube.kubeconfig.read_text())), owner)
    await made.backend.capacity()
    yield made
    await made.api.delete(PODS, 1, {"labelSelector": f"{pods.OWNER}={owner}"})
    await made.backend.close()
    await made.api.close()


async def eventually(what: Callable[[], Any], limit: float = 20) -> None:
    until = time.monotonic() + limit
    while not await what():
        assert time.monotonic() < until, "it did not come about in time"
        await asyncio.sleep(0.1)


async def test_inputs_files_and_outputs_are_where_the_documents_say(world: World):
    store = open_store(world.cluster.storage)
    source, target = f"in/{world.owner}", f"out/{world.owner}"
    store.write(f"{source}/deep/a.txt", b"hello\n")
    tree = transfer.Tree([transfer.FileEntry("deep/a.txt", 6, 0o644, "deep/a.txt")], [("deep", 0o755)], [])
    store.write(f"{source}/{transfer.MANIFEST}", tree.to_json().encode())
    script = "cat {{input:0}}/deep/a.txt /etc/app.conf > {{output}}/both; cat {{output}}/made; echo $WORD $OSMO_TASK"
    plan = world.attempt(
        "sh", "-c", script,
        environment={"WORD": "in {{workflow_id}}"},
        inputs=(InputPlan("prefix", source, "before"),),
        outputs=(OutputPlan("prefix", target),),
        files=(FilePlan("/etc/app.conf", "of {{workflow_id}}\n"), FilePlan("{{output}}/made", "made\n")),
    )  # fmt: skip
    await world.apply(plan)
    end = await world.finished(plan.key)
    assert (end.exit_code, end.output) == (0, target), end
    assert store.read(f"{target}/both") == b"hello\nof contract-1\n"
    assert {f.path for f in transfer.read_manifest(store, target).files} == {"both", "made"}
    told = world.log(plan)
    assert "made\nin contract-1 t\n" in told and "input 0: 1 file" in told and "output: 2 files" in told


async def test_files_that_no_secret_can_hold(world: World):
    files = (FilePlan("/big", "x" * (2 << 20)), FilePlan("/small", "of {{workflow_id}}"))
    plan = world.attempt("sh", "-c", "wc -c < /big; cat /small", files=files)
    await world.apply(plan)
    assert (await world.finished(plan.key)).exit_code == 0
    assert f"{2 << 20}\nof contract-1" in world.log(plan)


async def test_a_missing_input_ends_the_attempt_with_its_reason(world: World):
    plan = world.attempt(inputs=(InputPlan("prefix", "in/nothing"),))
    await world.apply(plan)
    end = await world.finished(plan.key)
    assert (end.exit_code, end.reason and end.reason.code) == (2010, "DownloadFailed")
    assert "in/nothing" in world.log(plan)


async def test_a_program_that_is_not_in_the_image(world: World):
    plan = world.attempt("no-such-program")
    await world.apply(plan)
    end = await world.finished(plan.key)
    assert (end.exit_code, end.reason and end.reason.code) == (3003, "CommandNotFound")


async def test_a_kill_for_memory_is_told_as_one(world: World):
    plan = world.python("print('begun', flush=True); b'x' * (200 << 20)")
    await world.apply(plan)
    end = await world.finished(plan.key)
    assert (end.exit_code, end.reason and end.reason.code) == (3004, "OutOfMemory")
    assert end.reason is not None and end.reason.evidence["limit"] == "64.0 MiB"


async def test_a_task_that_writes_more_than_its_storage_is_evicted(world: World):
    plan = world.attempt("sh", "-c", "head -c 100000000 /dev/zero > {{output}}/big; sleep 600")
    await world.apply(plan)
    end = (await world.until(plan.key, lambda o: o.phase in (Phase.FINISHED, Phase.LOST), 90))[-1]
    assert (end.phase, end.exit_code, end.reason and end.reason.code) == (Phase.FINISHED, 3004, "Evicted")


async def test_many_at_once_all_end(world: World):
    plans = [world.attempt("sh", "-c", f"exit {n % 3}") for n in range(30)]
    plans = [replace(p, cpu=0.0, memory=16 << 20) for p in plans]
    assert await world.backend.apply(1, [contract.group(p) for p in plans]) == {}
    await asyncio.gather(*(eventually(lambda p=p: is_in(world, p, Phase.FINISHED), 90) for p in plans))
    codes = {o.key: o.exit_code for o in await world.backend.list()}
    assert [codes[p.key] for p in plans] == [n % 3 for n in range(30)]


async def test_an_image_that_is_nowhere(world: World):
    plan = world.attempt(image="localhost/not/there:1")
    await world.apply(plan)
    end = await world.finished(plan.key)
    assert end.exit_code in (301, 302) and end.reason is not None and "localhost/not/there:1" in end.reason.sentence


async def test_a_pod_that_the_cluster_refuses_fails_with_its_words(world: World):
    plan = replace(world.attempt(), memory=-1)
    await world.apply(plan)
    end = await world.finished(plan.key)
    assert (end.exit_code, end.reason and end.reason.code) == (3003, "PodRefused")


async def test_siblings_find_each_other_by_name_behind_the_barrier(world: World):
    """The client looks its sibling up by the name that stands for `{{host:server}}`."""
    group = contract.fresh()
    serve = "import socket as s; l = s.create_server(('', 7000)); c, _ = l.accept(); c.sendall(b'hello'); c.close()"

    common = {"group": group, "barrier": True, "go": False, "peers": ("server", "client")}
    server, client = world.python(serve, task="server", **common), world.python(CLIENT, task="client", **common)
    await world.apply(server, client)
    await world.until(server.key, lambda o: o.phase is Phase.READY)
    ready = {o.key: o for o in await world.backend.list()}
    while ready[client.key].phase is not Phase.READY:
        await asyncio.sleep(0.1)
        ready = {o.key: o for o in await world.backend.list()}
    hosts = {"server": ready[server.key].address, "client": ready[client.key].address}
    await world.apply(replace(server, go=True, hosts=hosts), replace(client, go=True, hosts=hosts))
    assert (await world.finished(client.key)).exit_code == 0
    assert "got hello" in world.log(client)


async def test_a_restart_is_a_new_pod_that_reports_its_generation(world: World):
    plan = world.attempt("sleep", "600")
    await world.apply(plan)
    await world.runs(plan)
    again = replace(plan, restart=1, argv=("sh", "-c", "exit 5"))
    await world.apply(again)
    end = await world.finished(plan.key)
    assert (end.restart, end.exit_code) == (1, 5)
    await eventually(lambda: only(world, again, 1))


async def only(world: World, plan: AttemptPlan, restart: int) -> bool:
    return [o["metadata"]["name"] for o in await world.objects(plan)] == [pods.name_of(plan.key, restart)]


async def test_a_term_reaches_the_command(world: World):
    script = "trap 'echo told; exit 0' TERM; echo ready; while :; do sleep 0.1; done"
    plan = world.attempt("sh", "-c", script)
    await world.apply(plan)
    await world.runs(plan)
    await eventually(lambda: says(world, plan, "ready"))
    await world.backend.delete(1, [plan.group_uuid], 10.0)
    await eventually(lambda: is_gone(world, plan))
    assert "told" in world.log(plan)


async def says(world: World, plan: AttemptPlan, text: str) -> bool:
    return text.encode() in (await world.backend.logs(plan.key, NODE, 0, 1 << 16, 0.5)).data


async def is_gone(world: World, plan: AttemptPlan) -> bool:
    return not await world.objects(plan) and not await world.objects(plan, "secrets")


async def test_a_log_can_be_followed_while_it_is_written(world: World):
    plan = world.attempt("sh", "-c", "echo first; sleep 600")
    await world.apply(plan)
    await world.runs(plan)
    chunk = await world.backend.logs(plan.key, NODE, 0, 1 << 16, 10.0)
    while b"first" not in chunk.data:
        chunk = await world.backend.logs(plan.key, NODE, 0, 1 << 16, 10.0)
    assert chunk.end is False
    rest = await world.backend.logs(plan.key, NODE, chunk.next, 1 << 16, 0.1)
    assert (rest.data, rest.next, rest.end) == (b"", chunk.next, False)


async def test_another_controller_adopts_what_runs(world: World):
    plan = world.attempt("sleep", "600")
    await world.apply(plan)
    await world.runs(plan)
    next_one = connect(world.cluster, world.owner)
    try:
        assert {o.key: o.phase for o in await next_one.list()}[plan.key] is Phase.RUNNING
        assert await next_one.apply(2, [contract.group(plan)]) == {}
        assert len(await world.objects(plan)) == 1
        with pytest.raises(StaleEpoch):
            for _ in range(100):  # the news comes by a watch
                await world.backend.apply(1, [contract.group(plan)])
                await asyncio.sleep(0.05)
    finally:
        await next_one.close()


async def test_an_older_controller_that_comes_late_is_refused_by_the_cluster(world: World):
    plan = world.attempt()
    assert await world.backend.apply(7, [contract.group(plan)]) == {}
    late = connect(world.cluster, world.owner)
    try:
        with pytest.raises(StaleEpoch):
            await late.apply(6, [contract.group(plan)])
    finally:
        await late.close()


async def test_what_a_replaced_controller_still_makes_is_deleted(world: World):
    assert await world.backend.apply(7, [contract.group(world.attempt())]) == {}
    stray = world.attempt("sleep", "600")
    value = pods.pod_of(stray, world.backend.settings, world.backend.settings.platforms[0], 6)
    await world.api.apply(f"{PODS}/{world.name(stray)}", value)
    await eventually(lambda: is_gone(world, stray))
    assert stray.key not in {o.key for o in await world.backend.list()}


async def test_the_secret_goes_with_the_pod(world: World):
    plan = world.attempt("sleep", "600")
    await world.apply(plan)
    await world.runs(plan)
    assert len(await world.objects(plan, "secrets")) == 1
    await world.backend.delete(1, [plan.group_uuid], 1.0)
    await eventually(lambda: is_gone(world, plan))


async def test_a_pod_costs_at_most_four_calls(world: World):
    group = contract.fresh()
    plans = [world.attempt(group=group, task=f"t{n}", peers=("a", "b"), barrier=True, go=False) for n in range(8)]
    before = world.backend._api.calls  # type: ignore[attr-defined]
    await world.apply(*plans)
    await asyncio.gather(*(eventually(lambda p=p: is_in(world, p, Phase.READY), 60) for p in plans))
    await world.apply(*(replace(p, go=True) for p in plans))
    await asyncio.gather(*(eventually(lambda p=p: is_in(world, p, Phase.FINISHED), 60) for p in plans))
    await world.backend.settle([p.key for p in plans])
    await asyncio.gather(*(eventually(lambda p=p: is_gone(world, p), 60) for p in plans))
    assert world.backend._api.calls - before <= 4 * len(plans)  # type: ignore[attr-defined]


async def is_in(world: World, plan: AttemptPlan, phase: Phase) -> bool:
    return any(o.key == plan.key and o.phase is phase for o in await world.backend.list())


async def test_what_cannot_be_scheduled_says_why(world: World):
    plan = replace(world.attempt(), cpu=900.0)
    await world.apply(plan)
    seen = (await world.until(plan.key, lambda o: o.reason is not None))[-1]
    assert seen.phase is Phase.PENDING and seen.reason is not None
    assert seen.reason.code == "Unschedulable" and "cpu" in seen.reason.sentence


async def test_a_pod_that_somebody_deletes_is_lost(world: World):
    plan = world.attempt("sleep", "600")
    await world.apply(plan)
    await world.runs(plan)
    await world.api.delete(f"{PODS}/{world.name(plan)}", 1)
    end = await world.finished(plan.key)
    assert (end.phase, end.reason and end.reason.code) == (Phase.LOST, "PodDeleted")


async def test_a_pod_that_nobody_is_there_to_end_is_lost(world: World, monkeypatch: pytest.MonkeyPatch):
    """Its node is dead: the cluster marks it for deletion, and there it stays."""
    plan = world.attempt("sleep", "600")
    await world.apply(plan)
    await world.runs(plan)
    world.cluster.part("kill", "kubelet")
    try:
        await world.api.delete(f"{PODS}/{world.name(plan)}", 1)
        monkeypatch.setattr(observe, "DELETION_PATIENCE", 1.0)
        await eventually(lambda: is_in(world, plan, Phase.LOST))
        (seen,) = await world.backend.list()
        assert seen.reason is not None and seen.reason.code == "NodeLost"
    finally:
        world.cluster.part("start", "kubelet")
    await eventually(lambda: is_gone(world, plan), 60)


async def test_a_drained_pod_is_lost_and_says_so(world: World):
    plan = world.attempt("sleep", "600")
    await world.apply(plan)
    await world.runs(plan)
    value = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": world.name(plan)}}
    await world.api.create(f"{PODS}/{world.name(plan)}/eviction", {**value, "deleteOptions": {"gracePeriodSeconds": 1}})
    end = await world.finished(plan.key)
    assert (end.phase, end.reason and end.reason.code) == (Phase.LOST, "EvictionByEvictionAPI")


async def test_a_pod_of_higher_priority_preempts(world: World):
    """By the real scheduler: the node is full, and somebody more important comes."""
    name = f"urgent-{world.owner}"
    classes = "/apis/scheduling.k8s.io/v1/priorityclasses"
    kind = {"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": name}, "value": 1000}
    await world.api.create(classes, kind)
    node = (await world.backend.capacity())[0]
    plan = replace(world.attempt("sleep", "600"), cpu=node.cpu - 0.1)
    await world.apply(plan)
    await world.runs(plan)
    try:
        await world.api.create(PODS, urgent(name, world.cluster.task_image))
        end = await world.finished(plan.key)
        assert (end.phase, end.exit_code, end.reason and end.reason.code) == (Phase.FINISHED, 3006, "Preempted")
    finally:
        await world.api.delete(f"{PODS}/{name}", 1)
        await world.api.delete(f"{classes}/{name}")


def urgent(name: str, image: str) -> Mapping[str, Any]:
    container = {"name": "c", "image": image, "command": ["true"], "resources": {"requests": {"cpu": "1"}}}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {"priorityClassName": name, "restartPolicy": "Never", "containers": [container]},
    }


async def test_capacity_is_what_other_pods_leave(world: World):
    node = await world.api.get(f"/api/v1/nodes/{NODE}")
    whole = float(node["status"]["allocatable"]["cpu"])
    await eventually(lambda: leaves(world, whole))  # what earlier tests left is gone
    name = f"other-{world.owner}"
    pod = urgent("system-node-critical", world.cluster.task_image)
    await world.api.create(PODS, {**pod, "metadata": {"name": name}, "spec": {**pod["spec"], "nodeName": NODE}})
    try:
        await eventually(lambda: leaves(world, whole - 1))
    finally:
        await world.api.delete(f"{PODS}/{name}", 1)
    await eventually(lambda: leaves(world, whole))


async def leaves(world: World, cpu: float) -> bool:
    return abs((await world.backend.capacity())[0].cpu - cpu) < 0.01


async def test_a_cordoned_node_takes_no_work(world: World):
    path = f"/api/v1/nodes/{NODE}"
    await world.api.merge(path, {"spec": {"unschedulable": True}})
    try:
        await eventually(lambda: alive(world, False))
        (seen,) = await world.backend.capacity()
        assert "NodeCordoned" in {r.code for r in seen.reasons}
    finally:
        await world.api.merge(path, {"spec": {"unschedulable": None}})
    await eventually(lambda: alive(world, True))


async def alive(world: World, wanted: bool) -> bool:
    return (await world.backend.capacity())[0].alive is wanted


async def test_a_task_as_another_user_writes_log_and_output(world: World):
    template = {"spec": {"containers": [{"name": "user", "securityContext": {"runAsUser": 1234}}]}}
    world.backend.settings = replace(world.backend.settings, template=template)
    target = f"out/{world.owner}-user"
    plan = world.attempt("sh", "-c", "id -u; id -u > {{output}}/id", outputs=(OutputPlan("prefix", target),))
    await world.apply(plan)
    assert (await world.finished(plan.key)).exit_code == 0
    assert open_store(world.cluster.storage).read(f"{target}/id") == b"1234\n"
    assert "1234" in world.log(plan)
