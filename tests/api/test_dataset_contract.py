"""The contract of buckets, datasets and collections, over real HTTP: every line of it as the original's client asks."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from osmo_ray.objects import datasets as stored
from osmo_ray.objects import scope
from osmo_ray.objects.datasets import Dataset
from osmo_ray.objects.datasets.bucket import Bucket
from osmo_ray.objects.datasets.dataset import About
from osmo_ray.providers.buckets import Place
from tests.api.wire import Wire, serve
from tests.api.world import World

INFO = {"name", "id", "bucket", "created_by", "created_date", "hash_location", "hash_location_size", "labels", "type"}
VERSION = {
    *("name", "version", "status", "created_by", "created_date", "last_used", "size", "checksum", "location", "uri"),
    *("metadata", "tags", "collections"),
}
ENTRY = {
    *("name", "id", "bucket", "create_time", "last_created", "hash_location", "hash_location_size", "version_id"),
    "type",
}
D = "/api/bucket/default/dataset"


@pytest.fixture
def wire(world: World) -> Iterator[Wire]:
    with serve(world) as made:
        yield made


def bucket(wire: Wire) -> Bucket:
    return wire.world.services.buckets.open(wire.world.services.buckets.place("default"))


def make(wire: Wire, name: str, *texts: str, by: str = "ann") -> Dataset:
    """A dataset with a version for each text."""
    dataset = Dataset(bucket(wire), name, create=True)
    for text in texts:
        file = wire.world.folder / "x.txt"
        file.write_text(text)
        dataset.upload([file], About(created_by=by))
    return dataset


class Client:
    """The other client's part of an upload: it puts objects and a list into the bucket by itself."""

    def __init__(self, wire: Wire) -> None:
        self.wire = wire

    def begin(self, name: str, *query: tuple[str, str], metadata: dict[str, Any] | None = None) -> Any:
        return self.wire.post(f"{D}/{name}", *query, body={"metadata": metadata or {}})

    def put(self, told: Any, files: dict[str, bytes], *, skip: str = "") -> list[dict[str, Any]]:
        entries = []
        for name, data in sorted(files.items()):
            parts = [data[at : at + (8 << 20)] for at in range(0, len(data), 8 << 20)] or [b""]
            sums = [hashlib.md5(part, usedforsecurity=False).digest() for part in parts]
            etag = sums[0].hex()
            if len(sums) > 1:
                etag = f"{hashlib.md5(b''.join(sums), usedforsecurity=False).hexdigest()}-{len(sums)}"
            path = f"{told['storage_path']}/{etag}"
            if name != skip:
                self.write(path, data)
            entries.append({"relative_path": name, "storage_path": path, "url": "", "size": len(data), "etag": etag})
        self.write(told["manifest_path"], json.dumps(entries).encode())
        return entries

    def write(self, url: str, data: bytes) -> None:
        path = Path(url.removeprefix("file://"))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    def finish(self, name: str, told: Any, *query: tuple[str, str], labels: dict[str, Any] | None = None) -> Any:
        how = (("finish", "True"), ("version_id", told["version_id"]), ("checksum", "c"), ("size", "1"))
        return self.wire.post(f"{D}/{name}", *how, ("update_dataset_size", "1"), *query, body={"labels": labels or {}})


# -- buckets


def test_buckets_and_the_default_one(wire: Wire) -> None:
    found = wire.get("/api/bucket")
    assert found["default"] == "default"
    assert set(found["buckets"]["default"]) == {"path", "description", "mode", "default_cred"}
    assert found["buckets"]["default"]["mode"] == "read-write"
    assert wire.get("/api/bucket", ("default_only", "True")) == {"default": "default", "buckets": {}}


def test_the_place_of_a_bucket(wire: Wire) -> None:
    found = wire.get("/api/bucket/default/location")
    assert set(found) == {"path", "region"} and found["path"].endswith("/storage/buckets/default")
    assert "no bucket 'nowhere'" in wire.refused("GET", "/api/bucket/nowhere/location")["message"]


# -- uploads by the other client [seen]


