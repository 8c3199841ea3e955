"""Who may do what, over real HTTP: every route of the application against a table of who may."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from fastapi import APIRouter

from osmo_ray.api import access, application
from osmo_ray.api.metrics import Metrics
from osmo_ray.spec.roles import BUILT_IN
from tests.api.wire import Reply, Wire, serve
from tests.api.world import World

# Who may, written by hand and apart from the policies: by area, or by the whole action where verbs differ.
MAY = {
    "system": "everybody",
    "auth": "everybody",
    "profile": "everybody",
    "pool": "everybody",
    "workflow:Read": "viewer user admin",
    "workflow:Write": "user admin",
    "workflow:Enter": "user admin",
    "workflow:Create": "user admin",
    "resources": "viewer user admin",
    "app:Read": "viewer user admin",
    "app:Write": "user admin",
    "credentials": "user admin",
    "dataset": "user admin",
    "user": "admin",
    "config": "admin",
    "audit": "admin",
    "backend": "admin",
    "internal": "parts of the platform",
}
PEOPLE = ("nobody", "viewer", "user", "admin")


@pytest.fixture(scope="module")
def routes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """Every route of the application, as the table names it."""
    world = World(tmp_path_factory.mktemp("routes"))
    services = replace(world.services, gateway_key=b"k" * 32)
    yield [
        name
        for router in application._routers(services, Metrics())
        for route in router.routes
        for name in access.names(route)
    ]
    world.close()


@pytest.fixture
def wire(world: World) -> Iterator[Wire]:
    with serve(world) as made:
        yield made


def begin(wire: Wire, user: str, *roles: str) -> str:
    """A user with these roles, and an access token."""
    wire.post("/api/auth/user", body={"id": user, "roles": list(roles)})
    return token(wire, user)


def token(wire: Wire, user: str, *query: tuple[str, str]) -> str:
    path = f"/api/auth/user/{user}/access_token/t{len(wire.get(f'/api/auth/user/{user}/access_token'))}"
    return str(wire.post(path, ("expires_at", day(wire)), *query))


def day(wire: Wire) -> str:
    return datetime.fromtimestamp(wire.world.now + 40 * 86400, UTC).strftime("%Y-%m-%d")


def ask(wire: Wire, secret: str, method: str, path: str, body: Any = None) -> Reply:
    return wire.call(method, path, (), body, user="", headers={"Authorization": f"Bearer {secret}"})


def test_every_route_stands_in_the_table(routes: list[str]):
    assert set(routes) <= set(access.ACTIONS)


def test_the_table_names_nothing_that_is_gone(routes: list[str]):
    assert set(access.ACTIONS) <= set(routes)


def test_a_route_that_nobody_spoke_of_stops_the_application():
    router = APIRouter()
    router.add_api_route("/api/x/new", lambda: None, methods=["POST"])
    with pytest.raises(access.UnknownRoute, match="POST /api/x/new"):
        access.check(router.routes)


def test_every_action_is_somebodys(routes: list[str]):
    actions = {access.ACTIONS[name] for name in routes} - {access.PUBLIC}
    assert all(action in MAY or action.partition(":")[0] in MAY for action in actions)


def test_all_routes_against_the_table_of_who_may(wire: Wire, routes: list[str]):
    """Each route is asked by each kind of user; what is let in may fail for another reason, but never with 403."""
    secrets = {"viewer": begin(wire, "vic", "osmo-viewer"), "user": begin(wire, "una", "osmo-user")}
    secrets["admin"] = begin(wire, "ada", "osmo-admin")
    begin(wire, "nob", "osmo-viewer")
    secrets["nobody"] = token(wire, "nob")
    wire.call("DELETE", "/api/auth/user/nob/roles/osmo-viewer")
    wrong = []
    for name in routes:
        method, _, path = name.partition(" ")
        action = access.ACTIONS[name]
        if method == "WS" or action == access.PUBLIC or path.endswith(("/logs", "/events")):
            continue
        filled = re.sub(r"\{[^}]+\}", "absent", path.replace("{pool}", "default"))
        may = MAY.get(action) or MAY[action.partition(":")[0]]
        for who in PEOPLE:
            let_in = ask(wire, secrets[who], method, filled).status != 403
            if let_in != (may == "everybody" or who in may.split()):
                wrong.append(f"{who}: {name}")
    assert wrong == []


def test_roles_of_the_platform_may_not_be_written_anew(wire: Wire):
    for name in (r.name for r in BUILT_IN.values() if r.immutable):
        reply = wire.call("PUT", f"/api/configs/role/{name}", (), {"configs": {"policies": []}})
        assert reply.status == 400 and "platform's own" in reply.text


def test_a_role_of_ones_own_and_deny(wire: Wire, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(access, "_FRESH", 0.0)
    policies = [
        {"effect": "Allow", "actions": ["workflow:*"], "resources": ["*"]},
        {"effect": "Deny", "actions": ["workflow:Create"], "resources": ["pool/def*"]},
    ]
    assert wire.call("PUT", "/api/configs/role/careful", (), {"configs": {"policies": policies}}).status == 200
    secret = begin(wire, "cat", "careful")
    assert ask(wire, secret, "GET", "/api/workflow").status == 200
    reply = ask(wire, secret, "POST", "/api/pool/default/workflow", {"file": "x"})
    assert reply.status == 403 and "careful denies workflow:Create on pool/default" in reply.json["message"]
    refused = wire.call("DELETE", "/api/configs/role/careful")
    assert refused.status == 400 and "cat still has" in refused.text


def test_what_is_taken_from_a_user_is_taken_from_the_tokens(wire: Wire, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(access, "_FRESH", 0.0)
    secret = begin(wire, "bob", "osmo-user", "osmo-viewer")
    assert ask(wire, secret, "GET", "/api/credentials").status == 200
    wire.call("DELETE", "/api/auth/user/bob/roles/osmo-user")
    assert ask(wire, secret, "GET", "/api/credentials").status == 403
    assert ask(wire, secret, "GET", "/api/workflow").status == 200
    wire.call("DELETE", "/api/auth/user/bob")
    assert ask(wire, secret, "GET", "/api/workflow").status == 401, "a user who is gone has no token"


def test_a_token_may_be_less_than_its_user_and_never_more(wire: Wire):
    begin(wire, "bob", "osmo-user", "osmo-viewer")
    less = token(wire, "bob", ("roles", "osmo-viewer"))
    assert ask(wire, less, "GET", "/api/credentials").status == 403
    path = "/api/auth/user/bob/access_token/more"
    told = wire.refused("POST", path, ("expires_at", day(wire)), ("roles", "osmo-admin"))
    assert "bob does not have the role 'osmo-admin'" in told["message"]
    # Nor by a token of one's own: it is made of what one asks with.
    reply = wire.call(
        "POST",
        "/api/auth/access_token/up",
        [("expires_at", day(wire)), ("roles", "osmo-user")],
        user="",
        headers={"Authorization": f"Bearer {less}"},
    )
    assert reply.status == 400


def test_users_come_by_pages_and_prefixes(wire: Wire):
    for number in range(5):
        wire.world.now += 1
        wire.post("/api/auth/user", body={"id": f"u{number}", "roles": ["osmo-viewer"] if number % 2 else None})
    told = wire.get("/api/auth/user", ("start_index", "2"), ("count", "2"))
    assert (told["total_results"], told["start_index"], told["items_per_page"]) == (5, 2, 2)
    assert [u["id"] for u in told["users"]] == ["u3", "u2"]
    assert wire.get("/api/auth/user", ("roles", "osmo-viewer"))["total_results"] == 2
    assert wire.get("/api/auth/user", ("id_prefix", "u4"))["users"][0]["created_by"] == "ann"
    assert wire.get("/api/auth/user", ("id_prefix", "u_"))["total_results"] == 0
    assert "already" in wire.refused("POST", "/api/auth/user", body={"id": "u1"})["message"]


def test_a_role_is_given_to_many(wire: Wire):
    wire.post("/api/auth/user", body={"id": "a"})
    wire.post("/api/auth/user", body={"id": "b", "roles": ["osmo-user"]})
    told = wire.post("/api/auth/roles/osmo-user/users", body={"user_ids": ["a", "b", "c", "a"]})
    assert told == {"role_name": "osmo-user", "assigned": ["a"], "already_assigned": ["b"], "failed": ["c"]}
    assert {u["user_id"] for u in wire.get("/api/auth/roles/osmo-user/users")["users"]} == {"a", "b"}
    assert wire.call("POST", "/api/auth/user/a/roles", (), {"role_name": "osmo-usr"}).status == 404


def test_changes_and_refusals_are_in_the_log_and_reads_are_not(wire: Wire):
    secret = begin(wire, "vic", "osmo-viewer")
    ask(wire, secret, "GET", "/api/workflow")
    ask(wire, secret, "GET", "/api/x/audit")
    ask(wire, secret, "POST", "/api/pool/default/workflow", {"file": "x"})
    lines = [(e["user"], e["how"], e["action"], e["status"]) for e in wire.get("/api/x/audit")]
    assert lines == [
        ("vic", "token", "workflow:Create", 403),
        ("vic", "token", "audit:Read", 403),
        ("ann", "development", "user:Token", 200),
        ("ann", "development", "user:Create", 200),
    ]
    assert [e["user"] for e in wire.get("/api/x/audit", ("user", "vic"), ("limit", "1"))] == ["vic"]


def test_inside_a_task_are_its_users_secrets(wire: Wire):
    """Who may enter tasks may enter their own; another's takes an administrator."""
    una, ada = begin(wire, "una", "osmo-user"), begin(wire, "ada", "osmo-admin")
    own, other = wire.world.submit(user="una"), wire.world.submit(user="bob")
    for name in (own, other):
        wire.world.start(name, "a")
    for path in ("exec/task/a?entry_command=sh", "portforward/a?task_ports=80", "rsync/task/a"):
        target, _, query = path.partition("?")
        asked = [tuple(pair.split("=")) for pair in query.split("&") if pair]

        def status(secret: str, name: str, target: str = target, asked: Any = asked) -> int:
            headers = {"Authorization": f"Bearer {secret}"}
            return wire.call("POST", f"/api/workflow/{name}/{target}", asked, user="", headers=headers).status

        assert (status(una, own), status(una, other), status(ada, other)) == (200, 403, 200), path
    assert ask(wire, una, "POST", f"/api/x/workflow/{other}/task/a/release").status == 403
    refused = ask(wire, una, "POST", f"/api/x/workflow/{other}/task/a/release")
    assert "workflow:EnterOthers" in refused.json["message"]
