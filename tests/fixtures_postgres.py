"""A real PostgreSQL for tests, in a temporary folder, on loopback, under a throw-away user when run as root.

Import the fixture `postgres_server` (one server per session) and call `postgres_server.database()` for an empty
database. It fails, never skips, where no PostgreSQL can be started: who selects the marker wants it run.
"""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

_USER = "osmo-test-pg"


def _binary(name: str) -> str:
    """From PATH (links resolved: packages install wrappers that need their folder), or Debian's folder."""
    for folder in sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True):
        if (folder / name).exists():
            return str(folder / name)
    found = shutil.which(name)
    if found is None:
        pytest.fail(f"these tests need PostgreSQL: {name} is neither on PATH nor in /usr/lib/postgresql/*/bin")
    return str(Path(found).resolve())


class PostgresServer:
    """One server; `stop` and `start` again as often as a test likes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = _free_port()
        self._as: list[str] = []
        if os.geteuid() == 0:
            _make_user()
            self._as = ["setpriv", "--reuid", _USER, "--regid", _USER, "--clear-groups", "--"]
            shutil.chown(folder, _USER, _USER)
        self._run(
            "initdb", "-D", str(folder / "data"), "-U", "osmo", "-A", "trust", "-E", "UTF8", "--locale", "C", "-N"
        )
        with (folder / "data" / "postgresql.conf").open("a") as config:
            config.write(
                f"port = {self.port}\nlisten_addresses = '127.0.0.1'\nunix_socket_directories = ''\n"
                "shared_buffers = 64MB\nmax_connections = 60\n"
                # Only processes are killed here, never the host, so the kernel's cache is durable enough.
                "fsync = off\n"
            )

    def start(self) -> None:
        self._run("pg_ctl", "-D", str(self.folder / "data"), "-l", str(self.folder / "log"), "-w", "-t", "60", "start")

    def stop(self, mode: str = "fast") -> None:
        self._run("pg_ctl", "-D", str(self.folder / "data"), "-m", mode, "-w", "-t", "60", "stop")

    def url(self, database: str = "postgres") -> str:
        return f"postgresql+psycopg://osmo@127.0.0.1:{self.port}/{database}"

    def database(self) -> str:
        """The URL of a new, empty database."""
        name = f"t{uuid.uuid4().hex[:12]}"
        with psycopg.connect(self.url().replace("+psycopg", ""), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}".encode())
        return self.url(name)

    def drop(self, url: str) -> None:
        """Remove a database of `database()`, whoever is still connected."""
        with psycopg.connect(self.url().replace("+psycopg", ""), autocommit=True) as connection:
            connection.execute(f"DROP DATABASE {url.rsplit('/', 1)[1]} WITH (FORCE)".encode())

    def _run(self, program: str, *arguments: str) -> None:
        clean = {k: v for k, v in os.environ.items() if not k.startswith("PG")}
        # Output goes to a file: the server inherits it, and would keep a pipe open for ever.
        with tempfile.TemporaryFile("w+") as output:
            done = subprocess.run(
                [*self._as, _binary(program), *arguments],
                cwd=self.folder,
                env={**clean, "LC_ALL": "C"},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
            if done.returncode:
                output.seek(0)
                log = self.folder / "log"
                pytest.fail(f"{program} failed:\n{output.read()}\n{log.read_text()[-2000:] if log.exists() else ''}")


def _make_user() -> None:
    try:
        pwd.getpwnam(_USER)
    except KeyError:
        command = ["useradd", "--system", "--user-group", "--no-create-home", "--shell", "/usr/sbin/nologin", _USER]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode not in (0, 9):  # 9: another run has just made it
            pytest.fail(f"cannot make a user for PostgreSQL: {done.stderr}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """A running server, shared by all tests; it is not to be stopped."""
    yield from _serve()


@pytest.fixture(scope="class")
def fragile_postgres() -> Iterator[PostgresServer]:
    """A server of one's own, for tests that stop it. Who stops it starts it again."""
    yield from _serve()


def _serve() -> Iterator[PostgresServer]:
    folder = Path(tempfile.mkdtemp(prefix="osmo-pg-"))
    folder.chmod(0o755)
    try:
        server = PostgresServer(folder)
        server.start()
        try:
            yield server
        finally:
            server.stop("immediate")
    finally:
        _remove(folder)


def _remove(folder: Path) -> None:
    for _ in range(20):  # the last processes of the server may still be closing files
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return
        time.sleep(0.05)
