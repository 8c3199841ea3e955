"""The contract's rules for every call, login, version and small reads, over real HTTP."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator

import pytest

from tests.api.wire import Wire, serve
from tests.api.world import HELLO, World


@pytest.fixture(scope="module")
def wire(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Wire]:
    world = World(tmp_path_factory.mktemp("world"))
    with serve(world) as made:
        yield made
    world.close()


def warning(headers: dict[str, str]) -> str:
    return base64.b64decode(headers.get("x-osmo-warning", "")).decode()


# -- every call


@pytest.mark.parametrize(
    "path",
    ["/api/version", "/api/router/version", "/health", "/api/auth/login", "/api/auth/keys", "/api/users", "/api/tag",
     "/api/plugins/configs", "/api/workflow", "/api/task", "/api/pool", "/api/pool_quota", "/api/resources",
     "/api/resources/n1", "/api/profile/settings", "/api/credentials", "/api/app", "/api/auth/access_token"],
)  # fmt: skip
def test_reads_answer_200_with_json(wire: Wire, path: str) -> None:
    wire.get(path)


def test_a_call_without_a_result_answers_null(wire: Wire) -> None:
    for method, path, body in (
        ("POST", "/api/profile/settings", {"email_notification": False}),
        ("POST", "/api/credentials/none", {"generic_credential": {"credential": {"k": "v"}}}),
        ("DELETE", "/api/credentials/none", None),
    ):
        reply = wire.call(method, path, body=body)
        assert reply.status == 200
        if method == "POST":
            assert reply.data == b"null"


def test_a_get_and_a_delete_may_announce_json_and_send_nothing(wire: Wire) -> None:
    assert wire.call("GET", "/api/workflow").status == 200
    assert wire.call("DELETE", "/api/credentials/absent").status == 400


def test_booleans_are_capitalised_and_lists_repeat_their_key(wire: Wire) -> None:
    name = wire.world.submit(user="lists")
    both = [("statuses", "PENDING"), ("statuses", "RUNNING"), ("all_pools", "True"), ("all_users", "False")]
    found = wire.get("/api/workflow", *both, user="lists")
    assert [w["name"] for w in found["workflows"]] == [name]
    assert wire.get("/api/workflow", ("statuses", "RUNNING"), user="lists")["workflows"] == []


def test_empty_texts_are_no_filter(wire: Wire) -> None:
    name = wire.world.submit(user="empty")
    assert wire.get("/api/workflow", ("name", ""), user="empty")["workflows"][0]["name"] == name
    assert wire.get("/api/task", ("workflow_id", ""), ("statuses", "PROCESSING"), user="empty")["tasks"]


def test_errors_have_message_code_and_workflow(wire: Wire) -> None:
    reply = wire.call("GET", "/api/workflow/absent-1")
    assert reply.status == 400
    assert reply.json == {
        "message": "Workflow absent-1 not found.",
        "error_code": "DATABASE",
        "workflow_id": "absent-1",
    }


def test_a_request_of_the_wrong_shape_is_422_with_its_place(wire: Wire) -> None:
    reply = wire.call("GET", "/api/workflow", [("limit", "many")])
    assert reply.status == 422
    assert {"loc", "msg", "type"} <= set(reply.json["detail"][0])
    assert reply.json["detail"][0]["loc"] == ["query", "limit"]


def test_an_unknown_path_is_404_with_a_detail(wire: Wire) -> None:
    reply = wire.call("GET", "/api/nothing")
    assert (reply.status, reply.json) == (404, {"detail": "Not Found"})


def test_more_than_a_thousand_is_a_user_error(wire: Wire) -> None:
    assert wire.refused("GET", "/api/workflow", ("limit", "1001"))["error_code"] == "USER"


# -- the version gate


def test_the_current_client_is_not_warned(wire: Wire) -> None:
    assert "x-osmo-warning" not in wire.call("GET", "/api/tag").headers


def test_an_older_client_is_served_and_warned_in_base64(wire: Wire) -> None:
    reply = wire.call("GET", "/api/tag", headers={"x-osmo-client-version": "5.9.9.abc"})
    assert reply.status == 200
    assert "5.9.9.abc is older than 6.0.0" in warning(reply.headers)
    assert reply.headers["x-osmo-service-version"] == "6.0.0"


def test_a_version_of_another_form_is_refused_but_not_below_client(wire: Wire) -> None:
    bad = {"x-osmo-client-version": "six"}
    reply = wire.call("GET", "/api/tag", headers=bad)
    assert (reply.status, reply.json["error_code"]) == (400, "OSMO_ERROR")
    assert wire.call("GET", "/client/version", headers=bad).status == 200


def test_a_client_below_the_least_is_refused(wire: Wire) -> None:
    with serve(wire.world, min_client="5.0.0") as strict:
        old = strict.call("GET", "/api/tag", headers={"x-osmo-client-version": "4.9.0"})
        assert (old.status, old.json["error_code"]) == (400, "OSMO_ERROR")
        assert strict.call("GET", "/api/tag", headers={"x-osmo-client-version": "5.0.0"}).status == 200


# -- version, health, small reads


def test_version_fields_are_text(wire: Wire) -> None:
    for path in ("/api/version", "/api/router/version"):
        found = wire.get(path, user="")
        assert set(found) == {"major", "minor", "revision", "hash"}
        assert all(isinstance(value, str) for value in found.values())


def test_client_version_is_text_for_who_asks_for_text(wire: Wire) -> None:
    reply = wire.call("GET", "/client/version", headers={"Accept": "text/plain"})
    assert (reply.text, reply.headers["content-type"]) == ("6.0.0", "text/plain; charset=utf-8")
    assert wire.get("/client/version")["major"] == "6"


def test_health(wire: Wire) -> None:
    assert wire.get("/health", user="") == {"status": "OK"}


def test_users_are_those_who_submitted(wire: Wire) -> None:
    wire.world.submit(user="zoe")
    assert "zoe" in wire.get("/api/users")


def test_tags_that_are_allowed(wire: Wire) -> None:
    assert wire.get("/api/tag") == {"tags": []}
    with serve(wire.world, tags="nightly, demo") as strict:
        assert strict.get("/api/tag") == {"tags": ["nightly", "demo"]}
        name = wire.world.submit()
        assert strict.post(f"/api/workflow/{name}/tag", ("add", "nightly"), ("add", "demo")) is None
        assert strict.refused("POST", f"/api/workflow/{name}/tag", ("add", "other"))["error_code"] == "USER"
        assert strict.post(f"/api/workflow/{name}/tag", ("remove", "demo")) is None
        assert strict.get(f"/api/workflow/{name}")["tags"] == ["nightly"]
        assert [w["name"] for w in strict.get("/api/workflow", ("tags", "nightly"), ("tags", "x"))["workflows"]] == [
            name
        ]


def test_plugins_have_their_fields_and_kinds(wire: Wire) -> None:
    rsync = wire.get("/api/plugins/configs")["rsync"]
    assert set(rsync) == {
        *("enabled", "enable_telemetry", "read_bandwidth_limit", "write_bandwidth_limit", "allowed_paths"),
        *("daemon_debounce_delay", "daemon_poll_interval", "daemon_reconcile_interval", "client_upload_rate_limit"),
    }
    assert isinstance(rsync["allowed_paths"], dict)


# -- login


def test_login_information_is_all_null_without_a_provider(wire: Wire) -> None:
    assert wire.get("/api/auth/login", user="") == dict.fromkeys(
        ("device_endpoint", "device_client_id", "browser_endpoint", "browser_client_id", "token_endpoint",
         "logout_endpoint")
    )  # fmt: skip


def test_development_login_is_a_header_on_each_call(wire: Wire) -> None:
    assert wire.get("/api/profile/settings", user="dev-1")["profile"]["username"] == "dev-1"


def made_token(wire: Wire, name: str, user: str = "tok") -> str:
    day = "2027-02-01"  # the world's clock stands in January of that year
    return str(
        wire.post(f"/api/auth/access_token/{name}", ("expires_at", day), ("description", "for a test"), user=user)
    )


def claims(text: str) -> dict[str, object]:
    body = text.split(".")[1]
    return dict(json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4))))


def test_token_login_trades_the_token_for_a_pass_and_calls_with_it(wire: Wire) -> None:
    token = made_token(wire, "mine")
    assert len(token) == 43
    reply = wire.post("/api/auth/jwt/access_token", body={"token": token}, user="")
    assert set(reply) == {"token", "expires_at", "error"}
    assert reply["error"] is None
    assert reply["expires_at"] == int(wire.world.now) + 300
    told = claims(reply["token"])
    assert {k: told[k] for k in ("iss", "aud", "unique_name", "osmo_token_name", "exp")} == {
        "iss": "osmo", "aud": "osmo", "unique_name": "tok", "osmo_token_name": "mine", "exp": reply["expires_at"],
    }  # fmt: skip
    assert isinstance(told["roles"], list)
    for headers in ({"Authorization": f"Bearer {reply['token']}"}, {"x-osmo-auth": reply["token"]}):
        settings = wire.call("GET", "/api/profile/settings", user="", headers=headers).json
        assert settings["profile"]["username"] == "tok"
        assert settings["token"]["name"] == "mine"
    twin = wire.call("GET", "/api/auth/jwt/access_token", [("access_token", token)], user="")
    assert twin.status == 200 and claims(twin.json["token"])["unique_name"] == "tok"


def test_a_pass_ends_with_its_time_with_its_token_and_with_a_changed_letter(wire: Wire) -> None:
    token = made_token(wire, "short")
    text = wire.post("/api/auth/jwt/access_token", body={"token": token})["token"]

    def status(value: str) -> int:
        return wire.call("GET", "/api/tag", user="", headers={"Authorization": f"Bearer {value}"}).status

    head, body, signature = text.split(".")
    forged = (
        base64.urlsafe_b64encode(json.dumps({**claims(text), "unique_name": "root"}).encode()).rstrip(b"=").decode()
    )
    assert status(text) == 200
    assert status(f"{head}.{forged}.{signature}") == 401
    assert status(f"{head}.{body}.{signature[:-4]}AAAA") == 401
    assert status(f"{head}.{body}.") == 401
    wire.world.now += 301
    assert status(text) == 401
    wire.world.now -= 301
    assert wire.call("DELETE", "/api/auth/access_token/short", user="tok").data == b"null"
    assert status(text) == 401


def test_wrong_tokens_are_user_errors(wire: Wire) -> None:
    for bad in ("short", "x" * 43, "0" * 64):
        assert wire.refused("POST", "/api/auth/jwt/access_token", body={"token": bad})["error_code"] == "USER"


def test_a_token_that_ends_soon_is_told(wire: Wire) -> None:
    token = made_token(wire, "ending")
    wire.world.now, now = wire.world.now + 12 * 86400, wire.world.now
    try:
        reply = wire.call("GET", "/api/tag", user="", headers={"Authorization": f"Bearer {token}"})
    finally:
        wire.world.now = now
    assert "ending ends in" in warning(reply.headers)


def test_access_tokens_are_listed_with_roles_and_deleted(wire: Wire) -> None:
    made_token(wire, "listed", "lister")
    entry = wire.get("/api/auth/access_token", user="lister")[0]
    assert set(entry) == {"user_name", "token_name", "expires_at", "description", "roles"}
    assert (entry["user_name"], entry["token_name"], entry["expires_at"][:10]) == ("lister", "listed", "2027-02-01")
    roles = wire.get("/api/auth/access_token/listed/roles", user="lister")
    assert roles["roles"][0]["role_name"] == "osmo-admin"
    for query in (("expires_at", "2020-01-01"), ("expires_at", "2030-01-01"), ("expires_at", "soon")):
        wire.refused("POST", "/api/auth/access_token/x", query, user="lister")
    wire.refused(
        "POST", "/api/auth/access_token/x", ("expires_at", "2027-02-01"), ("roles", "osmo-king"), user="lister"
    )
    wire.refused("POST", "/api/auth/access_token/9x", ("expires_at", "2027-02-01"), user="lister")
    wire.refused("DELETE", "/api/auth/access_token/absent", user="lister")


# -- profile


def test_profile_has_its_fields(wire: Wire) -> None:
    found = wire.get("/api/profile/settings", user="pro")
    assert set(found) == {"profile", "roles", "pools", "token"}
    assert found["profile"] == {
        "username": "pro", "email_notification": False, "slack_notification": False, "bucket": None, "pool": "default",
    }  # fmt: skip
    assert (found["pools"], found["token"]) == (["default"], None)


def test_profile_is_set_field_by_field_and_refuses_an_unknown_pool(wire: Wire) -> None:
    assert wire.post("/api/profile/settings", body={"slack_notification": True}, user="pro2") is None
    assert (
        wire.post("/api/profile/settings", ("set_default_backend", "False"), body={"pool": "default"}, user="pro2")
        is None
    )
    assert wire.get("/api/profile/settings", user="pro2")["profile"]["slack_notification"] is True
    for wrong in ({"pool": "nowhere"}, {"bucket": "nowhere"}):
        assert wire.refused("POST", "/api/profile/settings", body=wrong)["error_code"] == "USER"
    assert wire.call("POST", "/api/profile/settings", body={"colour": "red"}).status == 422


def test_who_asks_for_mail_hears_of_what_ends_from_now_on(wire: Wire) -> None:
    store = wire.world.store
    for turn in ("early", "late"):
        name = wire.world.submit(HELLO.replace("hello", turn), user="mailed")
        wire.post(f"/api/workflow/{name}/cancel", user="mailed")
        wire.post("/api/profile/settings", body={"email_notification": True}, user="mailed")
    assert [e.id for e in store.unannounced("mail", 0.0) if e.user == "mailed"] == ["late-1"]


def test_an_address_with_nul_is_refused(wire: Wire) -> None:
    assert wire.call("GET", "/api/workflow/a\0b").status == 400
    assert wire.call("GET", "/api/workflow", [("name", "a\0")]).status == 400