def test_an_upload_begins_pending_and_becomes_a_version(wire: Wire) -> None:
    client = Client(wire)
    told = client.begin("cats", ("tag", ""), ("description", "mine"), metadata={"robot": "arm"})
    assert set(told) == {"version_id", "region", "storage_path", "manifest_path"}
    assert told["version_id"] == "1" and told["region"] == "us-east-1"
    id = told["storage_path"].split("/")[-2]
    assert len(id) == 22 and told["storage_path"].endswith(f"/{id}/hashes")
    assert told["manifest_path"].endswith(f"/{id}/manifests/1.json")
    assert wire.get(f"{D}/cats/info")["versions"] == []
    pending = wire.get(f"{D}/cats/info", ("all_flag", "True"))["versions"]
    assert [(v["version"], v["status"]) for v in pending] == [("1", "PENDING")]
    wire.refused("GET", f"{D}/cats")
    client.put(told, {"a.txt": b"meow", "sub/b": b"", "large": b"x" * (9 << 20)})
    done = client.finish("cats", told, ("tag", "best"), labels={"kind": {"of": "pets"}})
    assert done == {"version_id": "1", "region": "", "storage_path": "", "manifest_path": ""}
    info = wire.get(f"{D}/cats/info")
    version = info["versions"][0]
    assert set(info) == INFO | {"versions"} and set(version) == VERSION
    assert (info["type"], info["labels"], info["created_by"]) == ("DATASET", {"kind": {"of": "pets"}}, "ann")
    assert (version["status"], version["tags"]) == ("READY", ["best", "latest"])
    assert version["metadata"] == {"robot": "arm", "description": "mine"}
    assert version["size"] == 4 + (9 << 20) and isinstance(version["checksum"], str)
    assert "." not in version["created_date"] and version["created_date"][10] == "T"
    ours = wire.world.folder / "out"
    Dataset(bucket(wire), "cats").download(ours)
    assert (ours / "a.txt").read_bytes() == b"meow" and (ours / "sub" / "b").read_bytes() == b""


def test_what_it_downloads(wire: Wire) -> None:
    client = Client(wire)
    told = client.begin("cats")
    client.put(told, {"a": b"1"})
    client.finish("cats", told)
    found = wire.get(f"{D}/cats", ("tag", "latest"))
    assert found == {
        "dataset_names": ["cats"], "dataset_versions": ["1"], "locations": [told["manifest_path"]],
        "new_locations": [""], "is_collection": False,
    }  # fmt: skip
    assert wire.post(f"{D}/cats/migrate", ("tag", "1")) == found


def test_finishing_twice_is_finishing_once(wire: Wire) -> None:
    client = Client(wire)
    told = client.begin("cats")
    client.put(told, {"a": b"1"})
    assert client.finish("cats", told) == client.finish("cats", told)
    assert len(wire.get(f"{D}/cats/info")["versions"]) == 1


def test_two_uploads_have_two_numbers_whoever_is_first(wire: Wire) -> None:
    client = Client(wire)
    one, two = client.begin("cats"), client.begin("cats")
    assert (one["version_id"], two["version_id"]) == ("1", "2")
    make(wire, "cats", "ours")
    for told in (two, one):
        client.put(told, {"a": told["version_id"].encode()})
        client.finish("cats", told)
    versions = wire.get(f"{D}/cats/info")["versions"]
    assert [v["version"] for v in versions] == ["1", "2", "3"]
    assert [v["tags"] for v in versions] == [[], [], ["latest"]], "latest never moves back"


def test_an_upload_is_resumed_by_its_number(wire: Wire) -> None:
    client = Client(wire)
    told = client.begin("cats")
    assert client.begin("cats", ("resume", "True"), ("tag", "1")) == told
    wire.refused("POST", f"{D}/cats", ("resume", "True"), ("tag", "7"), body={})
    wire.refused("POST", f"{D}/cats", ("resume", "True"), ("tag", "best"), body={})


def test_an_upload_that_is_not_whole_is_no_version(wire: Wire) -> None:
    client = Client(wire)
    told = client.begin("cats")
    how = (("finish", "True"), ("version_id", "1"))
    assert "manifests/1.json" in wire.refused("POST", f"{D}/cats", *how, body={})["message"]
    entries = client.put(told, {"a": b"1", "b": b"2"}, skip="b")
    assert "was not uploaded" in wire.refused("POST", f"{D}/cats", *how, body={})["message"]
    client.write(entries[1]["storage_path"], b"3")
    assert "not what its name says" in wire.refused("POST", f"{D}/cats", *how, body={})["message"]
    for name, told_path in (("../../x", entries[0]["storage_path"]), ("a", "s3://elsewhere/a")):
        wrong = {**entries[0], "relative_path": name, "storage_path": told_path}
        client.write(told["manifest_path"], json.dumps([wrong]).encode())
        assert wire.refused("POST", f"{D}/cats", *how, body={})["message"]
    assert wire.get(f"{D}/cats/info")["versions"] == []


