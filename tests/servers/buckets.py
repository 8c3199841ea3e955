"""Real object stores as processes of a test: S3 (versitygw, Ceph), S3 without conditional writes (rclone), Google's.

`scripts/test-servers.sh` installs them, Ceph from Debian, the others by `tests/servers/install.sh` below OSMO_TOOLS.
Each listens on loopback, lives as long as the `with` block, and is ended by its own pid.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import time
import urllib.request
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

INSTALL = Path(__file__).with_name("install.sh")
KEY, SECRET = "testing", "testing-secret"


@dataclass
class Server:
    """`process` listens at `port`; `start` brings it back on the same port with the same data."""

    command: list[str]
    port: int
    folder: Path
    environment: Mapping[str, str]
    process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def options(self, **more: Any) -> dict[str, Any]:
        """What fsspec needs to speak S3 to it."""
        region = {"client_kwargs": {"region_name": "us-east-1"}}
        return {"key": KEY, "secret": SECRET, "endpoint_url": self.endpoint, **region, **more}

    def start(self) -> None:
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                self.command, stdout=log, stderr=log, env={**os.environ, **self.environment}, start_new_session=True
            )
        wait(self.process, self.port, self.folder / "log")

    def stop(self, how: int = signal.SIGTERM) -> None:
        if self.process is not None:
            self.process.send_signal(how)
            self.process.wait(30)
            self.process = None


def tool(name: str, file: str) -> str:
    """A program as `install.sh` puts it; a test that was selected fails when it is not there."""
    found = re.search(rf"^{name.upper().replace('-', '_')}=(\S+)$", INSTALL.read_text(), re.M)
    assert found is not None, name
    tools = Path(os.environ.get("OSMO_TOOLS") or Path.home() / ".cache" / "osmo-ray" / "tools")
    path = tools / f"{name}-{found[1]}" / file
    if not path.exists():
        pytest.fail(f"{path} is missing; run {INSTALL} {name}")
    return str(path)


def package(program: str, name: str) -> str:
    """A program of a Debian package."""
    path = shutil.which(program)
    if path is None:
        pytest.fail(f"{program} is missing; run scripts/test-servers.sh, or apt-get install {name}")
    return path


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def wait(process: subprocess.Popen[bytes], port: int, log: Path, seconds: float = 90.0) -> None:
    """Until something listens there."""
    deadline = time.monotonic() + seconds
    while True:
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        if process.poll() is not None or time.monotonic() > deadline:
            pytest.fail(f"{process.args!r} does not answer:\n{log.read_text()[-2000:]}")
        time.sleep(0.05)


@contextmanager
def serving(command: list[str], port: int, folder: Path, **environment: str) -> Iterator[Server]:
    folder.mkdir(parents=True, exist_ok=True)
    server = Server(command, port, folder, environment)
    server.start()
    try:
        yield server
    finally:
        server.stop()


@contextmanager
def versitygw(folder: Path, root: Path | None = None) -> Iterator[Server]:
    """S3 over a folder (`root`, its own by default), signatures and conditions checked."""
    data = root or folder / "data"
    data.mkdir(parents=True, exist_ok=True)
    port = free_port()
    command = [tool("versitygw", "versitygw"), "--port", f"127.0.0.1:{port}", "--quiet"]
    secrets = {"ROOT_ACCESS_KEY_ID": KEY, "ROOT_SECRET_ACCESS_KEY": SECRET}
    beside = folder / "sidecar"  # where the filesystem has no extended attributes
    beside.mkdir(parents=True, exist_ok=True)
    with serving([*command, "posix", "--sidecar", str(beside), str(data)], port, folder, **secrets) as server:
        yield server


@contextmanager
def rclone_s3(folder: Path) -> Iterator[Server]:
    """A server that takes `If-None-Match` and overwrites all the same."""
    data = folder / "data"
    data.mkdir(parents=True)
    port = free_port()
    command = [tool("rclone", "bin/rclone"), "serve", "s3", "--addr", f"127.0.0.1:{port}"]
    with serving(
        [*command, "--auth-key", f"{KEY},{SECRET}", "--vfs-cache-mode", "off", "--config", "/dev/null", str(data)],
        port, folder,
    ) as server:  # fmt: skip
        yield server


@contextmanager
def fake_gcs(folder: Path) -> Iterator[Server]:
    """Google's JSON API, in memory."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [tool("fake-gcs-server", "fake-gcs-server"), "-scheme", "http", "-host", "127.0.0.1", "-port", str(port)]
    told = ["-backend", "memory", "-external-url", url, "-public-host", f"127.0.0.1:{port}", "-log-level", "error"]
    with serving([*command, *told], port, folder) as server:
        yield server


