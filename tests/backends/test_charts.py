"""The charts: what they render is what a cluster takes, what they allow is what is needed, and mistakes are told."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from osmo_ray import settings as settings_room
from osmo_ray.backends.kubernetes.tunnel import guard
from tests.servers.kube.agents import CHART, HELM, Admin, helm, namespace
from tests.servers.kube.cluster import HERE, Cluster

pytestmark = pytest.mark.kubernetes
PLATFORM = CHART.parent / "osmo-ray"
SERVE = HERE.parents[2] / "serve/config.yaml"
OURS = (
    "url=https://osmo.example.org", "database.existingSecret=db", "storage.url=s3://osmo/x",
    "secretKey.existingSecret=key", "ingress.host=osmo.example.org",
)  # fmt: skip
GIVEN = ("backend.name=lab", "backend.url=https://osmo.example.org", "token.existingSecret=lab-token")
ALL = ("rbac.ray=true", "rbac.kai=true", "rbac.kueue=true")
METHODS = {
    "get": "GET", "list": "GET", "watch": "GET", "create": "POST", "patch": "PATCH", "update": "PUT",
    "delete": "DELETE", "deletecollection": "DELETE",
}  # fmt: skip
PLATFORMS = sorted((PLATFORM / "values").glob("*.yaml"))
VALUES = sorted((CHART / "values").glob("*.yaml"))
Rights = dict[tuple[str, str], frozenset[str]]


@pytest.fixture(scope="module", autouse=True)
def tools() -> None:
    subprocess.run(["bash", HERE / "build.sh"], check=True, capture_output=True)


def rendered(*sets: str, values: Path | None = None, chart: Path = CHART, within: str = "osmo-system") -> str:
    given = [part for one in sets for part in ("--set", one)]
    file = ["-f", values] if values is not None else []
    return helm("template", "lab", chart, "-n", within, *given, *file)


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


def named(values: Path | None) -> str:
    return values.stem if values else "none"


@pytest.mark.parametrize("values", [None, *VALUES], ids=named)
def test_the_backends_chart_has_no_faults_that_helm_sees(values: Path | None):
    file = ["-f", values] if values else []
    assert "0 chart(s) failed" in helm("lint", "--strict", CHART, *file)


@pytest.mark.parametrize("values", [None, *PLATFORMS], ids=named)
def test_the_platforms_chart_has_no_faults_that_helm_sees(values: Path | None):
    file = ["-f", values] if values else []
    assert "0 chart(s) failed" in helm("lint", "--strict", PLATFORM, *file)


def test_agents_let_through_what_their_account_may_and_nothing_else():
    found = objects(rendered(*GIVEN, *ALL))
    assert as_guarded(rights(found, "Role")) == dict(guard.OWN)
    assert rights(found, "ClusterRole") == dict(guard.WIDE)


def test_the_plain_manifests_give_what_the_chart_gives():
    least, chart = manifest("backend"), objects(rendered(*GIVEN))
    for kind in ("Role", "ClusterRole"):
        assert rights(least, kind) == rights(chart, kind)
    more, chart = manifest("kai"), objects(rendered(*GIVEN, "rbac.kai=true", "priorityClasses.create=true"))
    for kind in ("Role", "ClusterRole"):
        assert rights(least, kind) | rights(more, kind) == rights(chart, kind)
    assert classes(more) == classes(chart) and len(classes(more)) == 3


def manifest(name: str) -> list[dict[str, Any]]:
    return objects((CHART.parents[1] / f"kubernetes/{name}.yaml").read_text())


def classes(found: Sequence[dict[str, Any]]) -> dict[str, tuple[int, str]]:
    made = [one for one in found if one["kind"] == "PriorityClass"]
    return {one["metadata"]["name"]: (one["value"], one["preemptionPolicy"]) for one in made}


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
        (OURS[1:], "url"),
        ((*OURS, "database.existingSecret="), "database.existingSecret"),
        ((*OURS, "secretKey.existingSecret="), "secretKey.existingSecret"),
        ((*OURS, "storage.url=bucket"), "storage"),
        ((*OURS, "settings.Retention=1"), "Retention"),
        ((*OURS, "api.replicas=0"), "replicas"),
    ],
)
def test_a_mistake_in_the_values_is_told_where_it_is(sets: tuple[str, ...], said: str):
    given = [part for one in sets for part in ("--set", one)]
    chart = PLATFORM if OURS[1] in sets else CHART
    done = subprocess.run([HELM, "template", "lab", chart, *given], capture_output=True, text=True, check=False)
    assert done.returncode and said in done.stderr


def service(*sets: str) -> dict[str, Any]:
    found = objects(rendered(*OURS, *sets, chart=PLATFORM, within="osmo"))
    (made,) = [one for one in found if one["kind"] == "RayService"]
    return dict(made["spec"])


def test_kuberay_gets_what_serve_deploy_gets():
    """The same applications; what a cluster of one's own has on loopback, pods have for their service."""
    made, own = yaml.safe_load(service()["serveConfigV2"]), yaml.safe_load(SERVE.read_text())
    made["applications"][0]["args"] = {}
    made["http_options"]["host"] = own["http_options"]["host"]
    assert made | {"proxy_location": own["proxy_location"]} == own