def test_a_number_is_no_tag(wire: Wire) -> None:
    assert "read as a version" in wire.refused("POST", f"{D}/cats", ("tag", "3"), body={})["message"]


# -- reading


def test_info_takes_the_newest_and_then_orders(wire: Wire) -> None:
    make(wire, "cats", "1", "2", "3")
    versions = wire.get(f"{D}/cats/info", ("count", "2"))["versions"]
    assert [v["version"] for v in versions] == ["2", "3"]
    versions = wire.get(f"{D}/cats/info", ("count", "2"), ("order", "DESC"))["versions"]
    assert [v["version"] for v in versions] == ["3", "2"]
    assert [v["version"] for v in wire.get(f"{D}/cats/info", ("tag", "1"))["versions"]] == ["1"]
    wire.refused("GET", f"{D}/cats/info", ("tag", "9"))
    wire.refused("GET", f"{D}/dogs/info")


def test_the_list_and_its_filters(wire: Wire) -> None:
    make(wire, "cats", "1")
    make(wire, "dogs", "2", by="bob")
    make(wire, "catfish", "3", by="bob")
    wire.post(f"{D}/both/collect", body={"datasets": [{"name": "cats", "tag": "1"}]})

    def names(*query: tuple[str, str]) -> list[str]:
        found = wire.get("/api/bucket/list_dataset", *query)["datasets"]
        assert all(set(entry) == ENTRY for entry in found)
        return sorted(entry["name"] for entry in found)

    assert names() == ["both", "cats"], "one's own, and collections"
    assert names(("all_users", "True")) == ["both", "catfish", "cats", "dogs"]
    assert names(("user", "bob"), ("dataset_type", "DATASET")) == ["catfish", "dogs"]
    assert names(("all_users", "True"), ("name", "cat")) == ["catfish", "cats"]
    assert names(("all_users", "True"), ("dataset_type", "COLLECTION")) == ["both"]
    assert names(("all_users", "True"), ("buckets", "default"), ("count", "1")) != []
    assert names(("all_users", "True"), ("latest_before", "2001-01-01")) == []
    assert len(names(("all_users", "True"), ("latest_after", "2001-01-01"))) == 4
    wire.refused("GET", "/api/bucket/list_dataset", ("latest_after", "soon"))
    wire.refused("GET", "/api/bucket/list_dataset", ("buckets", "nowhere"))


def test_queries(wire: Wire) -> None:
    make(wire, "cats", "1", "2").label({"kind": "pets"})
    make(wire, "dogs", "1", by="bob").describe("1", {"score": 7})
    asked = wire.get("/api/bucket/default/query", ("command", 'label.kind = "pets"'))
    assert asked["type"] == "DATASET" and [d["name"] for d in asked["datasets"]] == ["cats"]
    asked = wire.get("/api/bucket/default/query", ("command", 'metadata.score > 3 and user = "bob"'))
    assert asked["type"] == "VERSION" and [(d["name"], d["version"]) for d in asked["datasets"]] == [("dogs", "1")]
    assert wire.refused("GET", "/api/bucket/default/query", ("command", 'name = "x"'))["error_code"] == "USER"
    assert "ends where" in wire.refused("GET", "/api/bucket/default/query", ("command", "name ="))["message"]


# -- changes


