"""A day's calls of the original's client, against the platform as `osmo up` starts it."""

from __future__ import annotations

import re

from tests.api.wire import Wire
from tests.e2e.harness import Platform, until

SPEC = """workflow:
  name: day
  tasks:
  - name: a
    image: ubuntu
    command: [sh, -c]
    args: ["echo one; echo {{word}} {{output}} > {{output}}/x"]
default-values: {word: two}
"""


def test_a_days_calls(platform: Platform) -> None:
    wire = Wire(None, platform.port)  # type: ignore[arg-type]
    assert set(wire.get("/api/version")) == {"major", "minor", "revision", "hash"}
    pool = wire.get("/api/profile/settings")["profile"]["pool"]
    assert wire.post("/api/credentials/c", body={"generic_credential": {"credential": {"k": "v"}}}) is None
    assert wire.post("/api/app/user/day", ("description", "a day"), body=SPEC) is None
    app = wire.get("/api/app/user/day", ("limit", "1"))
    text = wire.call("GET", "/api/app/user/day/spec").text
    path = f"/api/pool/{pool}/workflow"
    rendered = wire.post(path, ("dry_run", "True"), body={"file": text})["spec"]
    assert "echo two {{output}}" in rendered
    sent = {"file": rendered, "set_variables": [], "set_string_variables": [], "uploaded_templated_spec": text}
    query = (("dry_run", "False"), ("app_uuid", app["uuid"]), ("app_version", "1"), ("priority", "NORMAL"))
    name = wire.post(path, *query, body=sent)["name"]
    log = wire.call("GET", f"/api/workflow/{name}/logs")  # follows until the end
    assert log.headers["content-type"] == "text/plain; charset=us-ascii"
    assert re.search(r"(?m)^\d{4}/\d\d/\d\d \d\d:\d\d:\d\d \[a\] one$", log.text)
    until(lambda: wire.get(f"/api/workflow/{name}")["status"] == "COMPLETED", 30)
    view = wire.get(f"/api/workflow/{name}", ("verbose", "True"))
    assert (view["app_name"], view["groups"][0]["tasks"][0]["exit_code"]) == ("day", 0)
    listed = wire.get("/api/workflow", ("order", "DESC"), ("all_pools", "True"), ("app", "day:1"))
    assert [w["name"] for w in listed["workflows"]] == [name]
    assert wire.get("/api/task", ("workflow_id", name), ("all_pools", "True"))["tasks"][0]["status"] == "COMPLETED"
    usage = wire.get("/api/pool_quota")["resource_sum"]
    assert usage["total_capacity"] == "2"  # of the two logical GPUs that this platform has
    node = wire.get("/api/resources", ("all_pools", "True"))["resources"][0]["hostname"]
    assert wire.get(f"/api/resources/{node}")["resources"][0]["hostname"] == node
    token = wire.post("/api/auth/access_token/day", ("expires_at", _next_month()))
    passed = wire.post("/api/auth/jwt/access_token", body={"token": token}, user="")["token"]
    told = wire.call("GET", "/api/profile/settings", user="", headers={"Authorization": f"Bearer {passed}"})
    assert told.json["token"]["name"] == "day"
    assert wire.call("DELETE", "/api/auth/access_token/day").data == b"null"
    assert wire.call("DELETE", "/api/app/user/day", [("all_versions", "True")]).json == {"versions": [1]}
    assert wire.call("DELETE", "/api/credentials/c").status == 200


def _next_month() -> str:
    from datetime import UTC, datetime, timedelta

    return (datetime.now(UTC) + timedelta(days=30)).strftime("%Y-%m-%d")
