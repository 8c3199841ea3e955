"""Archives of code: named by their contents, refused when they are not what they are called, there before work is."""

from __future__ import annotations

import hashlib

from starlette.testclient import TestClient

from osmo_ray.api.routes import code
from osmo_ray.runtime.transfer import read_manifest
from tests.api.world import World

DATA = b"PK" + bytes(range(256)) * 40
DIGEST = hashlib.sha256(DATA).hexdigest()
SPEC = f"""workflow:
  name: py
  tasks:
  - name: a
    image: python:3.12
    command: [python3, "{{{{input:0}}}}/code.zip"]
    inputs: [{{code: {DIGEST}}}]
"""
POST = "/api/pool/default/workflow"


def test_an_archive_is_kept_as_an_input_of_tasks(world: World, client: TestClient) -> None:
    path = f"/api/x/code/{DIGEST}"
    assert client.head(path).status_code == 404
    reply = client.put(path, content=DATA)
    assert reply.status_code == 200 and reply.json() == {"digest": DIGEST, "size": len(DATA)}
    assert client.head(path).status_code == 200 and client.put(path, content=DATA).status_code == 200
    tree = read_manifest(world.objects, f"code/{DIGEST}")
    assert [(f.path, f.size) for f in tree.files] == [("code.zip", len(DATA))]
    assert world.objects.read(f"code/{DIGEST}/code.zip") == DATA


def test_other_bytes_and_other_names_are_refused_and_leave_nothing(world: World, client: TestClient) -> None:
    reply = client.put(f"/api/x/code/{DIGEST}", content=DATA + b"!")
    assert reply.status_code == 400 and "SHA-256 is" in reply.json()["message"]
    for name in ("x", DIGEST.upper(), DIGEST[:-1], f"{DIGEST}0"):
        assert client.put(f"/api/x/code/{name}", content=DATA).status_code == 400
        assert client.head(f"/api/x/code/{name}").status_code == 404
    assert not list(world.objects.list("code"))


def test_an_archive_has_a_limit_of_its_own(world: World, client: TestClient) -> None:
    large = bytes(25 << 20)  # more than other requests may have
    assert client.put(f"/api/x/code/{hashlib.sha256(large).hexdigest()}", content=large).status_code == 200
    before, code.MAX_ARCHIVE = code.MAX_ARCHIVE, 1000
    try:
        assert client.put(f"/api/x/code/{DIGEST}", content=DATA).status_code == 413
    finally:
        code.MAX_ARCHIVE = before


def test_work_whose_code_is_not_here_is_refused(world: World, client: TestClient) -> None:
    reply = client.post(POST, json={"file": SPEC})
    assert reply.status_code == 400 and f"The code {DIGEST} is not here" in reply.json()["message"]
    client.put(f"/api/x/code/{DIGEST}", content=DATA)
    assert client.post(POST, json={"file": SPEC}).status_code == 200


def test_the_schema_of_the_language_is_served(client: TestClient) -> None:
    schema = client.get("/api/x/schema").json()
    assert schema["$schema"].endswith("2020-12/schema") and "workflow" in schema["properties"]