def test_tags_labels_and_metadata(wire: Wire) -> None:
    make(wire, "cats", "1", "2")
    told = wire.post(f"{D}/cats/attribute", ("tag", "1"), ("set_tag", "a"), ("set_tag", "b"))
    assert told == {
        "tag_response": {"version_id": "1", "tags": ["a", "b"]}, "label_response": None, "metadata_response": None
    }  # fmt: skip
    told = wire.post(f"{D}/cats/attribute", ("tag", "2"), ("set_tag", "a"), ("delete_tag", "b"))
    assert told["tag_response"] == {"version_id": "2", "tags": ["a"]}
    for wrong in ("latest", "12"):
        wire.refused("POST", f"{D}/cats/attribute", ("set_tag", wrong))
    told = wire.post(f"{D}/cats/attribute", body={"set_label": {"a": {"b": 1, "c": 2}}})
    assert told["label_response"] == {"metadata": {"a": {"b": 1, "c": 2}}}
    told = wire.post(f"{D}/cats/attribute", ("delete_label", "a.b"), body={"set_label": {"d": [1]}})
    assert told["label_response"] == {"metadata": {"a": {"c": 2}, "d": [1]}}
    told = wire.post(f"{D}/cats/attribute", ("tag", "1"), body={"set_metadata": {"x": 1, "y": 2}})
    told = wire.post(f"{D}/cats/attribute", ("tag", "1"), ("delete_metadata", "x"))
    assert told["metadata_response"] == {"metadata": {"y": 2}}
    wire.refused("POST", f"{D}/cats/attribute", body={"set_metadata": {"x": 1}})


def test_another_name(wire: Wire) -> None:
    make(wire, "cats", "1")
    make(wire, "dogs", "1")
    wire.post(f"{D}/cats/attribute", ("new_name", "tigers"))
    assert wire.get(f"{D}/tigers/info")["versions"][0]["version"] == "1"
    wire.refused("GET", f"{D}/cats/info")
    wire.refused("POST", f"{D}/tigers/attribute", ("new_name", "dogs"))


def test_collections(wire: Wire) -> None:
    make(wire, "cats", "1", "2")
    make(wire, "dogs", "1")
    members = [{"name": "cats", "tag": "1"}, {"name": "dogs", "tag": "latest"}]
    assert wire.post(f"{D}/both/collect", body={"datasets": members}) is None
    wire.refused("POST", f"{D}/both/collect", body={"datasets": members})
    found = wire.get(f"{D}/both")
    assert found["is_collection"] and found["dataset_names"] == ["cats", "dogs"]
    info = wire.get(f"{D}/both/info")
    assert info["type"] == "COLLECTION"
    assert set(info["versions"][0]) == {"name", "version", "location", "uri", "hash_location", "size"}
    assert wire.get(f"{D}/cats/info", ("tag", "1"))["versions"][0]["collections"] == ["both"]
    wire.refused("POST", f"{D}/both/recollect", body={"add_datasets": [{"name": "cats", "tag": "2"}]})
    change = {"add_datasets": [{"name": "cats", "tag": "2"}], "remove_datasets": [{"name": "cats", "tag": "1"}]}
    told = wire.post(f"{D}/both/recollect", body=change)
    assert told == {
        "versions": [{"dataset_name": "cats", "version": "2"}, {"dataset_name": "dogs", "version": "1"}]
    }  # fmt: skip
    gone = {"remove_datasets": [{"name": "cats", "tag": "2"}, {"name": "dogs", "tag": "1"}]}
    assert wire.post(f"{D}/both/recollect", body=gone) == {"versions": []}
    wire.refused("GET", f"{D}/both")


def test_deleting_marks_then_finishes(wire: Wire) -> None:
    make(wire, "cats", "1", "2")
    wire.post(f"{D}/both/collect", body={"datasets": [{"name": "cats", "tag": "2"}]})
    told = wire.call("DELETE", f"{D}/cats", (("tag", "2"), ("name", "cats"))).json
    assert told == {"versions": ["2"], "delete_locations": [], "cleaned_size": 1}
    wire.refused("GET", f"{D}/both")
    assert wire.get(f"{D}/cats/info")["versions"][0]["tags"] == ["latest"]
    shown = wire.get(f"{D}/cats/info", ("all_flag", "True"))["versions"]
    assert [v["status"] for v in shown] == ["READY", "PENDING_DELETE"]
    told = wire.call("DELETE", f"{D}/cats", (("all_flag", "True"),)).json
    assert told["versions"] == ["1"] and told["delete_locations"][0].endswith("/hashes")
    wire.call("DELETE", f"{D}/cats", (("finish", "True"),))
    wire.refused("GET", f"{D}/cats/info")


