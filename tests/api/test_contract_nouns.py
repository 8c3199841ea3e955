"""The contract of pools, resources, credentials and apps, over real HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.api.wire import Wire, serve
from tests.api.world import HELLO, World

POOL = {
    *("name", "description", "status", "download_type", "enable_maintenance", "backend", "default_platform"),
    *("default_exec_timeout", "default_queue_timeout", "max_exec_timeout", "max_queue_timeout"),
    *("default_exit_actions", "resources", "topology_keys", "platforms"),
}
USAGE = {"quota_used", "quota_free", "quota_limit", "total_usage", "total_capacity", "total_free"}
AMOUNTS = {"storage", "cpu", "memory", "gpu"}
GPU = HELLO.replace("  tasks:", "  resources: {default: {gpu: 1}}\n  tasks:")
QUOTA = """queues:
- {name: robots, gpu: {quota: 2, limit: 3, weight: 4}}
- {name: vision, gpu: {quota: 1}}
pools: {robots: robots, eyes: vision}
"""


@pytest.fixture(scope="module")
def wire(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Wire]:
    world = World(tmp_path_factory.mktemp("world"))
    with serve(world) as made:
        yield made
    world.close()


# -- pools and resources


def test_a_pool_has_its_fields(wire: Wire) -> None:
    found = wire.get("/api/pool", ("all_pools", "True"))
    assert list(found["pools"]) == ["default"]
    pool = found["pools"]["default"]
    assert set(pool) == POOL
    assert (pool["status"], pool["download_type"], pool["enable_maintenance"]) == ("ONLINE", "download", False)
    assert pool["resources"] == {"gpu": {"guarantee": -1, "maximum": -1, "weight": 1}}
    assert all(isinstance(pool[k], str) for k in POOL if k.endswith("_timeout"))
    assert set(pool["platforms"]["local"]) == {
        *("description", "host_network_allowed", "privileged_allowed", "allowed_mounts", "default_mounts")
    }
    assert wire.get("/api/pool", ("pools", "default"))["pools"].keys() == {"default"}
    assert wire.refused("GET", "/api/pool", ("pools", "nowhere"))["error_code"] == "USER"


def test_quota_numbers_are_texts_and_come_from_the_work(wire: Wire) -> None:
    found = wire.get("/api/pool_quota", ("all_pools", "True"))
    pool = found["node_sets"][0]["pools"][0]
    assert set(pool) == POOL | {"resource_usage"}
    assert set(pool["resource_usage"]) == set(found["resource_sum"]) == USAGE
    assert all(isinstance(value, str) for value in found["resource_sum"].values())
    name = wire.world.submit(GPU, user="gpu")
    wire.world.start(name, "a")
    used = wire.get("/api/pool_quota")["resource_sum"]
    assert used == {
        "quota_used": "1", "quota_free": "0", "quota_limit": "1", "total_usage": "1", "total_capacity": "1",
        "total_free": "0",
    }  # fmt: skip
    wire.post(f"/api/workflow/{name}/cancel")


def test_pools_with_quotas_share_one_node_set(wire: Wire) -> None:
    file = wire.world.folder / "quota.yaml"
    file.write_text(QUOTA)
    try:
        quota = wire.get("/api/pool_quota")
        pools = {p["name"]: p for p in quota["node_sets"][0]["pools"]}
        assert list(pools) == ["default", "robots", "eyes"]
        assert pools["robots"]["resources"] == {"gpu": {"guarantee": 2, "maximum": 3, "weight": 4}}
        name = wire.post("/api/pool/robots/workflow", ("priority", "LOW"), body={"file": GPU}, user="gpu")["name"]
        wire.world.start(name, "a")
        after = {p["name"]: p["resource_usage"] for p in wire.get("/api/pool_quota")["node_sets"][0]["pools"]}
        assert (after["robots"]["quota_used"], after["robots"]["total_usage"]) == ("0", "1")  # LOW borrows
        assert (after["eyes"]["total_usage"], after["eyes"]["total_free"]) == ("0", "0")
        node = wire.get("/api/resources", ("all_pools", "True"))["resources"][0]
        assert node["resource_type"] == "SHARED"
        assert node["pool_platform_labels"] == {"default": ["local"], "robots": ["local"], "eyes": ["local"]}
        wire.post(f"/api/workflow/{name}/cancel")
    finally:
        file.unlink()
    assert list(wire.get("/api/pool")["pools"]) == ["default"]


def test_a_resource_has_its_fields(wire: Wire) -> None:
    node = wire.get("/api/resources", ("pools", "default"), ("all_pools", "False"))["resources"][0]
    assert set(node) == {
        *("hostname", "exposed_fields", "taints", "usage_fields", "allocatable_fields", "non_workflow_usage_fields"),
        *("conditions", "platform_allocatable_fields", "platform_available_fields", "config_fields", "backend"),
        *("platform_workflow_allocatable_fields", "label_fields", "pool_platform_labels", "resource_type"),
    }
    assert node["exposed_fields"] == {
        "node": "n1", "pool/platform": ["default/local"], "storage": "100", "cpu": "4", "memory": "8", "gpu": "1",
    }  # fmt: skip
    assert (node["hostname"], node["resource_type"], node["taints"]) == ("n1", "RESERVED", [])
    assert set(node["usage_fields"]) == set(node["allocatable_fields"]) == AMOUNTS
    assert node["allocatable_fields"]["memory"] == "8Gi"
    assert set(node["config_fields"]["default"]["local"]) == {
        "host_network", "privileged", "default_mounts", "allowed_mounts",
    }  # fmt: skip
    assert wire.get("/api/resources", ("platforms", "other"))["resources"] == []
    assert wire.get("/api/resources/n1")["resources"] == [node]
    assert wire.refused("GET", "/api/resources/absent")["error_code"] == "RESOURCE"


def test_concise_resources(wire: Wire) -> None:
    found = wire.get("/api/resources", ("concise", "True"), ("all_pools", "True"))
    assert set(found) == {"pools"}
    assert set(found["pools"][0]) == {"pool", "platform", "status", "usage_fields", "allocatable_fields", "backend"}


# -- credentials


def test_three_kinds_of_credentials_and_no_secret_comes_back(wire: Wire) -> None:
    bodies: dict[str, Any] = {
        "gen": {"generic_credential": {"credential": {"k": "very-secret", "l": "v"}}},
        "reg": {"registry_credential": {"registry": "nvcr.io", "username": "u", "auth": "very-secret"}},
        "dat": {"data_credential": {"endpoint": "s3://b", "access_key_id": "i", "access_key": "very-secret"}},
        "dat2": {
            "data_credential": {
                "endpoint": "s3://c", "access_key_id": "i", "access_key": "very-secret", "region": "r",
                "override_url": "http://127.0.0.1:9",
            }
        },
    }  # fmt: skip
    for name, body in bodies.items():
        assert wire.post(f"/api/credentials/{name}", body=body, user="cre") is None
    reply = wire.call("GET", "/api/credentials", user="cre")
    assert reply.json == {
        "credentials": [
            {"cred_name": "dat", "cred_type": "DATA", "profile": "s3://b"},
            {"cred_name": "dat2", "cred_type": "DATA", "profile": "s3://c"},
            {"cred_name": "gen", "cred_type": "GENERIC", "profile": None},
            {"cred_name": "reg", "cred_type": "REGISTRY", "profile": "nvcr.io"},
        ]
    }
    assert wire.get("/api/credentials", user="somebody")["credentials"] == []
    everything = b"".join(f.read_bytes() for f in wire.world.folder.rglob("osmo.db*"))
    assert b"s3://b" in everything and b"very-secret" not in everything


def test_a_deleted_credential_comes_back_once_in_the_same_shape(wire: Wire) -> None:
    wire.post("/api/credentials/x", body={"generic_credential": {"credential": {"k": "v"}}}, user="del")
    gone = wire.call("DELETE", "/api/credentials/x", user="del")
    assert gone.json == {"credentials": [{"cred_name": "x", "cred_type": "GENERIC", "profile": None}]}
    assert wire.refused("DELETE", "/api/credentials/x", user="del")["error_code"] == "CREDENTIAL"


def test_one_credential_per_endpoint(wire: Wire) -> None:
    for name in ("one", "two"):
        data = {"endpoint": "s3://same", "access_key_id": "i", "access_key": name}
        wire.post(f"/api/credentials/{name}", body={"data_credential": data}, user="per")
    assert [c["cred_name"] for c in wire.get("/api/credentials", user="per")["credentials"]] == ["two"]


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"generic_credential": {"credential": {"a": "b"}}, "registry_credential": {"registry": "r", "auth": "a"}},
        {"generic_credential": {"credential": {"../up": "b"}}},
    ],
)
def test_wrong_credentials_are_credential_errors(wire: Wire, body: dict[str, Any]) -> None:
    assert wire.refused("POST", "/api/credentials/w", body=body)["error_code"] == "CREDENTIAL"


def test_extra_keys_and_wrong_names_of_credentials(wire: Wire) -> None:
    body = {"generic_credential": {"credential": {"a": "b"}}}
    assert wire.call("POST", "/api/credentials/w", body={**body, "more": 1}).status == 422
    assert wire.call("POST", "/api/credentials/w", body={"registry_credential": {"registry": "r"}}).status == 422
    for name in ("9a", "a-", "a b", "_a"):
        assert wire.refused("POST", f"/api/credentials/{name}", body=body)["error_code"] == "CREDENTIAL"


# -- apps


def app(wire: Wire, name: str, user: str, text: str = HELLO) -> None:
    assert wire.post(f"/api/app/user/{name}", ("description", "for tests"), body=text, user=user) is None


def test_an_app_is_created_listed_shown_and_read(wire: Wire) -> None:
    app(wire, "train", "own")
    listed = wire.get("/api/app", ("limit", "20"), ("order", "DESC"), user="own")
    assert listed["more_entries"] is False
    entry = listed["apps"][0]
    assert set(entry) == {"uuid", "name", "description", "created_date", "owner", "latest_version"}
    assert (entry["name"], entry["owner"], entry["latest_version"]) == ("train", "own", "1")
    shown = wire.get("/api/app/user/train", ("limit", "1"), user="other")
    assert set(shown) == {"uuid", "name", "description", "created_date", "owner", "versions"}
    version = shown["versions"][0]
    assert version == {"version": 1, "created_by": "own", "created_date": version["created_date"], "status": "READY"}
    spec = wire.call("GET", "/api/app/user/train/spec", [("version", "1")])
    assert (spec.status, spec.text) == (200, HELLO)
    assert spec.headers["content-type"].startswith("text/plain")


def test_updates_make_versions_and_the_newest_is_read(wire: Wire) -> None:
    app(wire, "grow", "own2")
    text = HELLO.replace("hello", "grown")
    reply = wire.call("PATCH", "/api/app/user/grow", body=text, user="helper")
    assert reply.status == 200
    assert set(reply.json) == {"uuid", "version", "name", "created_by", "created_date"}
    assert (reply.json["version"], reply.json["created_by"]) == (2, "helper")
    assert wire.call("GET", "/api/app/user/grow/spec").text == text
    assert [v["version"] for v in wire.get("/api/app/user/grow", ("order", "DESC"))["versions"]] == [2, 1]
    assert [v["version"] for v in wire.get("/api/app/user/grow", ("version", "1"))["versions"]] == [1]
    assert "grow" in [a["name"] for a in wire.get("/api/app", user="helper")["apps"]]
    assert wire.get("/api/app", user="stranger")["apps"] == []
    assert "grow" in [a["name"] for a in wire.get("/api/app", ("all_users", "True"), user="stranger")["apps"]]
    assert [a["name"] for a in wire.get("/api/app", ("users", "own2"), ("name", "gro"))["apps"]] == ["grow"]


def test_submitting_an_app_records_it(wire: Wire) -> None:
    app(wire, "runme", "own3")
    shown = wire.get("/api/app/user/runme", ("limit", "1"), user="runner")
    text = wire.call("GET", "/api/app/user/runme/spec", user="runner").text
    query = (("app_uuid", shown["uuid"]), ("app_version", str(shown["versions"][0]["version"])))
    name = wire.post("/api/pool/default/workflow", *query, body={"file": text}, user="runner")["name"]
    view = wire.get(f"/api/workflow/{name}")
    assert (view["app_owner"], view["app_name"], view["app_version"]) == ("own3", "runme", 1)
    for filter_, found in (("runme", [name]), ("runme:1", [name]), ("runme:2", []), ("other", [])):
        listed = wire.get("/api/workflow", ("app", filter_), user="runner")["workflows"]
        assert [w["name"] for w in listed] == found
    assert (
        listed == [] and wire.get("/api/workflow", ("app", "runme"), user="runner")["workflows"][0]["app_version"] == 1
    )
    assert "runme" in [a["name"] for a in wire.get("/api/app", user="runner")["apps"]]
    wire.refused("POST", "/api/pool/default/workflow", ("app_uuid", "absent"), body={"file": text})


def test_deleting_wants_a_version_or_all_and_the_owner(wire: Wire) -> None:
    app(wire, "gone", "own4")
    wire.call("PATCH", "/api/app/user/gone", body=HELLO, user="own4")
    for query in ([], [("version", "1"), ("all_versions", "True")]):
        wire.refused("DELETE", "/api/app/user/gone", *query, user="own4")
    assert wire.call("DELETE", "/api/app/user/gone", [("version", "1")], user="thief").status == 403
    one = wire.call("DELETE", "/api/app/user/gone", [("version", "1"), ("all_versions", "False")], user="own4")
    assert one.json == {"versions": [1]}
    wire.refused("GET", "/api/app/user/gone/spec", ("version", "1"))
    every = wire.call("DELETE", "/api/app/user/gone", [("all_versions", "True")], user="own4")
    assert every.json == {"versions": [2]}
    assert wire.refused("GET", "/api/app/user/gone")["error_code"] == "USER"


def test_renaming_answers_the_new_name(wire: Wire) -> None:
    app(wire, "before", "own5")
    app(wire, "taken", "own5")
    wire.refused("POST", "/api/app/user/before/rename", body="taken", user="own5")
    assert wire.call("POST", "/api/app/user/before/rename", body="after", user="thief").status == 403
    assert wire.post("/api/app/user/before/rename", body="after", user="own5") == "after"
    assert wire.get("/api/app/user/after")["name"] == "after"


def test_wrong_apps_are_refused(wire: Wire) -> None:
    app(wire, "twice", "own6")
    wire.refused("POST", "/api/app/user/twice", ("description", ""), body=HELLO)
    wire.refused("POST", "/api/app/user/a.b", ("description", ""), body=HELLO)
    assert wire.refused("POST", "/api/app/user/c", ("description", ""), body="nothing: 1\n")["error_code"] == "USAGE"
    wire.refused("PATCH", "/api/app/user/absent", body=HELLO)
    assert wire.call("POST", "/api/app/user/d", body=HELLO).status == 422  # a description is required
