"""Backup and restore, within and between the two kinds of database."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from store_making import S, finish, move, put, submit

from osmo_ray.engine.model import ApplyGroup
from osmo_ray.spec.attempt import NodeReport
from osmo_ray.store import archive
from osmo_ray.store.protocol import App, Credential, Profile, StoreError, Texts, Token, UsageSample, WorkflowQuery
from osmo_ray.store.sql import SqlStore
from tests.fixtures_postgres import PostgresServer


def fill(store: SqlStore) -> None:
    one = submit(store, "a", texts=Texts("ü\n", "t", ("x",), {"k": "v"}), commands=(ApplyGroup("g0"),))
    one = put(store, move(one, S.RUNNING, running=5.5, node="n"))
    put(store, finish(submit(store, "b"), 9.0))
    store.save_nodes("local", [NodeReport("n", "a", 1.0, 2, 3, 4, labels={"l": "ü"})], 1.0)
    store.save_profile(Profile("ada", "p", email_notification=True))
    store.save_token(Token("t", "ada", "ff", 1.0, ("r",)))
    store.create_app(App("u", "app", "ü", "ada", 1.5), "spec")
    store.save_credential(Credential("ada", "c", "DATA", "s3://b", b"\x00\xff"))
    store.announced(one.uuid, "mail", 2.0)
    store.add_usage([UsageSample(one.groups[0].tasks[0].uuid, 0, 1.0, 0.1, 0.2, 0.3)])
    assert store.acquire("controller", "a", 60.0) is not None


def seen(store: SqlStore) -> object:
    rows, _ = store.list_workflows(WorkflowQuery())
    uuids = [row.uuid for row in rows]
    task = store.attempts(uuids[0])[0].task.uuid
    return (
        *(rows, store.load(uuids), [store.texts(u) for u in uuids], [store.records(u) for u in uuids]),
        *(store.outgoing(), store.nodes(), store.profile("ada"), store.tokens("ada"), store.usage(task, 0)),
        *(store.alive(), [store.attempts(u) for u in uuids]),
        *(store.app("app"), store.app_spec("u", 1), store.credentials("ada")),
    )


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def empty(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The database to restore into."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'restored' / 'osmo.db'}"
        return
    server: PostgresServer = request.getfixturevalue("postgres_server")
    made = server.database()
    yield made
    server.drop(made)


def test_all_of_it_moves(store: SqlStore, empty: str, tmp_path: Path) -> None:
    fill(store)
    file = tmp_path / "backup.osmo"
    store.backup(str(file))
    assert file.stat().st_mode & 0o777 == 0o600
    before = seen(store)
    archive.restore(str(file), empty)
    moved = SqlStore(empty)
    assert seen(moved) == before
    assert moved.database_id() != store.database_id()
    # It goes on where it was: numbers, epochs and sequences are not used twice.
    last = moved.outgoing()[-1].seq
    fresh = submit(moved, "a", commands=(ApplyGroup("g0"),))
    assert fresh.id == "a-2" and moved.outgoing()[-1].seq > last
    lease = moved.acquire("controller", "b", 60.0)
    assert lease is not None and lease.epoch == 2
    moved.close()


def test_a_migrated_but_empty_database_may_be_filled(store: SqlStore, empty: str, tmp_path: Path) -> None:
    fill(store)
    store.backup(str(tmp_path / "b"))
    target = SqlStore(empty)
    target.migrate()
    archive.restore(str(tmp_path / "b"), empty)
    assert seen(target) == seen(store)
    target.close()


def test_a_database_in_use_is_refused_and_stays(store: SqlStore, url: str, tmp_path: Path) -> None:
    fill(store)
    before = seen(store)
    archive.backup(url, str(tmp_path / "b"))
    with pytest.raises(StoreError, match="already has") as told:
        archive.restore(str(tmp_path / "b"), url)
    assert told.value.permanent
    assert seen(store) == before


def lines(file: Path) -> list[object]:
    return [json.loads(line) for line in gzip.open(file, "rt")]


def rewrite(file: Path, values: list[object]) -> None:
    with gzip.open(file, "wt") as out:
        out.writelines(json.dumps(value) + "\n" for value in values)


@pytest.mark.parametrize("harm", ["cut", "end", "row", "column", "table", "format", "newer", "bytes", "empty", "none"])
def test_a_broken_archive_changes_nothing(store: SqlStore, tmp_path: Path, harm: str) -> None:
    fill(store)
    file = tmp_path / "b"
    store.backup(str(file))
    found = lines(file)
    header = dict(found[0])  # type: ignore[call-overload]
    if harm == "cut":
        file.write_bytes(file.read_bytes()[:-20])
    elif harm == "end":
        rewrite(file, found[:-1])
    elif harm == "row":
        del found[next(i for i, v in enumerate(found) if isinstance(v, list))]
        rewrite(file, found)
    elif harm == "column":
        rewrite(file, [header, {"table": "leases", "columns": ["name; DROP TABLE leases"]}, ["x"], {"rows": 1}])
    elif harm == "table":
        rewrite(file, [header, {"table": "sqlite_master", "columns": ["name"]}, ["x"], {"rows": 1}])
    elif harm == "format":
        rewrite(file, [{**header, "format": "another"}, *found[1:]])
    elif harm == "newer":
        rewrite(file, [{**header, "revision": "9999"}, *found[1:]])
    elif harm == "bytes":
        file.write_bytes(b"rubbish")
    elif harm == "empty":
        rewrite(file, [])
    else:
        file.unlink()
    target = tmp_path / "restored.db"
    fresh = SqlStore(f"sqlite:///{target}")
    fresh.migrate()
    with pytest.raises(StoreError) as told:
        archive.restore(str(file), f"sqlite:///{target}")
    assert told.value.permanent
    assert fresh.list_workflows(WorkflowQuery()) == ([], False) and fresh.nodes() == []
    assert submit(fresh).id == "train-1"
    fresh.close()


def test_a_backup_that_fails_leaves_the_old_one(store: SqlStore, tmp_path: Path) -> None:
    fill(store)
    file = tmp_path / "b"
    store.backup(str(file))
    before = file.read_bytes()
    with pytest.raises(StoreError):
        store.backup(str(tmp_path / "none" / "b"))
    bare = SqlStore(f"sqlite:///{tmp_path / 'bare.db'}")
    with pytest.raises(StoreError, match=r"migrate\(\)"):
        bare.backup(str(file))
    bare.close()
    assert file.read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir() if "part" in p.name) == []


def test_a_backup_is_one_moment(store: SqlStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(store)
    whole = seen(store)
    real = archive._tables

    def busy(connection: object) -> object:
        for number, value in enumerate(real(connection)):  # type: ignore[arg-type]
            if number == 3:
                late = submit(store, "late")
                put(store, replace(move(late, S.RUNNING), records=()))
            yield value

    monkeypatch.setattr(archive, "_tables", busy)
    store.backup(str(tmp_path / "b"))
    archive.restore(str(tmp_path / "b"), f"sqlite:///{tmp_path / 'r.db'}")
    moved = SqlStore(f"sqlite:///{tmp_path / 'r.db'}")
    assert seen(moved) == whole
    moved.close()