def test_a_bucket_that_is_only_read(world: World, tmp_path: Path) -> None:
    text = json.dumps({"shelf": {"path": tmp_path.as_uri(), "mode": "read-only"}})
    with serve(world, buckets=text) as wire:
        assert wire.get("/api/bucket")["buckets"]["shelf"]["mode"] == "read-only"
        for method, more in (("POST", ""), ("DELETE", ""), ("POST", "/attribute")):
            told = wire.refused(method, f"/api/bucket/shelf/dataset/x{more}", body={} if method == "POST" else None)
            assert "read-only" in told["message"]
        assert "read-only" in wire.refused("POST", "/api/x/bucket/shelf/access")["message"]


def test_the_way_into_a_bucket_is_for_that_bucket_alone(world: World) -> None:
    world.services = replace(world.services, gateway_key=b"k" * 32)
    with serve(world) as wire:
        told = wire.get("/api/x/bucket/default/access")
        url, _, token = told["url"].partition("#")
        assert url.startswith("osmo+http://127.0.0.1") and url.endswith("/buckets/default") and told["user"] == "ann"
        now = 0.0
        scope.check(b"k" * 32, token, scope.READ, "buckets/default/x", now)
        for verb, key in ((scope.WRITE, "buckets/default/x"), (scope.READ, "workflows/x")):
            with pytest.raises(scope.BadToken):
                scope.check(b"k" * 32, token, verb, key, now)
        token = wire.post("/api/x/bucket/default/access")["url"].partition("#")[2]
        scope.check(b"k" * 32, token, scope.WRITE, "buckets/default/x", now)


# -- pages and the index


def test_pages_of_lists_and_queries(wire: Wire) -> None:
    for n in range(5):
        make(wire, f"d{n}", "x")

    def names(*query: tuple[str, str]) -> list[str]:
        return [d["name"] for d in wire.get("/api/bucket/list_dataset", ("all_users", "True"), *query)["datasets"]]

    every = names(("order", "DESC"))
    pages = [names(("order", "DESC"), ("count", "2"), ("offset", str(at))) for at in (0, 2, 4, 6)]
    assert [name for page in pages for name in page] == every and [len(page) for page in pages] == [2, 2, 1, 0]
    route = ("/api/bucket/default/query", ("command", 'name CONTAINS "d" ORDER BY name LIMIT 4'))
    first, second = (wire.get(*route, ("count", "3"), ("offset", str(at)))["datasets"] for at in (0, 3))
    assert [d["name"] for d in (*first, *second)] == ["d0", "d1", "d2", "d3"]
    assert wire.get(*route, ("offset", "4"))["datasets"] == []


def test_the_index_is_told_and_rebuilt(wire: Wire) -> None:
    make(wire, "cats", "a", "b")
    stored.catalog.collect(bucket(wire), "both", [("cats", 1)])
    assert wire.post("/api/x/bucket/default/dataset/cats/index") is None
    assert wire.post("/api/x/bucket/default/dataset/nobody/index") is None
    told = wire.get("/api/x/bucket/default/index")
    assert (told["datasets"], told["versions"], told["collections"], told["size"]) == (1, 2, 1, 2)
    with wire.world.store.database.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE datasets SET name = 'dogs' WHERE name = 'cats'")
    again = wire.post("/api/x/bucket/default/index")
    assert (again["datasets"], again["changed"], again["wrong"]) == (1, 1, [])
    assert "no bucket" in wire.refused("POST", "/api/x/bucket/nowhere/index")["message"]


def test_a_renamed_dataset_stays_in_its_collections(wire: Wire) -> None:
    make(wire, "cats", "a")
    wire.post(f"{D}/both/collect", body={"datasets": [{"name": "cats", "tag": "1"}]})
    wire.post(f"{D}/cats/attribute", ("new_name", "tigers"))
    assert [m["name"] for m in wire.get(f"{D}/both/info")["versions"]] == ["tigers"]
    assert wire.get(f"{D}/tigers/info")["versions"][0]["collections"] == ["both"]


def test_a_bucket_that_cannot_be_reached_hides_no_other(wire: Wire) -> None:
    make(wire, "cats", "a")
    away = Place("away", f"file://{wire.world.folder}/osmo.db/x")
    services = wire.world.services
    services.buckets.places = {**services.buckets.places, "away": away}
    found = wire.get("/api/bucket/list_dataset", ("all_users", "True"))["datasets"]
    assert [d["name"] for d in found] == ["cats"]
    wire.refused("GET", "/api/bucket/list_dataset", ("buckets", "away"))
