"""What only SQLite needs: durable settings, local disks, room on the disk."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from sqlalchemy import Connection
from store_making import S, move, put, submit

from osmo_ray.store import filesystem
from osmo_ray.store.protocol import StorageFull, StoreError
from osmo_ray.store.sql import SqlStore


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "home" / "osmo.db"


@pytest.fixture
def store(file: Path) -> SqlStore:
    made = SqlStore(f"sqlite:///{file}")
    made.migrate()
    return made


def test_every_connection_is_durable(store: SqlStore) -> None:
    with store.database.engine.connect() as one, store.database.engine.connect() as two:
        for connection in (one, two):
            for pragma, want in (("journal_mode", "wal"), ("synchronous", 2), ("foreign_keys", 1)):
                assert connection.exec_driver_sql(f"PRAGMA {pragma}").scalar() == want


def test_the_file_is_the_owners_alone(store: SqlStore, file: Path) -> None:
    submit(store)
    found = {p.name: oct(p.stat().st_mode & 0o777) for p in file.parent.iterdir()}
    assert found == {"osmo.db": "0o600", "osmo.db-wal": "0o600", "osmo.db-shm": "0o600"}


def test_a_long_reader_does_not_stop_a_writer(store: SqlStore, file: Path) -> None:
    made = submit(store)
    reader = sqlite3.connect(file, isolation_level=None)
    reader.execute("BEGIN")
    assert reader.execute("SELECT version FROM workflows").fetchone() == (1,)
    put(store, move(made, S.RUNNING))
    assert reader.execute("SELECT version FROM workflows").fetchone() == (1,)
    reader.close()


def test_a_writer_waits_for_another_process(store: SqlStore, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = submit(store)
    other = sqlite3.connect(file, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with store.database.engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA busy_timeout = 10")
    monkeypatch.setattr("osmo_ray.store.database.BUSY_PATIENCE", 0.1)
    with pytest.raises(StoreError, match="busy") as told:
        store.commit([move(made, S.RUNNING)])
    assert not told.value.permanent
    other.execute("ROLLBACK")
    other.close()
    put(store, move(made, S.RUNNING))


def test_little_room_refuses_new_work_and_goes_on_with_the_old(
    store: SqlStore, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = submit(store)
    tight = SqlStore(f"sqlite:///{file}", disk_reserve=1 << 30)
    monkeypatch.setattr(filesystem, "free_bytes", lambda folder: (1 << 30) - 1)
    with pytest.raises(StorageFull, match="1023 MiB are free") as told:
        submit(tight)
    assert not told.value.permanent
    put(tight, move(made, S.RUNNING))
    monkeypatch.setattr(filesystem, "free_bytes", lambda folder: 1 << 30)
    assert submit(tight).id == "train-2"
    tight.close()


def test_a_full_disk_loses_nothing(store: SqlStore) -> None:
    made = submit(store)
    with store.database.engine.connect() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar()
    store.close()
    from sqlalchemy import event

    @event.listens_for(store.database.engine, "connect")
    def limit(raw: sqlite3.Connection, _: object) -> None:
        raw.execute(f"PRAGMA max_page_count = {pages}")

    with pytest.raises(StorageFull):
        for _ in range(1000):
            submit(store, groups=10, tasks=20)
    rows = store.alive()
    assert made.uuid in rows
    assert all(len(w.groups) for w in store.load(list(rows)))
    store.close()


@pytest.mark.parametrize(
    ("kind", "refused"),
    [("nfs4", True), ("cifs", True), ("9p", True), ("fuse.sshfs", True), ("ext4", False), ("overlay", False)],
)
def test_network_filesystems_are_refused(tmp_path: Path, kind: str, refused: bool) -> None:
    mounts = f"1 0 8:1 / / rw - ext4 /dev/sda rw\n2 1 0:50 / {tmp_path}/a\\040b rw shared:1 - {kind} server:/x rw\n"
    inside = tmp_path / "a b" / "not" / "there"
    assert filesystem.filesystem_of(inside, mounts) == (kind, f"{tmp_path}/a b")
    filesystem.refuse_network(tmp_path / "a bc", mounts)
    if not refused:
        filesystem.refuse_network(inside, mounts)
        return
    with pytest.raises(StoreError, match=f"network filesystem .{kind}") as told:
        filesystem.refuse_network(inside, mounts)
    assert told.value.permanent and not (tmp_path / "a b").exists()


def test_a_store_on_a_network_filesystem_makes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filesystem, "_read_mounts", lambda: f"1 0 8:1 / {tmp_path} rw - nfs4 server:/x rw\n")
    with pytest.raises(StoreError, match="OSMO_DATABASE_URL"):
        SqlStore(f"sqlite:///{tmp_path / 'x' / 'osmo.db'}")
    assert list(tmp_path.iterdir()) == []
    SqlStore(f"sqlite:///{tmp_path / 'x' / 'osmo.db'}", check_filesystem=False).close()


@pytest.mark.parametrize(
    "url", ["sqlite://", "sqlite:///:memory:", "mysql://x/y", "no url", "sqlite:////proc/none/x.db"]
)
def test_bad_urls_say_what_to_write(url: str) -> None:
    with pytest.raises(StoreError) as told:
        SqlStore(url)
    assert told.value.permanent


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    (tmp_path / "osmo.db").write_text("something else entirely, long enough to be a header" * 100)
    with pytest.raises(StoreError, match="not a database") as told:
        SqlStore(f"sqlite:///{tmp_path / 'osmo.db'}").migrate()
    assert told.value.permanent


def test_work_that_fails_on_the_connection_that_stays_open_leaves_nothing(store: SqlStore) -> None:
    made, database = submit(store), store.database

    def half(connection: Connection) -> None:
        database.plain(connection, "UPDATE workflows SET version = 99")
        raise RuntimeError("in the middle")

    for _ in range(2):
        with pytest.raises(RuntimeError, match="in the middle"):
            database.write_plainly(half)
        (found,) = store.load([made.uuid])
        assert found.version == made.version
    with pytest.raises(StoreError, match="no such table"):
        database.write_plainly(lambda connection: database.plain(connection, "DELETE FROM nowhere"))
    assert put(store, move(made, S.RUNNING)).version == made.version + 1
    store.close()
    assert store.load([made.uuid])[0].version == made.version + 1
