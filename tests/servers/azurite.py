"""Azure's blob storage as a process of a test, installed by `tests/servers/install.sh azurite`."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

ACCOUNT = "testing"
KEY = "dGVzdGluZ3Rlc3Rpbmd0ZXN0aW5ndGVzdGluZw=="
INSTALL = Path(__file__).with_name("install.sh")


@contextmanager
def azurite(folder: Path, host: str = "127.0.0.1") -> Iterator[str]:
    """Its address, `http://host:port/account`."""
    with socket.create_server((host, 0)) as probe:
        port = int(probe.getsockname()[1])
    where = ["--blobHost", host, "--blobPort", str(port), "--location", str(folder)]
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            [_program(), *where, "--silent", "--skipApiVersionCheck", "--disableTelemetry"],
            stdout=log, stderr=log, env={**os.environ, "AZURITE_ACCOUNTS": f"{ACCOUNT}:{KEY}"},
        )  # fmt: skip
    try:
        _wait(server, (host, port), folder / "log")
        yield f"http://{host}:{port}/{ACCOUNT}"
    finally:
        server.terminate()
        server.wait(30)


def _program() -> str:
    """A test that was selected fails when it is not there."""
    match = re.search(r"^AZURITE=(\S+)$", INSTALL.read_text(), re.M)
    assert match is not None
    tools = Path(os.environ.get("OSMO_TOOLS") or Path.home() / ".cache" / "osmo-ray" / "tools")
    found = tools / f"azurite-{match[1]}" / "node_modules" / ".bin" / "azurite-blob"
    if not found.exists():
        pytest.fail(f"{found} is missing; run {INSTALL} azurite")
    return str(found)


def _wait(server: subprocess.Popen[bytes], address: tuple[str, int], log: Path) -> None:
    deadline = time.monotonic() + 60
    while True:
        with contextlib.suppress(OSError):
            socket.create_connection(address, 1).close()
            return
        if server.poll() is not None or time.monotonic() > deadline:
            pytest.fail(f"azurite does not answer:\n{log.read_text()[-2000:]}")
        time.sleep(0.05)
