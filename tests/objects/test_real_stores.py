"""The contract of object stores on real servers (`scripts/test-servers.sh` installs them)."""

from __future__ import annotations

import threading
import urllib.request
import uuid
from dataclasses import dataclass
from pathlib import Path

import pytest
from store_contract import ObjectStoreContract

from osmo_ray.objects import open_store
from osmo_ray.objects.keyed import store_options
from osmo_ray.objects.protocol import ObjectError, ObjectStore
from osmo_ray.objects.remote import FsspecStore
from tests.servers import buckets

pytestmark = pytest.mark.servers


def s3_store(server: buckets.Server, **more: object) -> FsspecStore:
    """An empty place in a bucket of its own."""
    bucket = f"bucket-{uuid.uuid4().hex[:12]}"
    store = open_store(f"s3://{bucket}/some/prefix", **server.options(**more))
    assert isinstance(store, FsspecStore)
    store._fs.call_s3("create_bucket", Bucket=bucket)
    return store


def gcs_store(server: buckets.Server) -> FsspecStore:
    bucket = f"bucket-{uuid.uuid4().hex[:12]}"
    buckets.gcs_bucket(server, bucket)
    store = open_store(f"gs://{bucket}/some/prefix", token="anon", endpoint_url=server.endpoint)
    assert isinstance(store, FsspecStore)
    return store


class TestVersitygw(ObjectStoreContract):
    @pytest.fixture
    def store(self, versitygw: buckets.Server) -> ObjectStore:
        return s3_store(versitygw)

    def test_a_wrong_key_is_refused_for_good(self, versitygw: buckets.Server, store: FsspecStore) -> None:
        bad = open_store(store.url, **versitygw.options(secret="wrong"))
        with pytest.raises(ObjectError) as told:
            bad.write("k", b"x")
        assert told.value.permanent

    def test_signed_urls_work_without_credentials(self, store: ObjectStore) -> None:
        binary = {"Content-Type": "application/octet-stream"}
        put = urllib.request.Request(store.sign("a b", "PUT", 60), data=b"signed", method="PUT", headers=binary)
        urllib.request.urlopen(put).close()
        with urllib.request.urlopen(store.sign("a b", "GET", 60)) as answer:
            assert answer.read() == b"signed"


class TestCeph(ObjectStoreContract):
    @pytest.fixture
    def store(self, ceph: buckets.Server) -> ObjectStore:
        return s3_store(ceph)


class TestGoogle(ObjectStoreContract):
    @pytest.fixture
    def store(self, google: buckets.Server) -> ObjectStore:
        return gcs_store(google)


@dataclass
class Key:
    endpoint: str
    access_key_id: str = buckets.KEY
    access_key: str = buckets.SECRET
    region: str = "us-east-1"
    override_url: str = ""
    addressing: str = ""


@pytest.mark.parametrize("addressing", ["", "path", "auto"])
def test_a_credential_says_where_and_how(versitygw: buckets.Server, addressing: str) -> None:
    there = s3_store(versitygw)
    key = Key(there.url, override_url=versitygw.endpoint, addressing=addressing)
    mine = open_store(there.url, **store_options([key], there.url))
    mine.write("k", b"x")
    assert there.read("k") == b"x"


def test_a_server_that_ignores_conditions_is_found_out(rclone: buckets.Server) -> None:
    """Twelve create one key at once, and more than one believes that it did: so nothing may rely on it here."""
    store = s3_store(rclone)
    assert store.conditional is False
    store.create("k", b"1")
    with pytest.raises(ObjectError, match="already exists"):
        store.create("k", b"2")
    together, won = threading.Barrier(12), []

    def one(number: int) -> None:
        together.wait()
        store._create("race", b"%d" % number)
        won.append(number)

    threads = [threading.Thread(target=one, args=(n,)) for n in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 12, "the server keeps conditions now: it is no negative case any more"


def test_bytes_go_through_any_of_them(rclone: buckets.Server, tmp_path: Path) -> None:
    store = s3_store(rclone)
    store.write("a/b", b"0123456789")
    assert store.read("a/b", 3, 5) == b"34" and [i.key for i in store.list("")] == ["a/b"]
    assert store.download("a/b", tmp_path / "t") == 10
