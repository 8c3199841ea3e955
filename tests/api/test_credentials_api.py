"""Credentials from the API to the plan that a node gets: checked with their place, sealed, masked, never stored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from starlette.testclient import TestClient

from osmo_ray.control.credentials import Purse, wanted
from osmo_ray.engine.plans import PoolRules, group_plan
from osmo_ray.providers.proofs import Unproven
from osmo_ray.spec.attempt import DataKey, FilePlan, RegistryLogin, Secrets
from tests.api.world import World

POST = "/api/pool/default/workflow"
SPEC = """workflow:
  name: hidden
  tasks:
  - name: a
    image: registry.example:5000/tool:1
    command: [env]
    credentials:
      keys:
        TOKEN: token
      folder: /secrets/here
"""


def put(client: TestClient, name: str, body: dict[str, Any]) -> None:
    assert client.post(f"/api/credentials/{name}", json=body).status_code == 200


def generic(**values: str) -> dict[str, Any]:
    return {"generic_credential": {"credential": values}}


def fill(world: World, name: str) -> Secrets:
    """What the first attempt of a workflow would get."""
    world.start(name, "a")
    workflow = world.store.find(name)
    assert workflow is not None
    plan = group_plan(workflow, workflow.groups[0], PoolRules())
    spec = workflow.spec.groups[0]
    assert wanted(spec)
    return Purse(world.store, world.vault).fill(workflow.user, spec, plan).attempts[0].secrets


def test_an_absent_credential_is_told_with_its_line(client: TestClient) -> None:
    put(client, "key", generic(token="t"))
    reply = client.post(POST, json={"file": SPEC})
    assert (reply.status_code, reply.json()["error_code"]) == (400, "CREDENTIAL")
    first, second = reply.json()["problems"]
    assert (first["line"], first["message"], first["hint"]) == (
        8,
        "you have no credential 'keys'",
        "did you mean 'key'?",
    )
    assert (second["line"], second["hint"]) == (10, "set it with: osmo credential set folder")
    assert client.post(POST, params={"validation_only": True}, json={"file": SPEC}).status_code == 400


def test_an_absent_key_is_told_with_those_that_there_are(client: TestClient) -> None:
    put(client, "keys", generic(tok="t", other="o"))
    put(client, "folder", generic(x="y"))
    problem = client.post(POST, json={"file": SPEC}).json()["problems"][0]
    assert (problem["line"], problem["message"]) == (9, "the credential 'keys' has no key 'token'")
    assert problem["hint"] == "its keys are other, tok"


def test_the_plan_gets_them_and_nothing_stored_does(world: World, client: TestClient) -> None:
    put(client, "keys", generic(token="t0ken-of-ann"))
    put(client, "folder", generic(pem="line one\nline two", id="7"))
    put(
        client,
        "pull",
        {"registry_credential": {"registry": "registry.example:5000", "username": "u", "auth": "pa55word"}},
    )
    data = {"endpoint": "s3://b/", "access_key_id": "i", "access_key": "data-key", "override_url": "http://127.0.0.1:9"}
    put(client, "s3", {"data_credential": data})
    name = client.post(POST, json={"file": SPEC}).json()["name"]
    given = fill(world, name)
    assert given.environment == {"TOKEN": "t0ken-of-ann"}
    assert set(given.files) == {
        FilePlan("/secrets/here/pem", "line one\nline two"), FilePlan("/secrets/here/id", "7"),
    }  # fmt: skip
    assert given.registry == RegistryLogin("registry.example:5000", "u", "pa55word")
    assert given.data == (DataKey("s3://b", "i", "data-key", "", "http://127.0.0.1:9"),)
    assert set(given.masked) == {"t0ken-of-ann", "line one\nline two", "7", "pa55word", "data-key"}
    assert "t0ken" not in repr(given)
    for path in world.folder.rglob("*"):
        if path.is_file():
            assert b"t0ken-of-ann" not in path.read_bytes(), path


def test_a_credential_that_went_since_is_said_to_be_missing(world: World, client: TestClient) -> None:
    put(client, "keys", generic(token="t"))
    put(client, "folder", generic(x="y"))
    name = client.post(POST, json={"file": SPEC}).json()["name"]
    client.delete("/api/credentials/folder")
    assert "credential 'folder'" in fill(world, name).missing


def test_a_secret_written_into_a_file_is_masked_when_it_is_read(world: World, client: TestClient) -> None:
    put(client, "keys", generic(token="t0ken-of-ann"))
    text = "workflow:\n  name: x\n  tasks:\n  - {name: a, image: i, command: [echo, t0ken-of-ann]}\n"
    name = client.post(POST, json={"file": text}).json()["name"]
    for query in ({}, {"use_template": True}):
        spec = client.get(f"/api/workflow/{name}/spec", params=query).text
        assert "[MASKED]" in spec and "t0ken" not in spec


def test_a_ray_program_gets_no_credentials(client: TestClient) -> None:
    put(client, "keys", generic(token="t"))
    put(client, "folder", generic(x="y"))
    reply = client.post(POST, json={"file": SPEC + "    ray: {}\n"})
    assert reply.json()["error_code"] == "CREDENTIAL" and "Ray program" in reply.json()["message"]


def test_what_was_set_a_moment_ago_is_there(world: World, client: TestClient) -> None:
    for credential, value in (("keys", "old"), ("folder", "f")):
        put(client, credential, generic(token=value))
    name = str(client.post(POST, json={"file": SPEC}).json()["name"])
    world.start(name, "a")
    workflow = world.store.find(name)
    assert workflow is not None
    purse = Purse(world.store, world.vault)
    purse.data_keys(workflow.user)  # which is remembered for a moment
    put(client, "keys", generic(token="new"))
    plan = group_plan(workflow, workflow.groups[0], PoolRules())
    found = purse.fill(workflow.user, workflow.spec.groups[0], plan).attempts[0].secrets
    assert found.environment == {"TOKEN": "new"}


def test_a_credential_that_opens_nothing_is_not_kept(world: World) -> None:
    """Tried before, unless told not to; and generic ones never."""
    tried: list[tuple[str, str]] = []

    def prove(kind: str, profile: str, values: Mapping[str, str]) -> None:
        tried.append((kind, profile))
        raise Unproven(f"the registry {profile} refuses this login (status 401)")

    world.services = replace(world.services, prove=prove)
    client = world.client()
    body = {"registry_credential": {"registry": "nvcr.io", "username": "u", "auth": "hidden"}}
    refused = client.post("/api/credentials/nv", json=body)
    assert (refused.status_code, refused.json()["error_code"]) == (400, "CREDENTIAL")
    assert "refuses this login" in refused.json()["message"] and "--no-check" in refused.json()["message"]
    assert "hidden" not in refused.text and client.get("/api/credentials").json() == {"credentials": []}
    assert client.post("/api/credentials/nv", params={"check": False}, json=body).status_code == 200
    put(client, "plain", generic(token="t"))
    assert tried == [("REGISTRY", "nvcr.io")]
