"""Buckets: fsspec's memory store, and S3 against a server in this process."""

from __future__ import annotations

import io
import urllib.request
import uuid
from collections.abc import Iterator

import pytest
from aiohttp.http_exceptions import ContentLengthError
from moto.server import ThreadedMotoServer
from store_contract import ObjectStoreContract

from osmo_ray.objects import faults, open_store
from osmo_ray.objects.protocol import NoSuchObject, ObjectError, ObjectStore
from osmo_ray.objects.remote import FsspecStore

BINARY = {"Content-Type": "application/octet-stream"}
SECRETS = {"key": "testing", "secret": "testing"}


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


def s3_options(endpoint: str) -> dict[str, object]:
    return {**SECRETS, "client_kwargs": {"endpoint_url": endpoint, "region_name": "us-east-1"}}


class TestMemoryStore(ObjectStoreContract):
    @pytest.fixture
    def store(self) -> ObjectStore:
        return open_store(f"memory://{uuid.uuid4().hex}")


class TestS3Store(ObjectStoreContract):
    @pytest.fixture
    def store(self, s3_endpoint: str) -> ObjectStore:
        bucket = f"bucket-{uuid.uuid4().hex[:12]}"
        store = open_store(f"s3://{bucket}/some/prefix", **s3_options(s3_endpoint))
        assert isinstance(store, FsspecStore)
        store._fs.call_s3("create_bucket", Bucket=bucket)
        return store

    def test_a_large_stream_that_breaks_leaves_the_old_object(
        self, store: ObjectStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("osmo_ray.objects.remote._SMALL", 4)
        store.write("k", b"old")
        assert store.write("big", io.BytesIO(b"0123456789")) == 10
        assert store.read("big") == b"0123456789"

        class Broken(io.BytesIO):
            def read(self, size: int | None = -1) -> bytes:
                if self.tell() >= 4:
                    raise RuntimeError("the cable was pulled")
                return super().read(2)

        with pytest.raises(RuntimeError, match="cable"):
            store.write("k", Broken(b"0123456789"))
        assert store.read("k") == b"old"

    def test_signed_urls_work_without_credentials(self, store: ObjectStore) -> None:
        put = urllib.request.Request(store.sign("a b", "PUT", 60), data=b"signed", method="PUT", headers=BINARY)
        with urllib.request.urlopen(put) as answer:
            assert answer.status == 200
        with urllib.request.urlopen(store.sign("a b", "GET", 60)) as answer:
            assert answer.read() == b"signed"
        with pytest.raises(ObjectError, match="GET and PUT"):
            store.sign("a b", "DELETE", 60)

    def test_many_are_deleted_at_once(self, store: ObjectStore) -> None:
        store.write("kept", b"")
        store.delete([f"none/{i}" for i in range(1001)])
        assert [i.key for i in store.list("")] == ["kept"]

    def test_stores_that_ignore_the_condition_say_so(self, store: FsspecStore, monkeypatch: pytest.MonkeyPatch) -> None:
        real = store._fs.pipe_file
        monkeypatch.setattr(store._fs, "pipe_file", lambda path, data, mode="overwrite": real(path, data))
        assert store.conditional is False
        store.create("k", b"1")
        with pytest.raises(ObjectError, match="already exists"):
            store.create("k", b"2")
        assert [i.key for i in store.list("")] == ["k"]


def test_a_missing_bucket(s3_endpoint: str) -> None:
    store = open_store("s3://no-such-bucket-here", **s3_options(s3_endpoint))
    with pytest.raises(ObjectError, match="bucket") as told:
        store.write("k", b"")
    assert told.value.permanent
    with pytest.raises(NoSuchObject):
        store.read("k")


def test_a_server_that_does_not_answer_may_come_back() -> None:
    options = s3_options("http://127.0.0.1:9")
    options["config_kwargs"] = {"retries": {"max_attempts": 0}, "connect_timeout": 1}
    store = open_store("s3://bucket", **options)
    assert isinstance(store, FsspecStore)
    store._fs.retries = 1
    with pytest.raises(ObjectError) as told:
        store.write("k", b"")
    assert not told.value.permanent


class _Azure(Exception):
    def __init__(self, status_code: int) -> None:
        super().__init__("told")
        self.status_code = status_code


class _Boto(Exception):
    def __init__(self, status: int) -> None:
        super().__init__("told")
        self.response = {"ResponseMetadata": {"HTTPStatusCode": status}}


@pytest.mark.parametrize(
    ("error", "permanent"),
    [
        *((_Azure(code), code in (400, 401, 403, 405)) for code in (400, 401, 403, 405, 408, 409, 429, 500, 503)),
        *((_Boto(code), code in (400, 403)) for code in (400, 403, 429, 500, 503)),
        (ConnectionResetError(), False),
        (TimeoutError(), False),
        (PermissionError(), True),
        (ValueError("bad option"), True),
        (type("NoCredentialsError", (Exception,), {})(), True),
        (RuntimeError("unheard of"), False),
        (ContentLengthError("half of it"), False),
    ],
)
def test_what_may_pass(error: Exception, permanent: bool) -> None:
    with pytest.raises(ObjectError) as told, faults.translated("k"):
        raise error
    assert told.value.permanent is permanent
