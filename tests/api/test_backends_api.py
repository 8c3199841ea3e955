"""Registered clusters through the API: who may, what is refused, what a pool then means."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from starlette.testclient import TestClient

from osmo_ray.control.clusters import Registration
from osmo_ray.spec.attempt import NodeReport
from tests.api.world import HELLO, World


class _Cluster(BaseHTTPRequestHandler):
    """As much of an API server as a registration asks for."""

    def do_GET(self) -> None:
        allowed = self.headers.get("Authorization") == "Bearer good"
        allowed = allowed and ("podgroups" not in self.path or "/with-kai/" in self.path)
        body = json.dumps({"items": []} if allowed else {"reason": "Forbidden", "message": "no"}).encode()
        self.send_response(200 if allowed else 403)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[str]:
    made = ThreadingHTTPServer(("127.0.0.1", 0), _Cluster)
    threading.Thread(target=made.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{made.server_port}"
    made.shutdown()
    made.server_close()


def kubeconfig(server: str, token: str = "good") -> str:
    return f"""
current-context: c
clusters: [{{name: k, cluster: {{server: "{server}"}}}}]
users: [{{name: u, user: {{token: {token}}}}}]
contexts: [{{name: c, context: {{cluster: k, user: u}}}}]
"""


def add(client: TestClient, server: str, name: str = "lab", **more: object) -> dict[str, object]:
    reply = client.post(f"/api/x/backend/{name}", json={"kubeconfig": kubeconfig(server), **more})
    return {"status_code": reply.status_code, **reply.json()}


def test_a_cluster_is_registered_listed_and_removed(world: World, client: TestClient, server: str):
    made = add(client, server, pools=["big", "small"], platforms={"a100": {"labels": {"gpu": "a100"}}})
    assert (made["status_code"], made["pools"], made["status"]) == (200, ["big", "small"], "NEW")
    (row,) = world.store.clusters()
    assert "good" not in row.sealed and Registration.from_json(row.settings).platforms[0].labels == {"gpu": "a100"}
    node = NodeReport("lab/n1", "10.0.0.1", 1.0, 1, 0, 1, backend="lab")
    world.store.save_nodes("lab", [node], world.now)
    shown = {b["name"]: b for b in client.get("/api/x/backend").json()["backends"]}
    assert (shown["lab"]["status"], shown["lab"]["nodes"], shown["local"]["kind"]) == ("ONLINE", 1, "ray")
    assert client.delete("/api/x/backend/lab").status_code == 200 and world.store.clusters() == []


def test_who_places_the_groups_is_kept_and_tried(world: World, client: TestClient, server: str):
    without = add(client, server, scheduler="kai")
    assert without["status_code"] == 400 and "clusters/kubernetes/kai.yaml" in str(without["message"])
    assert world.store.clusters() == []
    assert add(client, server, scheduler="kai", namespace="with-kai")["status_code"] == 200
    assert Registration.from_json(world.store.clusters()[0].settings).scheduler == "kai"
    assert add(client, server, scheduler="other")["status_code"] == 422


def test_a_workflow_of_its_pool_is_of_that_backend(world: World, client: TestClient, server: str):
    assert client.post("/api/pool/lab/workflow", json={"file": HELLO}).status_code == 400
    add(client, server)
    name = client.post("/api/pool/lab/workflow", json={"file": HELLO}).json()["name"]
    found = world.store.find(name)
    assert found is not None and (found.pool, found.backend) == ("lab", "lab")
    refused = client.delete("/api/x/backend/lab")
    assert refused.status_code == 409 and name in refused.json()["message"]
    assert client.delete("/api/x/backend/lab", params={"force": True}).status_code == 200


@pytest.mark.parametrize(
    ("name", "more", "said"),
    [
        ("Bad_Name", {}, "cannot be used"),
        ("local", {}, "own backend"),
        ("lab", {"pools": ["default"]}, "belongs to backend"),
        ("lab", {"kubeconfig": "x: ["}, "not YAML"),
        ("lab", {"kubeconfig": "clusters: []"}, "no clusters"),
        ("lab", {"context": "other"}, "it has: c"),
    ],
)
def test_what_cannot_be_registered_is_refused(client: TestClient, server: str, name: str, more: dict, said: str):
    made = add(client, server, name, **more)
    assert made["status_code"] == 400 and said in str(made["message"])


def test_a_cluster_that_lets_us_not_in_is_refused(world: World, client: TestClient, server: str):
    made = add(client, server, kubeconfig=kubeconfig(server, "bad"))
    assert made["status_code"] == 400 and "Forbidden" in str(made["message"]) and world.store.clusters() == []


def test_a_cluster_that_does_not_answer_is_refused(client: TestClient):
    made = add(client, "http://127.0.0.1:9")
    assert made["status_code"] == 400 and "does not answer" in str(made["message"])


def test_what_is_not_there_is_not_removed(client: TestClient):
    assert client.delete("/api/x/backend/lab").status_code == 400


def test_pools_of_a_cluster_are_a_node_set_of_their_own(world: World, client: TestClient, server: str):
    add(client, server, pools=["big", "small"], platforms={"a100": {"labels": {"gpu": "a100"}}})
    nodes = [NodeReport(f"lab/n{i}", "", 8.0, 8 << 30, 4, 8 << 30, platform="lab/a100", backend="lab") for i in (1, 2)]
    world.store.save_nodes("lab", nodes, world.now)
    wanted = HELLO.replace("  tasks:", "  resources: {default: {gpu: 3}}\n  tasks:")
    name = client.post("/api/pool/big/workflow", json={"file": wanted}).json()["name"]
    world.start(name, "a", node="lab/n2")
    found = client.get("/api/pool_quota").json()
    sets = [{p["name"]: p["resource_usage"] for p in one["pools"]} for one in found["node_sets"]]
    assert [list(one) for one in sets] == [["default"], ["big", "small"]]
    assert sets[1]["big"] == {
        "quota_used": "3", "quota_free": "5", "quota_limit": "8", "total_usage": "3", "total_capacity": "8",
        "total_free": "5",
    }  # fmt: skip
    assert (sets[1]["small"]["total_usage"], sets[1]["small"]["total_free"]) == ("0", "5")
    own = int(sets[0]["default"]["total_capacity"])
    assert found["resource_sum"]["total_capacity"] == str(own + 8), "the nodes of a set count once"
    assert found["resource_sum"]["total_free"] == str(own + 5)
    shown = {p["name"]: p for one in found["node_sets"] for p in one["pools"]}
    assert (shown["big"]["backend"], shown["big"]["status"], list(shown["big"]["platforms"])) == (
        "lab",
        "ONLINE",
        ["a100"],
    )
    mine = client.get("/api/resources", params={"pools": "big"}).json()["resources"]
    assert [r["hostname"] for r in mine] == ["lab/n1", "lab/n2"]
    assert mine[1]["pool_platform_labels"] == {"big": ["a100"]} and mine[1]["resource_type"] == "SHARED"
    assert mine[1]["platform_available_fields"]["big"]["a100"]["gpu"] == "1"
    assert client.get("/api/resources/lab/n2").json()["resources"][0]["backend"] == "lab"
    assert client.get("/api/resources", params={"platforms": "a100", "concise": True}).json()["pools"] != []
    world.now += 300
    gone = {p["name"]: p["status"] for one in client.get("/api/pool_quota").json()["node_sets"] for p in one["pools"]}
    assert gone == {"default": "OFFLINE", "big": "OFFLINE", "small": "OFFLINE"}
