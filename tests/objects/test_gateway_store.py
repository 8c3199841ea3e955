"""The storage gateway, both ends, over a real server on loopback."""

from __future__ import annotations

import http.client
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvicorn
from fastapi import FastAPI
from store_contract import ObjectStoreContract

from osmo_ray.api.gateway import gateway
from osmo_ray.objects import open_store, scope
from osmo_ray.objects.gateway import GatewayStore
from osmo_ray.objects.local import LocalStore
from osmo_ray.objects.protocol import NoSuchObject, ObjectError

KEY = b"k" * 32


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, LocalStore]]:
    """(host:port, the folder behind it)."""
    folder = LocalStore(tmp_path_factory.mktemp("gateway"), durable=False)
    app = FastAPI()
    app.include_router(gateway(folder, KEY))
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="error"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    yield f"127.0.0.1:{listener.getsockname()[1]}", folder
    server.should_exit = True
    thread.join()
    listener.close()


@pytest.fixture
def prefix(request: pytest.FixtureRequest) -> str:
    return f"tests/{abs(hash(request.node.nodeid))}"


def token(prefix: str, verbs: str = scope.ALL, ttl: float = 60.0) -> str:
    return scope.grant(KEY, verbs, prefix, time.time() + ttl)


@pytest.fixture
def store(served: tuple[str, LocalStore], prefix: str) -> GatewayStore:
    opened = open_store(f"osmo+http://{served[0]}/{prefix}", token=token(f"{prefix}/"))
    assert isinstance(opened, GatewayStore)
    return opened


class TestGatewayStore(ObjectStoreContract):
    def test_it_is_the_folder_behind(self, store: GatewayStore, served: tuple[str, LocalStore], prefix: str) -> None:
        store.write("a b%/ü", b"x")
        assert served[1].read(f"{prefix}/a b%/ü") == b"x"

    def test_a_token_is_good_for_its_prefix_only(self, store: GatewayStore, served: tuple[str, LocalStore]) -> None:
        host, folder = served
        folder.write("other/secret", b"s")
        outside = GatewayStore(f"osmo+http://{host}", token=store._token)
        for ask in (
            lambda: outside.read("other/secret"),
            lambda: outside.stat("other/secret"),
            lambda: outside.write("other/x", b""),
            lambda: outside.create("other/x", b""),
            lambda: outside.delete(["other/secret"]),
            lambda: list(outside.list("other")),
            lambda: list(outside.list("")),
        ):
            with pytest.raises(ObjectError, match=r"only|refused") as told:
                ask()
            assert told.value.permanent
        assert folder.read("other/secret") == b"s"
        assert [i.key for i in folder.list("other")] == ["other/secret"]

    def test_ways_out_of_the_prefix_are_closed(self, served: tuple[str, LocalStore], prefix: str) -> None:
        host, folder = served
        folder.write("other/secret", b"s")
        for path in (
            f"{prefix}/../other/secret",
            f"{prefix}/%2e%2e/%2e%2e/other/secret",
            f"{prefix}%2f..%2fother/secret",
        ):
            connection = http.client.HTTPConnection(host)
            connection.request(
                "GET", f"/api/x/storage/{path}", headers={"Authorization": f"Bearer {token(prefix + '/')}"}
            )
            assert connection.getresponse().status in (400, 403, 404)
            connection.close()

    def test_without_a_token(self, served: tuple[str, LocalStore]) -> None:
        for bad, status in (("", 401), ("rubbish", 403), (token("x/", ttl=-1), 403)):
            connection = http.client.HTTPConnection(served[0])
            connection.request("GET", "/api/x/storage/x/y", headers={"Authorization": f"Bearer {bad}"})
            assert connection.getresponse().status == status
            connection.close()

    def test_verbs_are_kept_apart(self, served: tuple[str, LocalStore], prefix: str) -> None:
        host, folder = served
        folder.write(f"{prefix}/k", b"1")
        reader = GatewayStore(f"osmo+http://{host}/{prefix}", token=token(f"{prefix}/", "r"))
        assert reader.read("k") == b"1"
        for ask in (lambda: reader.write("k", b"2"), lambda: reader.delete(["k"]), lambda: list(reader.list(""))):
            with pytest.raises(ObjectError, match="does not allow"):
                ask()
        assert folder.read(f"{prefix}/k") == b"1"

    def test_signed_urls_are_good_for_one_key_and_verb(self, store: GatewayStore) -> None:
        put = urllib.request.Request(store.sign("a b", "PUT", 60), data=b"signed", method="PUT")
        with urllib.request.urlopen(put) as answer:
            assert answer.status == 200
        url = store.sign("a b", "GET", 60)
        with urllib.request.urlopen(url) as answer:
            assert answer.read() == b"signed"
            assert answer.headers["Content-Disposition"] == "attachment"
        store.write("a bc", b"")
        for bad in (url.replace("a%20b", "a%20bc"), store.sign("a b", "GET", -1)):
            with pytest.raises(urllib.error.HTTPError) as told:
                urllib.request.urlopen(bad)
            assert told.value.code == 403
        with pytest.raises(urllib.error.HTTPError) as told:
            urllib.request.urlopen(urllib.request.Request(url, data=b"x", method="PUT"))
        assert told.value.code == 403

    def test_an_upload_that_breaks_off_leaves_the_old_object(
        self, store: GatewayStore, served: tuple[str, LocalStore], prefix: str
    ) -> None:
        store.write("k", b"old")
        host, port = served[0].split(":")
        with socket.create_connection((host, int(port))) as raw:
            head = f"PUT /api/x/storage/{prefix}/k HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n"
            raw.sendall(f"{head}Authorization: Bearer {store._token}\r\n\r\npart".encode())
        temporary = served[1].root / ".osmo-tmp"
        assert store.read("k") == b"old"
        deadline = time.monotonic() + 20
        while any(temporary.iterdir()):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert store.read("k") == b"old"

    def test_suffix_and_odd_ranges(self, store: GatewayStore) -> None:
        store.write("k", b"0123456789")
        url = store.sign("k", "GET", 60)
        for header, status, want in (
            ("bytes=-3", 206, b"789"),
            ("bytes=2-3", 206, b"23"),
            ("bytes=5-2", 200, b"0123456789"),
            ("lines=1-2", 200, b"0123456789"),
        ):
            with urllib.request.urlopen(urllib.request.Request(url, headers={"Range": header})) as answer:
                assert (answer.status, answer.read()) == (status, want)

    def test_a_reader_sees_one_version(self, served: tuple[str, LocalStore], store: GatewayStore) -> None:
        size = 8 << 20
        store.write("k", b"a" * size)
        with urllib.request.urlopen(store.sign("k", "GET", 60)) as answer:
            first = answer.read(10)
            store.write("k", b"b" * size)
            assert set(first + answer.read()) == {ord("a")}