def gcs_bucket(server: Server, name: str) -> None:
    body = f'{{"name": "{name}"}}'.encode()
    request = urllib.request.Request(
        f"{server.endpoint}/storage/v1/b?project=testing", body, {"Content-Type": "application/json"}, method="POST"
    )
    urllib.request.urlopen(request, timeout=10).close()


_CEPH = """[global]
fsid = {fsid}
mon host = [v2:127.0.0.1:{mon2},v1:127.0.0.1:{mon1}]
keyring = {folder}/keyring
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 4
osd pool default pgp num = 4
osd pool default pg autoscale mode = off
mon allow pool size one = true
osd crush chooseleaf type = 0
run dir = {folder}/run
log file = {folder}/$name.log
admin socket = {folder}/run/$name.asok
ms bind ipv6 = false
public network = 127.0.0.0/8
cluster network = 127.0.0.0/8
[mon]
mon data = {folder}/mon
mon data avail crit = 1
[osd]
osd data = {folder}/osd
osd objectstore = memstore
memstore device bytes = 4294967296
"""


@contextmanager
def ceph(folder: Path) -> Iterator[Server]:
    """A monitor, an OSD in memory and a RADOS gateway. `Server` is the gateway."""
    programs = {"ceph-mon": "ceph-mon", "ceph-osd": "ceph-osd", "radosgw": "radosgw", "ceph": "ceph-common"}
    found = {name: package(name, of) for name, of in programs.items()}
    for name in ("mon", "osd", "run"):
        (folder / name).mkdir(parents=True)
    fsid, osd = str(uuid.uuid4()), str(uuid.uuid4())
    mon1, mon2, port = free_port(), free_port(), free_port()
    (folder / "ceph.conf").write_text(_CEPH.format(fsid=fsid, mon1=mon1, mon2=mon2, folder=folder))
    environment = {"CEPH_CONF": str(folder / "ceph.conf")}

    def call(*command: str) -> None:
        done = subprocess.run(
            command, cwd=folder, env={**os.environ, **environment}, capture_output=True, text=True, timeout=120
        )
        if done.returncode:
            pytest.fail(f"{' '.join(command)}: {done.stderr[-1500:]}")

    every = ("--cap", "mon", "allow *", "--cap", "osd", "allow *", "--cap", "mgr", "allow *")
    call("ceph-authtool", "--create-keyring", "keyring", "--gen-key", "-n", "mon.", "--cap", "mon", "allow *")
    call("ceph-authtool", "keyring", "--gen-key", "-n", "client.admin", *every)
    profile = ("--cap", "mon", "allow profile osd", "--cap", "mgr", "allow profile osd", "--cap", "osd", "allow *")
    call("ceph-authtool", "keyring", "--gen-key", "-n", "osd.0", *profile)
    place = f"[v2:127.0.0.1:{mon2},v1:127.0.0.1:{mon1}]"
    call("monmaptool", "--create", "--fsid", fsid, "--addv", "a", place, "monmap")
    call(found["ceph-mon"], "-i", "a", "--mkfs", "--monmap", "monmap", "--keyring", "keyring")
    me = os.environ.get("USER") or "root"
    with contextlib.ExitStack() as stack:
        mon = [found["ceph-mon"], "-i", "a", "-f", "--setuser", me, "--setgroup", me]
        stack.enter_context(serving(mon, mon1, folder / "mon-log", **environment))
        call(found["ceph"], "osd", "new", osd)
        call(found["ceph"], "auth", "import", "-i", "keyring")
        call(found["ceph-osd"], "-i", "0", "--mkfs", "--osd-uuid", osd)
        store = Server([found["ceph-osd"], "-i", "0", "-f"], mon1, folder / "osd-log", environment)
        store.folder.mkdir()
        store.start()
        stack.callback(store.stop)
        user = ["user", "create", "--uid=test", "--display-name=test", f"--access-key={KEY}", f"--secret-key={SECRET}"]
        call("radosgw-admin", *user)
        front = f"beast endpoint=127.0.0.1:{port} tcp_nodelay=1"
        gateway = [found["radosgw"], "-n", "client.admin", "-f", "--rgw-frontends", front]
        yield stack.enter_context(serving(gateway, port, folder / "rgw-log", **environment))
