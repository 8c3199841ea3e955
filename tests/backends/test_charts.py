"""The charts: what they render is what a cluster takes, what they allow is what is needed, and mistakes are told."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from osmo_ray.backends.kubernetes.tunnel import guard
from tests.servers.kube.agents import CHART, HELM, helm, kubectl
from tests.servers.kube.cluster import HERE, Cluster

pytestmark = pytest.mark.kubernetes
GIVEN = ("backend.name=lab", "backend.url=https://osmo.example.org", "token.existingSecret=lab-token")
ALL = ("rbac.ray=true", "rbac.kai=true", "rbac.kueue=true")
METHODS = {
    "get": "GET", "list": "GET", "watch": "GET", "create": "POST", "patch": "PATCH", "update": "PUT",
    "delete": "DELETE", "deletecollection": "DELETE",
}  # fmt: skip
VALUES = sorted((CHART / "values").glob("*.yaml"))
Rights = dict[tuple[str, str], frozenset[str]]


@pytest.fixture(scope="module", autouse=True)
def tools() -> None:
    subprocess.run(["bash", HERE / "build.sh"], check=True, capture_output=True)


def rendered(*sets: str, values: Path | None = None, chart: Path = CHART, namespace: str = "osmo-system") -> str:
    given = [part for one in sets for part in ("--set", one)]
    file = ["-f", values] if values is not None else []
    return helm("template", "lab", chart, "-n", namespace, *given, *file)


def objects(text: str) -> list[dict[str, Any]]:
    return [one for one in yaml.safe_load_all(text) if one]


def rights(found: Sequence[dict[str, Any]], kind: str) -> Rights:
    """What the one role of this kind allows, as methods."""
    (role,) = [one for one in found if one["kind"] == kind]
    return {
        (group, resource): frozenset(METHODS[verb] for verb in rule["verbs"])
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    }


def as_guarded(found: Rights) -> Rights:
    """A session is begun by a GET, for which newer clusters ask for the right to create as well."""
    return {name: (guard.READ if name[1] == "pods/exec" else methods) for name, methods in found.items()}


@pytest.mark.parametrize("values", [None, *VALUES], ids=lambda v: v.stem if v else "none")
def test_charts_have_no_faults_that_helm_sees(values: Path | None):
    file = ["-f", values] if values else []
    assert "0 chart(s) failed" in helm("lint", "--strict", CHART, *file)


def test_agents_let_through_what_their_account_may_and_nothing_else():
    found = objects(rendered(*GIVEN, *ALL))
    assert as_guarded(rights(found, "Role")) == dict(guard.OWN)
    assert rights(found, "ClusterRole") == dict(guard.WIDE)


def test_the_plain_manifest_gives_the_least_that_the_chart_gives():
    plain = objects((CHART.parents[1] / "kubernetes/backend.yaml").read_text())
    chart = objects(rendered(*GIVEN))
    for kind in ("Role", "ClusterRole"):
        assert rights(plain, kind) == rights(chart, kind)


@pytest.mark.parametrize(
    ("sets", "said"),
    [
        (("backend.name=lab", "token.existingSecret=t"), "backend.url"),
        (("backend.url=https://x", "token.existingSecret=t"), "backend.name"),
        (("backend.name=lab", "backend.url=https://x"), "token.existingSecret"),
        ((*GIVEN, "backend.nmae=x"), "nmae"),
        ((*GIVEN, "tasks.podSecurity=none"), "podSecurity"),
        ((*GIVEN, "backend.url=osmo.example.org"), "url"),
        ((*GIVEN, "agent.networkPolicy.ports={https}"), "ports"),
    ],
)
def test_a_mistake_in_the_values_is_told_where_it_is(sets: tuple[str, ...], said: str):
    given = [part for one in sets for part in ("--set", one)]
    done = subprocess.run([HELM, "template", "lab", CHART, *given], capture_output=True, text=True, check=False)
    assert done.returncode and said in done.stderr


def test_queues_are_as_kai_has_them():
    values = CHART / "values/bare-metal.yaml"
    queues = {
        one["metadata"]["name"]: one for one in objects(rendered(*GIVEN, values=values)) if one["kind"] == "Queue"
    }
    child = queues["osmo-pool-osmo-default"]
    assert child["apiVersion"] == "scheduling.run.ai/v2" and child["spec"]["parentQueue"] == "osmo-default-osmo"
    assert child["spec"]["resources"]["gpu"] == {"quota": 8, "limit": -1, "overQuotaWeight": 1}
    assert queues["osmo-default-osmo"]["spec"]["resources"]["memory"]["limit"] == -1


@pytest.fixture(scope="module")
def rooms(kube: Cluster) -> Iterator[None]:
    """A dry run makes no namespace for what follows it."""
    names = ("dry-system", "dry")
    for name in names:
        kubectl(kube, "create", "namespace", name)
    kubectl(kube, "label", "namespace", "dry-system", "pod-security.kubernetes.io/enforce=restricted")
    yield
    kubectl(kube, "delete", "namespace", "--wait=false", *names)


def dry_run(kube: Cluster, found: Sequence[dict[str, Any]]) -> str:
    """What the API server says of each object, its warnings too, with unknown fields refused."""
    ask = ["kubectl", f"--kubeconfig={kube.kubeconfig}", "apply", "--server-side", "--dry-run=server"]
    given = yaml.safe_dump_all(found)
    done = subprocess.run([*ask, "--validate=strict", "-f", "-"], input=given, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


@pytest.mark.parametrize("values", [None, *VALUES], ids=lambda v: v.stem if v else "none")
def test_a_real_api_server_takes_every_object(kube: Cluster, rooms: None, values: Path | None):
    more = ("tasks.namespace=dry", "token.existingSecret=", "token.value=x", "backend.caBundle=pem")
    more += ("rbac.staticToken=true", "tasks.quota.pods=9", "agent.priorityClassName=system-cluster-critical")
    found = objects(rendered(*GIVEN, *ALL, *more, values=values, namespace="dry-system"))
    taken = [one for one in found if one["kind"] != "Queue"]  # KAI's own definitions are not in the test cluster
    said = dry_run(kube, taken)
    assert said.count("serverside-applied") == len(taken) >= 11 and "Warning" not in said
