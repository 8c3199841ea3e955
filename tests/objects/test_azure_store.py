"""Azure's blob storage, against azurite. The server is installed by `tests/servers/install.sh azurite`."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import tempfile
import time
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from store_contract import ObjectStoreContract

from osmo_ray.objects import open_store
from osmo_ray.objects.protocol import ObjectError, ObjectStore
from osmo_ray.objects.remote import FsspecStore

pytestmark = pytest.mark.servers

ACCOUNT = "testing"
KEY = "dGVzdGluZ3Rlc3Rpbmd0ZXN0aW5ndGVzdGluZw=="
INSTALL = Path(__file__).parents[1] / "servers" / "install.sh"


def program() -> str:
    """Where the script puts it; tests that were selected fail when it is not there."""
    tools = Path(os.environ.get("OSMO_TOOLS") or Path.home() / ".cache" / "osmo-ray" / "tools")
    match = re.search(r"^AZURITE=(\S+)$", INSTALL.read_text(), re.M)
    assert match is not None
    found = tools / f"azurite-{match[1]}" / "node_modules" / ".bin" / "azurite-blob"
    if not found.exists():
        pytest.fail(f"{found} is missing; run {INSTALL} azurite")
    return str(found)


@pytest.fixture(scope="session")
def connection_string() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder, (Path(folder) / "log").open("w+") as log:
        server = subprocess.Popen(
            [
                *(program(), "--blobHost", "127.0.0.1", "--blobPort", str(port), "--location", folder),
                *("--silent", "--skipApiVersionCheck", "--disableTelemetry"),
            ],
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, "AZURITE_ACCOUNTS": f"{ACCOUNT}:{KEY}"},
        )
        try:
            _wait(server, port, Path(folder) / "log")
            endpoint = f"http://127.0.0.1:{port}/{ACCOUNT}"
            yield f"DefaultEndpointsProtocol=http;AccountName={ACCOUNT};AccountKey={KEY};BlobEndpoint={endpoint};"
        finally:
            server.terminate()
            server.wait()


def _wait(server: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            if server.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"azurite did not start:\n{log.read_text()}")
            time.sleep(0.05)


class TestAzureStore(ObjectStoreContract):
    @pytest.fixture
    def store(self, connection_string: str) -> ObjectStore:
        container = f"c{uuid.uuid4().hex[:12]}"
        store = open_store(f"az://{container}/some/prefix", connection_string=connection_string)
        assert isinstance(store, FsspecStore)
        store._fs.mkdir(container)
        return store

    def test_signed_urls_work_without_credentials(self, store: ObjectStore) -> None:
        headers = {"x-ms-blob-type": "BlockBlob", "Content-Type": "application/octet-stream"}
        put = urllib.request.Request(store.sign("a b", "PUT", 60), data=b"signed", method="PUT", headers=headers)
        with urllib.request.urlopen(put) as answer:
            assert answer.status == 201
        with urllib.request.urlopen(store.sign("a b", "GET", 60)) as answer:
            assert answer.read() == b"signed"


def test_a_missing_container(connection_string: str) -> None:
    store = open_store("az://none", connection_string=connection_string)
    with pytest.raises(ObjectError) as told:
        store.write("k", b"x")
    assert told.value.permanent
