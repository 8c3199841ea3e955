"""Who gets in, what is refused at the door, and what the service says of itself."""

from __future__ import annotations

import base64
import hashlib
from typing import Any

import pytest
from starlette.testclient import TestClient

from osmo_ray.api import middleware
from osmo_ray.store.protocol import StoreError, Token
from tests.api.world import HELLO, World

LIST = "/api/workflow"


def test_development_login_is_the_header_or_the_system_user(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(middleware, "system_user", lambda: "me")
    assert client.get("/api/profile/settings").json()["profile"]["username"] == "me"
    named = client.get("/api/profile/settings", headers={"x-osmo-user": "you"}).json()
    assert (named["profile"]["username"], named["roles"]) == ("you", ["osmo-admin"])
    assert client.get("/api/profile/settings", headers={"x-osmo-user": "a b"}).status_code == 400


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]"])
def test_loopback_names_are_let_in(world: World, host: str) -> None:
    with world.client(host) as client:
        assert client.get(LIST).status_code == 200


@pytest.mark.parametrize(
    ("host", "peer", "headers", "listen"),
    [
        ("127.0.0.1", "10.0.0.5", {}, "127.0.0.1"),  # a task in its own network, or another host
        ("127.0.0.1", "127.0.0.1", {}, "0.0.0.0"),
        ("evil.example", "127.0.0.1", {}, "127.0.0.1"),  # a name that was made to point here
        ("127.0.0.1.evil.example", "127.0.0.1", {}, "127.0.0.1"),
        ("127.0.0.1", "127.0.0.1", {"host": ""}, "127.0.0.1"),
        ("127.0.0.1", "127.0.0.1", {"origin": "http://evil.example"}, "127.0.0.1"),
        ("127.0.0.1", "127.0.0.1", {"origin": "http://127.0.0.1:3000"}, "127.0.0.1"),
        ("127.0.0.1", "127.0.0.1", {"origin": "null"}, "127.0.0.1"),
        ("127.0.0.1", "127.0.0.1", {"sec-fetch-site": "cross-site"}, "127.0.0.1"),
        ("127.0.0.1", "127.0.0.1", {"x-forwarded-for": "1.2.3.4"}, "127.0.0.1"),
        ("127.0.0.1", "127.0.0.1", {"authorization": "Bearer wrong"}, "127.0.0.1"),
        ("127.0.0.1", "10.0.0.5", {"x-osmo-user": "root", "host": "127.0.0.1"}, "127.0.0.1"),
    ],
)
def test_everybody_else_gets_401_everywhere(
    world: World, host: str, peer: str, headers: dict[str, str], listen: str
) -> None:
    with TestClient(world.app(host=listen), base_url=f"http://{host}:8000", client=(peer, 5)) as client:
        for method, path in (("GET", LIST), ("POST", "/api/pool/default/workflow"), ("GET", "/metrics"), ("GET", "/x")):
            reply = client.request(method, path, headers=headers)
            assert reply.status_code == 401, (method, path)
            assert reply.json()["error_code"] == "USER"


def test_what_is_open_to_all(world: World) -> None:
    with world.client("any.example", "10.0.0.5") as client:
        for path in ("/api/version", "/api/router/version", "/client/version", "/api/auth/login", "/health", "/ready"):
            assert client.get(path).status_code == 200, path


def token(world: World, text: str, expires: float) -> None:
    digest = hashlib.sha256(text.encode()).hexdigest()
    world.store.save_token(Token("t", "ann", digest, expires, ("osmo-user",)))


def test_a_token_gets_in_from_anywhere_until_it_expires(world: World) -> None:
    token(world, "s3cret", world.now + 10)
    bearer = {"authorization": "Bearer s3cret", "x-osmo-user": "root"}
    with world.client("api.example", "10.0.0.5") as client:
        reply = client.get("/api/profile/settings", headers=bearer)
        assert (reply.json()["profile"]["username"], reply.json()["roles"]) == ("ann", ["osmo-user"])
        world.now += 11
        assert client.get("/api/profile/settings", headers=bearer).status_code == 401


@pytest.mark.parametrize(
    ("version", "status", "warned"),
    [
        ("6.0.0", 200, False),
        ("6.1.0.abc123", 200, False),
        ("5.9.9", 200, True),
        ("six", 400, False),
        ("6.0", 400, False),
    ],
)
def test_the_version_gate(client: TestClient, version: str, status: int, warned: bool) -> None:
    reply = client.get(LIST, headers={"x-osmo-client-version": version})
    assert reply.status_code == status
    assert ("x-osmo-warning" in reply.headers) is warned
    if warned:
        assert b"5.9.9" in base64.b64decode(reply.headers["x-osmo-warning"])
    if status == 400:
        assert reply.json()["error_code"] == "OSMO_ERROR"