def test_settings_of_the_values_are_those_of_the_platform(monkeypatch: pytest.MonkeyPatch):
    spec = service("settings.retention=604800", "settings.disk_reserve=50000000", "settings.ray_programs=false")
    (head,) = spec["rayClusterConfig"]["headGroupSpec"]["template"]["spec"]["containers"]
    variables = {one["name"]: one.get("value", "postgresql://x") for one in head["env"]}
    made = settings_room.load(variables)
    assert (made.retention, made.disk_reserve, made.ray_programs) == (604800.0, 50000000, False)
    assert (made.database, made.storage, made.address) == ("postgresql://x", "s3://osmo/x", "https://osmo.example.org")
    assert made.authenticated


@pytest.fixture(scope="module")
def admin(kube: Cluster) -> Iterator[Admin]:
    """With the namespaces of the dry runs, which make none for what follows."""
    names = {"dry-system": "restricted", "dry": ""}
    with Admin(kube) as made:
        for name, security in names.items():
            made.apply(namespace(name, security))
        yield made
        for name in names:
            made.delete(f"/api/v1/namespaces/{name}")


def taken(admin: Admin, found: Sequence[dict[str, Any]]) -> int:
    """How many objects the API server would take as they are, without a word."""
    assert [said for one in found if (said := admin.apply(one, dry=True))] == []
    return len(found)


@pytest.mark.parametrize("values", [None, *VALUES], ids=named)
def test_a_real_api_server_takes_every_object(admin: Admin, values: Path | None):
    more = ("tasks.namespace=dry", "token.existingSecret=", "token.value=x", "backend.caBundle=pem")
    more += ("rbac.staticToken=true", "tasks.quota.pods=9", "agent.priorityClassName=system-cluster-critical")
    found = objects(rendered(*GIVEN, *ALL, *more, values=values, within="dry-system"))
    assert taken(admin, found) >= 11


def test_a_real_api_server_takes_queues_as_kai_has_them(admin: Admin):
    built = subprocess.run(
        ["bash", HERE / "build.sh", "kai"], capture_output=True, text=True, check=True
    ).stdout.strip()
    define(admin, Path(built) / "crds/scheduling.run.ai_queues.yaml")
    queues = ("queues[0].name=one", "queues[1].name=two", "queues[1].parent=one", "queues[1].gpu.quota=8")
    queues += ("queues[1].gpu.limit=-1", "queues[1].gpu.overQuotaWeight=2", "queues[1].priority=200")
    found = [one for one in objects(rendered(*GIVEN, *queues)) if one["kind"] == "Queue"]
    assert taken(admin, found) == 2


def define(admin: Admin, file: Path) -> None:
    """Teach the API server a kind, and wait until it serves it."""
    value = yaml.safe_load(file.read_text())
    admin.apply(value)
    spec = value["spec"]
    (version,) = [one["name"] for one in spec["versions"] if one["storage"]]
    until = time.monotonic() + 60
    while not admin.text(f"/apis/{spec['group']}/{version}/{spec['names']['plural']}"):
        assert time.monotonic() < until, "the API server does not take it up"
        time.sleep(0.2)


@pytest.fixture(scope="module")
def kuberay(admin: Admin) -> None:
    """What the API server has to know of a RayService."""
    define(admin, HELM.parents[1] / "kuberay/now/ray.io_rayservices.yaml")


@pytest.mark.parametrize("values", [None, *PLATFORMS], ids=named)
def test_a_real_api_server_takes_the_whole_platform(admin: Admin, kuberay: None, values: Path | None):
    """Its pods are put before it once more by themselves, where the strictest pod security judges them."""
    more = ("oidc.issuer=https://login.example.org", "oidc.existingSecret=oidc", "rbac.quotas=true")
    more += ("ingress.enabled=true", "networkPolicy.enabled=true", "storage.existingSecret=keys")
    found = objects(rendered(*OURS, *more, chart=PLATFORM, values=values, within="dry-system"))
    (made,) = [one for one in found if one["kind"] == "RayService"]
    ray = made["spec"]["rayClusterConfig"]
    groups = [ray["headGroupSpec"], *ray["workerGroupSpecs"]]
    for number, group in enumerate(groups):
        meta = {"name": f"pod-{number}", "namespace": "dry-system", **group["template"]["metadata"]}
        found.append({"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": group["template"]["spec"]})
    (account,) = [one for one in found if one["kind"] == "ServiceAccount"]
    admin.apply(account)  # pods are refused without
    assert taken(admin, found) == 8
