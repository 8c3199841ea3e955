"""The other client's uploads where it really makes them: in a bucket of S3, by its own connection."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto.server import ThreadedMotoServer

from osmo_ray.objects import open_store
from osmo_ray.objects.datasets import Dataset, open_bucket
from osmo_ray.objects.datasets.collecting import verify
from tests.api.test_dataset_contract import Client
from tests.api.wire import Wire, serve
from tests.api.world import World

D = "/api/bucket/robots/dataset"
KEYS = {"aws_access_key_id": "AKID", "aws_secret_access_key": "secret-key", "region_name": "us-east-1"}


@pytest.fixture
def endpoint() -> Iterator[str]:
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    url = "http://{}:{}".format(*server.get_host_and_port())
    urllib.request.urlopen(f"{url}/moto-api/reset", data=b"").close()  # its memory is the whole process's
    yield url
    server.stop()


@pytest.fixture
def s3(endpoint: str) -> Any:
    found = boto3.client("s3", endpoint_url=endpoint, **KEYS)
    found.create_bucket(Bucket="robots")
    return found


@pytest.fixture
def wire(world: World, s3: Any, endpoint: str) -> Iterator[Wire]:
    with serve(world, buckets=json.dumps({"robots": {"path": "s3://robots/data"}})) as made:
        key = {"endpoint": "s3://robots", "access_key_id": "AKID", "access_key": "secret-key", "region": "us-east-1"}
        made.post("/api/credentials/store", body={"data_credential": {**key, "override_url": endpoint}})
        yield made


class Bucketeer(Client):
    """Puts objects into S3 by the addresses that it was told."""

    def __init__(self, wire: Wire, s3: Any) -> None:
        super().__init__(wire)
        self.s3 = s3

    def begin(self, name: str, *query: tuple[str, str], metadata: dict[str, Any] | None = None) -> Any:
        return self.wire.post(f"{D}/{name}", *query, body={"metadata": metadata or {}})

    def finish(self, name: str, told: Any, *query: tuple[str, str], labels: dict[str, Any] | None = None) -> Any:
        how = (("finish", "True"), ("version_id", told["version_id"]), ("checksum", "c"), ("size", "1"))
        return self.wire.post(f"{D}/{name}", *how, *query, body={"labels": labels or {}})

    def write(self, url: str, data: bytes) -> None:
        bucket, _, key = url.removeprefix("s3://").partition("/")
        self.s3.put_object(Bucket=bucket, Key=key, Body=data)

    def read(self, url: str) -> bytes:
        bucket, _, key = url.removeprefix("s3://").partition("/")
        return bytes(self.s3.get_object(Bucket=bucket, Key=key)["Body"].read())


def test_upload_info_list_tag_download_and_inspect(wire: Wire, s3: Any, endpoint: str, tmp_path: Path) -> None:
    client = Bucketeer(wire, s3)
    files = {"a.txt": b"meow", "sub/b": b"", "large": bytes(range(256)) * 40_000}
    told = client.begin("cats")
    assert told["storage_path"].startswith("s3://robots/data/") and told["region"] == "us-east-1"
    client.put(told, files)
    client.finish("cats", told, ("tag", "best"), labels={"kind": "pets"})
    # info and list
    info = wire.get(f"{D}/cats/info")
    assert info["labels"] == {"kind": "pets"} and [v["tags"] for v in info["versions"]] == [["best", "latest"]]
    found = wire.get("/api/bucket/list_dataset", ("buckets", "robots"))["datasets"]
    assert [(d["name"], d["version_id"], d["hash_location_size"]) for d in found] == [("cats", "1", 4 + 256 * 40_000)]
    # tag
    wire.post(f"{D}/cats/attribute", ("tag", "1"), ("set_tag", "good"))
    assert wire.get(f"{D}/cats/info", ("tag", "good"))["versions"][0]["version"] == "1"
    # download and inspect: it reads the list, then each object, by its own connection
    where = wire.get(f"{D}/cats", ("tag", "good"))["locations"]
    listed = json.loads(client.read(where[0]))
    assert {entry["relative_path"]: client.read(entry["storage_path"]) for entry in listed} == files
    # and it is a version like any other
    store = open_store(
        "s3://robots/data", key="AKID", secret="secret-key", endpoint_url=endpoint,
        client_kwargs={"region_name": "us-east-1"},
    )  # fmt: skip
    ours = Dataset(open_bucket(store), "cats")
    ours.download(tmp_path / "out")
    assert {name: (tmp_path / "out" / name).read_bytes() for name in files} == files
    assert verify(ours.bucket) == []


def test_an_upload_whose_objects_are_wrong_is_refused(wire: Wire, s3: Any) -> None:
    client = Bucketeer(wire, s3)
    told = client.begin("cats")
    entries = client.put(told, {"a": b"1"})
    client.write(entries[0]["storage_path"], b"2")
    how = (("finish", "True"), ("version_id", "1"))
    assert "not what its name says" in wire.refused("POST", f"{D}/cats", *how, body={})["message"]
    assert wire.get(f"{D}/cats/info")["versions"] == []


def test_an_update_is_an_upload_of_both(wire: Wire, s3: Any) -> None:
    """It reads the list of the version below, and sends one that has its entries and new ones."""
    client = Bucketeer(wire, s3)
    first = client.begin("cats")
    old = client.put(first, {"a": b"1", "b": b"2"})
    client.finish("cats", first)
    below = json.loads(client.read(wire.get(f"{D}/cats", ("tag", "latest"))["locations"][0]))
    second = client.begin("cats")
    new = client.put(second, {"c": b"3"})
    client.write(second["manifest_path"], json.dumps([*(e for e in below if e["relative_path"] != "b"), *new]).encode())
    client.finish("cats", second)
    assert old[0] in below
    found = json.loads(client.read(wire.get(f"{D}/cats", ("tag", "2"))["locations"][0]))
    assert [entry["relative_path"] for entry in found] == ["a", "c"]
    assert [v["version"] for v in wire.get(f"{D}/cats/info")["versions"]] == ["1", "2"]
