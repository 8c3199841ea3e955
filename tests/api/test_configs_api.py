"""Pools and rules through the API: what holds, what is refused, history and the way back."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from starlette.testclient import TestClient

from tests.api.world import HELLO, World

RULE = {"operator": "LE", "left_operand": "{{USER_CPU}}", "right_operand": "4", "assert_message": "at most 4 cores"}


def put(client: TestClient, path: str, value: Any, key: str = "configs", **more: Any) -> None:
    reply = client.put(f"/api/configs/{path}", json={key: value, **more})
    assert (reply.status_code, reply.json()) == (200, None), reply.text


def refusal(client: TestClient, text: str) -> str:
    reply = client.post("/api/pool/default/workflow", json={"file": text})
    assert reply.status_code == 400
    return str(reply.json()["message"])


def test_a_pool_is_written_merged_and_forgotten(client: TestClient) -> None:
    before = client.get("/api/configs/pool").json()["pools"]["default"]
    assert before == {"name": "default", "default_platform": "local", "platforms": {"local": {}}}
    put(client, "pool/default", {"description": "ours", "max_exec_timeout": "1h"})
    made = client.patch(
        "/api/configs/pool/default", json={"configs_dict": {"description": None, "platforms": {"x": {}}}}
    )
    assert made.json() == {
        "name": "default", "max_exec_timeout": "1h", "default_platform": "local", "platforms": {"local": {}, "x": {}},
    }  # fmt: skip
    assert client.get("/api/pool").json()["pools"]["default"]["max_exec_timeout"] == "1h"
    assert client.request("DELETE", "/api/configs/pool/default", json={}).status_code == 200
    assert client.get("/api/configs/pool/default").json() == before
    assert client.request("DELETE", "/api/configs/pool/default", json={}).status_code == 404
    assert client.put("/api/configs/pool/nope", json={"configs": {}}).status_code == 404
    bad = client.put("/api/configs/pool/default", json={"configs": {"platform": {}}})
    assert bad.status_code == 400 and "pool default: platform" in bad.json()["message"]


def test_what_a_pool_says_holds_for_the_next_submission(world: World, client: TestClient) -> None:
    near = HELLO.replace("    image:", "    hostNetwork: true\n    image:", 1)
    assert "does not allow the host's network" in refusal(client, near)
    put(client, "pool/default/platform/local", {"host_network_allowed": True})
    put(client, "resource_validation/small", [RULE])
    client.patch(
        "/api/configs/pool/default",
        json={"configs_dict": {"common_resource_validations": ["small"], "default_exec_timeout": "10m"}},
    )
    name = world.submit(near)
    made = world.store.find(name)
    assert made is not None
    assert made.exec_timeout == 600.0
    assert made.spec.resources["default"].platform is None, "what the backend takes anyway is not written down"
    told = refusal(client, HELLO.replace("workflow:", "workflow:\n  resources: {default: {cpu: 5}}", 1))
    assert "at most 4 cores" in told and "line 2" in told.replace(":2:", " line 2 ")
    reply = client.request("DELETE", "/api/configs/resource_validation/small", json={})
    assert reply.status_code == 400 and "Pool default uses" in reply.json()["message"]


def test_defaults_are_put_in_anew_when_a_workflow_is_submitted_again(world: World, client: TestClient) -> None:
    put(client, "pool/default", {"common_default_variables": {"USER_CPU": 2}, "default_platform": "big",
                                 "platforms": {"big": {}, "small": {}}})  # fmt: skip
    first = world.store.find(world.submit(HELLO))
    assert first is not None
    assert (first.spec.resources["default"].cpu, first.spec.resources["default"].platform) == (2, "big")
    put(client, "pool/default", {"default_platform": "small", "platforms": {"big": {}, "small": {}}})
    reply = client.post("/api/pool/default/workflow", params={"workflow_id": first.id})
    again = world.store.find(reply.json()["name"])
    assert again is not None
    assert (again.spec.resources["default"].cpu, again.spec.resources["default"].platform) == (None, "small")


def test_a_pool_in_maintenance_takes_nothing_from_users(world: World, client: TestClient) -> None:
    put(client, "pool/default", {"enable_maintenance": True})
    assert client.get("/api/pool").json()["pools"]["default"]["status"] == "MAINTENANCE"
    assert client.post("/api/pool/default/workflow", json={"file": HELLO}).status_code == 200, "administrators may"


def test_the_history_leads_back(client: TestClient) -> None:
    put(client, "pool/default", {"description": "one"}, description="first", tags=["good"])
    put(client, "pool/default", {"description": "two"})
    found = client.get("/api/configs/history", params={"config_types": "POOL"}).json()["configs"]
    assert [(c["revision"], c["name"], c["description"], c["tags"]) for c in found] == [
        (2, "default", "", []), (1, "default", "first", ["good"]),
    ]  # fmt: skip
    diff = client.get("/api/configs/diff", params={"config_type": "POOL", "first_revision": 1, "second_revision": 2})
    assert diff.json()["first_data"]["default"]["description"] == "one"
    assert client.post("/api/configs/history/rollback", json={"config_type": "POOL", "revision": 1}).json() is None
    assert client.get("/api/configs/pool/default").json()["description"] == "one"
    refused = client.delete("/api/configs/history/POOL/revision/3")
    assert refused.status_code == 400 and "the one that holds" in refused.json()["message"]
    assert client.delete("/api/configs/history/POOL/revision/2").json() is None
    assert client.post("/api/configs/history/POOL/revision/1/tags", json={"set_tags": ["x"], "delete_tags": ["good"]})
    left = client.get("/api/configs/history", params={"order": "ASC", "omit_data": True}).json()["configs"]
    assert [(c["revision"], c["tags"], c["data"]) for c in left] == [(1, ["x"], None), (3, [], None)]
    assert client.post("/api/configs/history/rollback", json={"config_type": "POOL", "revision": 2}).status_code == 404


@pytest.mark.parametrize("path", ["/api/configs/pool/default/platform/no", "/api/configs/resource_validation/no"])
def test_what_is_not_there(client: TestClient, path: str) -> None:
    assert client.get(path).status_code == 404


def test_a_platform_gets_another_name(client: TestClient) -> None:
    put(client, "pool/default", {"platforms": {"a": {"description": "x"}, "b": {}}, "default_platform": "a"})
    put(client, "pool/default/platform/a/rename", "c", key="new_name")
    pool = client.get("/api/configs/pool/default").json()
    assert pool["default_platform"] == "c" and pool["platforms"]["c"] == {"description": "x"}
    reply = client.put("/api/configs/pool/default/platform/c/rename", json={"new_name": "b"})
    assert reply.status_code == 400


TEMPLATE = {"metadata": {"labels": {"team": "robots"}}, "spec": {"priorityClassName": "high"}}


def test_pod_templates_are_kept_named_by_pools_and_rolled_back(client: TestClient) -> None:
    unknown = client.put("/api/configs/pool/default", json={"configs": {"common_pod_template": ["base"]}})
    assert unknown.status_code == 400 and "no pod template 'base'" in unknown.json()["message"]
    put(client, "pod_template/base", TEMPLATE, description="ours")
    put(client, "pod_template/gpu", {"spec": {"runtimeClassName": "nvidia"}})
    put(
        client, "pool/default",
        {"common_pod_template": ["base"], "platforms": {"local": {"override_pod_template": ["gpu"]}}},
    )  # fmt: skip
    assert client.get("/api/configs/pod_template").json()["base"] == TEMPLATE
    for name in ("base", "gpu"):
        refused = client.request("DELETE", f"/api/configs/pod_template/{name}", json={})
        assert refused.status_code == 400 and "Pool default uses" in refused.json()["message"]
    kept = client.put("/api/configs/pod_template", json={"configs": {}})
    assert kept.status_code == 400
    put(client, "pod_template/base", {"spec": {"priorityClassName": "low"}})
    found = client.get("/api/configs/history", params={"config_types": "POD_TEMPLATE"}).json()["configs"]
    told = [(c["revision"], c["name"], c["description"]) for c in found]
    assert told == [(3, "base", ""), (2, "gpu", ""), (1, "base", "ours")]
    back = {"config_type": "POD_TEMPLATE", "revision": 2}
    assert client.post("/api/configs/history/rollback", json=back).status_code == 200
    assert client.get("/api/configs/pod_template/base").json() == TEMPLATE


@pytest.mark.parametrize(
    ("template", "told"),
    [
        ({"spec": {"containers": {"name": "user"}}}, "spec.containers must be a list"),
        ({"spec": {"volumes": [{"emptyDir": {}}]}}, "spec.volumes must be a list of things with a name"),
        ({"metadata": {"name": "mine"}}, "metadata.name"),
        ({"kind": "Job"}, "kind"),
        ({"spec": {"x": "y" * 70000}}, "larger than 64 KiB"),
    ],
)
def test_what_is_no_pod_template(client: TestClient, template: dict[str, Any], told: str) -> None:
    refused = client.put("/api/configs/pod_template/bad", json={"configs": template})
    assert refused.status_code == 400 and told in refused.json()["message"]


def test_settings_of_the_process_are_read_in_the_contracts_shape(world: World) -> None:
    client = world.client(tags="a, b", max_tasks=7, min_client="5.0.0", prove_credentials=False)
    assert client.get("/api/configs/service").json()["cli_config"]["min_supported_version"] == "5.0.0"
    workflow = client.get("/api/configs/workflow").json()
    assert (workflow["workflow_info"], workflow["max_num_tasks"]) == ({"tags": ["a", "b"]}, 7)
    assert workflow["credential_config"]["disable_data_validation"] is True
    dataset = client.get("/api/configs/dataset").json()
    assert dataset["default_bucket"] in dataset["buckets"]
    backends = client.get("/api/configs/backend").json()["backends"]
    assert [one["name"] for one in backends] == ["local"]
    assert client.get("/api/configs/backend/local").json() == backends[0]
    assert client.get("/api/configs/backend/nope").status_code == 404
    for section in ("service", "workflow", "dataset"):
        for verb, key in (("PUT", "configs"), ("PATCH", "configs_dict")):
            refused = client.request(verb, f"/api/configs/{section}", json={key: {"a": 1}})
            assert refused.status_code == 400 and "config.yaml" in refused.json()["message"]


def test_sections_that_are_not_here_are_empty_and_say_why(client: TestClient) -> None:
    for section, why in (("group_template", "no object of a cluster"), ("backend_test", "osmo doctor")):
        assert client.get(f"/api/configs/{section}").json() == {}
        refused = client.put(f"/api/configs/{section}", json={"configs": {"a": {}}})
        assert (refused.status_code, refused.json()["error_code"]) == (400, "USAGE") and why in refused.json()[
            "message"
        ]
    refused = client.put("/api/configs/pool/default/rename", json={"new_name": "x"})
    assert refused.status_code == 400 and "registers its backend" in refused.json()["message"]


def test_what_held_at_a_moment_is_asked_with_a_blank_and_microseconds(world: World, client: TestClient) -> None:
    """As the original's client writes it; not together with the other two limits."""
    put(client, "pool/default", {"description": "one"})
    world.now += 10
    put(client, "resource_validation/small", [RULE])
    world.now += 10
    put(client, "pool/default", {"description": "two"})
    moment = datetime.fromtimestamp(world.now - 5, UTC).strftime("%Y-%m-%d %H:%M:%S.%f")
    found = client.get("/api/configs/history", params={"at_timestamp": moment}).json()["configs"]
    assert {(c["config_type"], c["revision"]) for c in found} == {("POOL", 1), ("RESOURCE_VALIDATION", 1)}
    both = {"at_timestamp": moment, "created_after": "2026-01-01T00:00:00"}
    assert client.get("/api/configs/history", params=both).status_code == 400
