"""Quotas read from a real API server: queues of KAI and Kueue as custom resources, with few rights."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import pytest

from osmo_ray.backends.kubernetes.client import ApiError, HttpApi
from osmo_ray.backends.kubernetes.kubeconfig import open_kubeconfig
from osmo_ray.providers import kube_reader
from osmo_ray.providers.quota_far import FarQuota
from osmo_ray.providers.quotas import QuotaSource, open_quota
from tests.servers.kube.cluster import Cluster

pytestmark = pytest.mark.kubernetes
CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
KINDS = (
    ("scheduling.run.ai", "v2", "queues", "Queue", "Cluster"),
    ("kueue.x-k8s.io", "v1beta1", "clusterqueues", "ClusterQueue", "Cluster"),
    ("kueue.x-k8s.io", "v1beta1", "localqueues", "LocalQueue", "Namespaced"),
)


def definition(group: str, version: str, plural: str, kind: str, scope: str) -> dict[str, Any]:
    anything = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    schema = {"type": "object", "properties": {"spec": anything}}
    return {
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{group}"},
        "spec": {
            "group": group, "scope": scope,
            "names": {"plural": plural, "singular": kind.lower(), "kind": kind, "listKind": f"{kind}List"},
            "versions": [{"name": version, "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}],
        },
    }  # fmt: skip


class Server:
    """Writes objects as an administrator would."""

    def __init__(self, kube: Cluster) -> None:
        self.text = kube.kubeconfig.read_text()

    def do(self, *steps: tuple[str, str, Any]) -> None:
        async def all_() -> None:
            api = HttpApi(open_kubeconfig(self.text))
            try:
                for verb, path, value in steps:
                    with suppress(ApiError) if verb == "delete" else nullcontext():
                        await (api.delete(path) if verb == "delete" else getattr(api, verb)(path, value))
            finally:
                await api.close()

        asyncio.run(all_())


def queue(name: str, parent: str, quota: float) -> tuple[str, str, Any]:
    every = {"quota": -1, "limit": -1, "overQuotaWeight": 1}
    spec = {"resources": {"gpu": {"quota": quota, "limit": 8, "overQuotaWeight": 1}, "cpu": every, "memory": every}}
    spec |= {"parentQueue": parent} if parent else {}
    body = {"apiVersion": "scheduling.run.ai/v2", "kind": "Queue", "metadata": {"name": name}, "spec": spec}
    return "apply", f"/apis/scheduling.run.ai/v2/queues/{name}", body


@pytest.fixture
def server(kube: Cluster) -> Iterator[Server]:
    made = Server(kube)
    made.do(*(("apply", f"{CRDS}/{p}.{g}", definition(g, v, p, k, s)) for g, v, p, k, s in KINDS))
    yield made
    made.do(*(("delete", f"{CRDS}/{p}.{g}", None) for g, _, p, _, _ in KINDS))


def eventually(quota: FarQuota, want: Any) -> Any:
    """A kind is served a moment after it was defined."""
    until = time.monotonic() + 20
    while True:
        quota.refresh()
        found = quota.snapshot()
        if found is not None and want(found):
            return found
        assert time.monotonic() < until, quota.error
        time.sleep(0.2)


def opened(server: Server, folder: Path, kind: str) -> FarQuota:
    (folder / "kubeconfig").write_text(server.text)
    made = open_quota(QuotaSource(folder, kind, kubeconfig=str(folder / "kubeconfig"), namespace="default"))
    assert isinstance(made, FarQuota)
    made._stop.set()
    return made


def test_kai_queues_are_read_page_by_page_and_followed(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kube_reader, "_PAGE", 2)
    quota = opened(server, tmp_path, "kai")
    until = time.monotonic() + 20
    while True:
        try:
            server.do(queue("all", "", -1), *(queue(f"osmo-pool-default-p{i}", "all", i) for i in range(5)))
            break
        except ApiError:  # the kind is not served yet
            assert time.monotonic() < until
            time.sleep(0.2)
    found = eventually(quota, lambda s: len(s.queues) == 6)
    assert (found.resolve("p3"), found.stale) == ("osmo-pool-default-p3", False)
    assert {q.name: q.gpu for q in found.queues}["osmo-pool-default-p3"] == (3.0, 8.0, 1.0)
    server.do(queue("osmo-pool-default-p3", "all", 7))
    changed = eventually(quota, lambda s: {q.name: q.gpu[0] for q in s.queues}["osmo-pool-default-p3"] == 7)
    assert changed.version != found.version
    # A start while the cluster is away begins with what was read last.
    (tmp_path / "kubeconfig").write_text("nothing")
    late = open_quota(QuotaSource(tmp_path, "kai", kubeconfig=str(tmp_path / "kubeconfig"), namespace="default"))
    assert isinstance(late, FarQuota)
    late._stop.set()
    late.refresh()
    kept = late.snapshot()
    assert kept is not None and kept.stale and kept.queues == changed.queues
    assert kept.resolve("p3") == "osmo-pool-default-p3"


def test_kueue_queues_and_their_local_names(server: Server, tmp_path: Path) -> None:
    quota = opened(server, tmp_path, "kueue")

    def kueue(kind: str, spec: Any, **meta: str) -> dict[str, Any]:
        return {"apiVersion": "kueue.x-k8s.io/v1beta1", "kind": kind, "metadata": meta, "spec": spec}

    amounts = [{"name": "nvidia.com/gpu", "nominalQuota": "4", "borrowingLimit": "2"}]
    spec = {"cohort": "lab", "resourceGroups": [{"flavors": [{"name": "f", "resources": amounts}]}]}
    base = "/apis/kueue.x-k8s.io/v1beta1"
    local = kueue("LocalQueue", {"clusterQueue": "team"}, name="train", namespace="default")
    steps = (
        ("apply", f"{base}/clusterqueues/team", kueue("ClusterQueue", spec, name="team")),
        ("apply", f"{base}/namespaces/default/localqueues/train", local),
    )
    until = time.monotonic() + 20
    while True:
        try:
            server.do(*steps)
            break
        except ApiError:
            assert time.monotonic() < until
            time.sleep(0.2)
    found = eventually(quota, lambda s: s.queues and s.pools)
    assert [(q.name, q.parent, q.gpu) for q in found.queues] == [
        ("cohort/lab", "", (4.0, 4.0, 1.0)),
        ("team", "cohort/lab", (4.0, 6.0, 1.0)),
    ]
    assert found.resolve("train") == "team"