def test_a_gateway_that_is_gone_may_come_back() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(ObjectError) as told:
        GatewayStore(f"osmo+http://127.0.0.1:{port}", token="x").read("k")
    assert not told.value.permanent


class TestScope:
    def test_who_narrows_cannot_widen(self) -> None:
        wide = scope.grant(KEY, "rw", "a/", 1000)
        narrow = scope.narrow(wide, scope.ALL, "", 5000)
        scope.check(KEY, narrow, "r", "a/x", 999)
        for verb, key, now in (("d", "a/x", 1), ("r", "b/x", 1), ("r", "a/x", 1000), ("r", "a", 1), ("r", "ab/x", 1)):
            with pytest.raises(scope.BadToken):
                scope.check(KEY, narrow, verb, key, now)
        one = scope.narrow(wide, "r", "a/x", 500)
        scope.check(KEY, one, "r", "a/x", 499)
        for verb, key, now in (("w", "a/x", 1), ("r", "a/xy", 1), ("r", "a/x/y", 1), ("r", "a/x", 500)):
            with pytest.raises(scope.BadToken):
                scope.check(KEY, one, verb, key, now)

    def test_limits_cannot_be_taken_away_or_changed(self) -> None:
        wide = scope.grant(KEY, "r", "a/", 1000)
        limits, signature = scope._decode(scope.narrow(wide, "r", "a/x", 500))
        forged = [
            scope._encode(limits[:1], signature),
            scope._encode(limits[1:], signature),
            scope._encode([limits[0].replace("a/", ""), limits[1]], signature),
            scope.grant(b"x" * 32, "r", "", 1000),
            "", "====", "e30", wide[:-2], "ü",
        ]  # fmt: skip
        for bad in forged:
            with pytest.raises(scope.BadToken):
                scope.check(KEY, bad, "r", "a/x", 1)

    def test_weak_keys_and_unknown_verbs_are_refused(self) -> None:
        with pytest.raises(ValueError, match="16 bytes"):
            scope.grant(b"short", "r", "", 1)
        with pytest.raises(ValueError, match="letters"):
            scope.grant(KEY, "x", "", 1)


def test_not_found_is_told_apart(store: GatewayStore, tmp_path: Path) -> None:
    with pytest.raises(NoSuchObject):
        store.download("none", tmp_path / "t")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "url", ["osmo+http://", "osmo+http://user@host/x", "osmo+http://host/x?token=1", "osmo+http://host/../x"]
)
def test_bad_urls_are_refused(url: str) -> None:
    with pytest.raises(ObjectError) as told:
        open_store(url, token="t")
    assert told.value.permanent


def test_a_token_is_needed() -> None:
    with pytest.raises(ObjectError, match="needs a token"):
        open_store("osmo+http://host:1/x")
