"""Credentials are tried: against an S3 server that checks keys, a real registry, and one that gives tokens."""

from __future__ import annotations

import base64
import json
import os
import socket
import subprocess
import threading
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from adlfs import AzureBlobFileSystem
from moto.server import ThreadedMotoServer

from osmo_ray.providers import proofs
from osmo_ray.providers.proofs import Unproven, prove
from tests.servers.azurite import ACCOUNT, KEY, azurite

USER, WORD = "ann", "right"
HASHED = "$2b$05$Hnr7kY8oAM77l9fzyq3PVOvQWWjUu3VsWsiJ4.zdmDCVU/1FZlBDa"  # bcrypt, the only form that registries take
REGISTRY = """version: 0.1
storage: {{filesystem: {{rootdirectory: {folder}/data}}}}
http: {{addr: "127.0.0.1:{port}"}}
auth: {{htpasswd: {{realm: here, path: {folder}/users}}}}
"""


def data(url: str, **more: str) -> dict[str, str]:
    return {"access_key_id": "id", "access_key": "secret", "override_url": url, "region": "us-east-1", **more}


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    for name in [n for n in os.environ if n.startswith("AWS_")]:
        monkeypatch.delenv(name)
    server = ThreadedMotoServer("127.0.0.1", 0)
    server.start()
    host, port = server.get_host_and_port()
    url = f"http://{host}:{port}"
    urllib.request.urlopen(urllib.request.Request(f"{url}/robots", method="PUT"), timeout=10).close()
    yield url
    server.stop()


def test_a_key_that_opens_its_bucket(store: str) -> None:
    prove("DATA", "s3://robots", data(store))
    prove("DATA", "s3://robots/runs", data(store))


def test_a_bucket_that_is_not_there(store: str) -> None:
    with pytest.raises(Unproven, match="no such bucket"):
        prove("DATA", "s3://nowhere", data(store))


def test_a_key_that_is_refused(store: str) -> None:
    """The server begins to check keys, as a real one does."""
    httpx.post(f"{store}/moto-api/reset-auth", content="0").raise_for_status()
    try:
        with pytest.raises(Unproven, match=r"does not open s3://robots \(status 403"):
            prove("DATA", "s3://robots", data(store))
    finally:
        httpx.post(f"{store}/moto-api/reset-auth", content="Infinity").raise_for_status()


def free() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def test_nobody_answers() -> None:
    with pytest.raises(Unproven, match="nobody answers for s3://robots"):
        prove("DATA", "s3://robots", data(f"http://127.0.0.1:{free()}"))
    with pytest.raises(Unproven, match="no registry answers"):
        prove("REGISTRY", f"127.0.0.1:{free()}", {"username": USER, "auth": WORD})


def test_somebody_who_accepts_and_stays_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proofs, "LIMIT", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        where = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(Unproven, match="does not answer within"):
            prove("DATA", "s3://robots", data(where))


def test_what_no_key_opens_is_not_tried(tmp_path: Path) -> None:
    prove("DATA", tmp_path.as_uri(), data(""))
    prove("GENERIC", "", {"a": "b"})


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder, port = tmp_path_factory.mktemp("registry"), free()
    (folder / "users").write_text(f"{USER}:{HASHED}\n")
    (folder / "config.yml").write_text(REGISTRY.format(folder=folder, port=port))
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(["docker-registry", "serve", str(folder / "config.yml")], stdout=log, stderr=log)
    for _ in range(200):
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            break
        except OSError:
            assert process.poll() is None, (folder / "log").read_text()
            threading.Event().wait(0.05)
    yield f"127.0.0.1:{port}"
    process.kill()
    process.wait()


@pytest.mark.servers
def test_a_real_registry_lets_in_whom_it_knows(registry: str) -> None:
    prove("REGISTRY", registry, {"username": USER, "auth": WORD})
    prove("REGISTRY", f"{registry}/team/images", {"username": USER, "auth": WORD})
    with pytest.raises(Unproven, match=r"refuses this login \(status 401"):
        prove("REGISTRY", registry, {"username": USER, "auth": "wrong"})


class TokenRegistry(BaseHTTPRequestHandler):
    """As the large public ones: a token for the login, of a realm that it names."""

    realm = ""

    def do_GET(self) -> None:
        here = urlsplit(self.path)
        given = self.headers.get("Authorization", "")
        if here.path == "/token":
            good = given == "Basic " + base64.b64encode(f"{USER}:{WORD}".encode()).decode()
            good = good and parse_qs(here.query) == {"service": ["images"], "account": [USER]}
            self.answer(200 if good else 401, {"token": "t0"} if good else {})
        elif given == "Bearer t0":
            self.answer(200, {})
        else:
            realm = self.realm or f"http://{self.headers['Host']}/token"
            self.answer(401, {}, f'Bearer realm="{realm}",service="images"')

    def answer(self, code: int, value: object, asks: str = "") -> None:
        self.send_response(code)
        if asks:
            self.send_header("WWW-Authenticate", asks)
        self.end_headers()
        self.wfile.write(json.dumps(value).encode())

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def tokens() -> Iterator[str]:
    TokenRegistry.realm = ""
    server = ThreadingHTTPServer(("127.0.0.1", 0), TokenRegistry)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_a_registry_that_gives_tokens(tokens: str) -> None:
    prove("REGISTRY", tokens, {"username": USER, "auth": WORD})
    with pytest.raises(Unproven, match="refuses this login"):
        prove("REGISTRY", tokens, {"username": USER, "auth": "wrong"})


def test_a_password_is_not_sent_anywhere_in_the_clear(tokens: str) -> None:
    TokenRegistry.realm = "http://collect.example/token"
    with pytest.raises(Unproven, match="not https"):
        prove("REGISTRY", tokens, {"username": USER, "auth": WORD})


@pytest.fixture(scope="module")
def blobs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with azurite(tmp_path_factory.mktemp("azurite")) as url:
        AzureBlobFileSystem(connection_string=connection(url), skip_instance_cache=True).mkdir("robots")
        yield url


def connection(url: str) -> str:
    return f"DefaultEndpointsProtocol=http;AccountName={ACCOUNT};AccountKey={KEY};BlobEndpoint={url};"


@pytest.mark.servers
def test_a_key_of_azure(blobs: str) -> None:
    values = {"access_key_id": ACCOUNT, "access_key": KEY, "override_url": blobs}
    prove("DATA", f"azure://{ACCOUNT}/robots/runs", values)
    with pytest.raises(Unproven, match="no such bucket"):
        prove("DATA", f"azure://{ACCOUNT}/nowhere", values)
    with pytest.raises(Unproven, match="does not open"):
        prove("DATA", f"azure://{ACCOUNT}/robots", {**values, "access_key": "d3Jvbmc="})