def test_a_body_that_is_too_large_is_refused(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(middleware, "MAX_BODY", 1000)
    path = "/api/pool/default/workflow"
    assert client.post(path, content=b"x" * 1001).status_code == 413

    def parts() -> Any:
        yield from [b"x" * 600] * 2

    assert client.post(path, content=parts()).status_code == 413


def test_version_and_login_have_the_fields_that_clients_read(client: TestClient) -> None:
    version = client.get("/api/version").json()
    assert set(version) == {"major", "minor", "revision", "hash"}
    assert all(isinstance(v, str) for v in version.values())
    assert set(client.get("/api/auth/login").json().values()) == {None}
    assert client.get("/health").json() == {"status": "OK"}


def test_ready_asks_the_database(world: World, client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    assert client.get("/ready").json()["ready"] is True

    def broken() -> None:
        raise StoreError("gone")

    monkeypatch.setattr(world.store, "ping", broken)
    reply = client.get("/ready")
    assert (reply.status_code, reply.json()["ready"]) == (503, False)
    assert reply.json()["parts"]["database"] == {"healthy": False, "text": "gone"}


def test_a_database_that_is_away_is_a_503_that_asks_to_come_again(
    world: World, client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(query: object) -> None:
        raise StoreError("connection refused")

    monkeypatch.setattr(world.store, "list_workflows", broken)
    reply = client.get(LIST)
    assert (reply.status_code, reply.json()["error_code"], reply.headers["retry-after"]) == (503, "DATABASE", "2")


def test_a_fault_of_ours_is_a_500_in_json(world: World, client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(world.store, "list_workflows", lambda query: 1 / 0)
    reply = client.get(LIST)
    assert reply.status_code == 500
    assert reply.json()["message"].startswith("Internal server error: ZeroDivisionError")


def test_a_full_disk_refuses_new_work(world: World) -> None:
    with world.client(disk_reserve=1 << 60) as client:
        reply = client.post("/api/pool/default/workflow", json={"file": HELLO})
        assert (reply.status_code, reply.json()["error_code"]) == (507, "SUBMISSION")
        assert "osmo workflow delete" in reply.json()["message"]
        assert client.get(LIST).json()["workflows"] == []


def test_metrics_count_requests_and_states(world: World, client: TestClient) -> None:
    name = world.submit()
    client.get(f"/api/workflow/{name}")
    text = client.get("/metrics").text
    assert 'osmo_api_requests_total{method="GET",route="/api/workflow/{name}",status="200"} 1.0' in text
    assert 'osmo_status{kind="workflow",status="PENDING"} 1.0' in text
    assert 'osmo_nodes{state="alive"} 1.0' in text


def test_profile_settings_are_kept_per_user(client: TestClient) -> None:
    ann = {"x-osmo-user": "ann"}
    shown = client.get("/api/profile/settings", headers=ann).json()
    assert (shown["profile"]["pool"], shown["pools"], shown["token"]) == ("default", ["default"], None)
    reply = client.post("/api/profile/settings", json={"email_notification": True}, headers=ann)
    assert (reply.status_code, reply.text) == (200, "null")
    assert client.get("/api/profile/settings", headers=ann).json()["profile"]["email_notification"] is True
    assert (
        client.get("/api/profile/settings", headers={"x-osmo-user": "bob"}).json()["profile"]["email_notification"]
        is False
    )
    assert client.post("/api/profile/settings", json={"pool": "nowhere"}, headers=ann).status_code == 400


def test_pools_quota_and_resources(world: World, client: TestClient) -> None:
    pool = client.get("/api/pool").json()["pools"]["default"]
    assert (pool["status"], pool["backend"], pool["default_platform"]) == ("ONLINE", "local", "local")
    name = world.submit()
    world.start(name, "a")
    usage = client.get("/api/pool_quota").json()["resource_sum"]
    assert usage == {
        "quota_used": "0",
        "quota_free": "1",
        "quota_limit": "1",
        "total_usage": "0",
        "total_capacity": "1",
        "total_free": "1",
    }
    node = client.get("/api/resources", params={"all_pools": True}).json()["resources"][0]
    assert (node["hostname"], node["usage_fields"]["cpu"], node["allocatable_fields"]["memory"]) == ("n1", "1", "8Gi")
    assert client.get("/api/resources/n1").json()["resources"][0]["exposed_fields"]["pool/platform"] == [
        "default/local"
    ]
    assert client.get("/api/resources/n2").json()["error_code"] == "RESOURCE"
    assert client.get("/api/resources", params={"concise": True}).json()["pools"][0]["platform"] == "local"
    world.now += 600
    assert client.get("/api/pool").json()["pools"]["default"]["status"] == "OFFLINE"


def test_status_names_nodes_with_their_sandbox(client: TestClient) -> None:
    status = client.get("/api/x/status").json()
    assert status["nodes"][0]["sandbox"].startswith("namespaces")
    assert status["pool"] == "default"


def test_the_description_of_the_api_can_be_had(client: TestClient) -> None:
    described = client.get("/api/openapi.json").json()
    assert "/api/pool/{pool}/workflow" in described["paths"]
    assert "/api/workflow/{name}/logs" in described["paths"]
