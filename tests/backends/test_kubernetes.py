"""The Kubernetes backend passes the contract of all backends, on a real cluster with a real node."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from osmo_ray.backends.inside import NotInside
from osmo_ray.backends.kubernetes.backend import KubernetesBackend
from osmo_ray.backends.kubernetes.client import HttpApi
from osmo_ray.backends.kubernetes.kubeconfig import open_kubeconfig
from osmo_ray.backends.kubernetes.settings import ClusterSettings
from osmo_ray.spec.attempt import AttemptKey, AttemptPlan
from tests.backends import contract
from tests.backends.contract import BackendContract
from tests.servers.kube.cluster import Cluster

pytestmark = pytest.mark.kubernetes


def connect(cluster: Cluster, owner: str) -> KubernetesBackend:
    access = open_kubeconfig(cluster.backend_kubeconfig.read_text())
    settings = ClusterSettings(owner, cluster.storage_url, cluster.runtime_image, access.namespace)
    return KubernetesBackend("kube", HttpApi(access), settings)


@pytest.fixture(scope="module")
def owner() -> str:
    return secrets.token_hex(6)


class TestKubernetesBackend(BackendContract):
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

    async def test_a_look_inside_is_refused_with_a_reason(self, backend: KubernetesBackend):
        """Sessions in pods are not there yet, and that is told rather than tried."""
        key = AttemptKey("t", 0)
        for asked in (backend.exec(key, "", ["true"]), backend.connect(key, "", 80), backend.release(key, "")):
            with pytest.raises(NotInside, match="not there yet"):
                await asked
