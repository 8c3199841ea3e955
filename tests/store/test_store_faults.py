"""Crashes, races and lost servers: what was acknowledged is there, what was not is either whole or absent."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from store_making import S, finish, move, put, submit

from osmo_ray.engine.model import ApplyGroup, Workflow
from osmo_ray.store.protocol import LeaseLost, StoreError, WorkflowQuery
from osmo_ray.store.sql import SqlStore
from tests.fixtures_postgres import PostgresServer

HERE = Path(__file__).parent

WRITER = """
import sys
sys.path.insert(0, sys.argv[2])
from store_making import S, move, put, submit
from osmo_ray.engine.model import ApplyGroup
from osmo_ray.store.sql import SqlStore
store = SqlStore(sys.argv[1])
made = submit(store, groups=20, tasks=1)
print(made.uuid, flush=True)
number = 0
while True:
    number += 1
    for group in range(20):
        made = move(made, S.RUNNING, group=group, restarts=number).workflow
    decision = move(made, S.RUNNING, restarts=number, commands=(ApplyGroup("g0"), ApplyGroup("g1")))
    every = frozenset(t.uuid for g in made.groups for t in g.tasks)
    from dataclasses import replace
    made = put(store, replace(decision, changed_tasks=every))
    print(number, flush=True)
"""


def test_a_writer_that_is_killed_loses_nothing_that_it_had_acknowledged(store: SqlStore, url: str) -> None:
    for _ in range(3):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, url, str(HERE)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert writer.stdout is not None
        uuid = writer.stdout.readline().strip()
        for _ in range(15):
            writer.stdout.readline()
        writer.send_signal(signal.SIGKILL)
        rest, err = writer.communicate()
        assert writer.returncode == -signal.SIGKILL, err
        acknowledged = max([15, *map(int, rest.split())])
        (found,) = store.load([uuid])
        generations = {t.restarts for g in found.groups for t in g.tasks}
        assert len(generations) == 1, "half a commit"
        written = generations.pop()
        assert written in (acknowledged, acknowledged + 1)
        assert found.version == written + 1
        assert len(store.records(uuid)) == written + 1
        assert len([o for o in store.outgoing(10_000) if o.workflow_uuid == uuid]) == 2 * written
        put(store, move(found, S.COMPLETED))


def together(count: int, work: Callable[[int], None]) -> None:
    """Run `work(i)` in threads; the first error fails the test."""
    failures: list[BaseException] = []

    def one(number: int) -> None:
        try:
            work(number)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=one, args=(n,)) for n in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


def test_many_clients_hammer_at_once(store: SqlStore, url: str) -> None:
    """Four stores with two threads each; every change counts exactly once, and nobody hears of locks."""
    shared = submit(store, "shared")
    stores = [SqlStore(url) for _ in range(4)]
    made: list[Workflow] = []

    def work(number: int) -> None:
        mine = stores[number % 4]
        for _ in range(6):
            made.append(put(mine, move(submit(mine), S.RUNNING)))
            mine.list_workflows(WorkflowQuery())
            while True:
                (now,) = mine.load([shared.uuid])
                task = now.groups[0].tasks[0]
                if not mine.commit([move(now, S.RUNNING, restarts=task.restarts + 1)]):
                    break

    together(8, work)
    (after,) = store.load([shared.uuid])
    assert after.groups[0].tasks[0].restarts == 48 and after.version == 49
    assert len({w.id for w in made}) == 48
    assert len(store.records(shared.uuid)) == 49
    for other in stores:
        other.close()


HAMMER = """
import sys, threading
sys.path.insert(0, sys.argv[2])
from store_making import S, move, put, submit
from osmo_ray.store.sql import SqlStore
store = SqlStore(sys.argv[1])
store.migrate()
def work():
    for _ in range(15):
        put(store, move(submit(store), S.RUNNING))
threads = [threading.Thread(target=work) for _ in range(2)]
for thread in threads: thread.start()
for thread in threads: thread.join()
"""


def test_processes_hammer_at_once(store: SqlStore, url: str) -> None:
    """Four processes with two threads each; numbers are given out once, and nobody hears of locks."""
    running = [
        subprocess.Popen([sys.executable, "-c", HAMMER, url, str(HERE)], stderr=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    assert [(process.communicate()[1], process.returncode) for process in running] == [("", 0)] * 4
    rows, _ = store.list_workflows(WorkflowQuery(limit=1000))
    assert sorted(int(row.id.removeprefix("train-")) for row in rows) == list(range(1, 121))


def test_of_two_leaders_only_one_epoch_commits(store: SqlStore, url: str) -> None:
    """Each leader commits while it believes that it leads, and stalls for longer than its lease now and then. The
    versions say in which order the commits were made, and their epochs never go back."""
    shared = submit(store)
    ttl = 0.03
    epochs: list[tuple[int, int]] = []
    lost: list[int] = []

    def enough() -> bool:
        return len({epoch for _, epoch in epochs}) > 4 and len(set(lost)) == 2

    def lead(number: int) -> None:
        mine = SqlStore(url)
        while not enough():
            lease = mine.acquire("controller", f"leader-{number}", ttl)
            try:
                for _ in range(8 if lease else 0):
                    (now,) = mine.load([shared.uuid])
                    if not mine.commit([move(now, S.RUNNING)], lease):
                        epochs.append((now.version, lease.epoch if lease else 0))
                time.sleep(ttl * 2)
                if lease:
                    mine.commit([move(mine.load([shared.uuid])[0], S.FAILED)], lease)
                    raise AssertionError("a stalled leader has written")
            except LeaseLost:
                lost.append(number)
        mine.close()

    together(2, lead)
    by_version = [epoch for _, epoch in sorted(epochs)]
    assert by_version == sorted(by_version)
    assert [version for version, _ in sorted(epochs)] == list(range(1, len(epochs) + 1))
    (after,) = store.load([shared.uuid])
    assert after.groups[0].tasks[0].status is S.RUNNING and after.version == len(epochs) + 1


def test_a_reader_of_records_never_misses_one(store: SqlStore, url: str) -> None:
    """Writers race on one workflow while a reader goes on from the last number that it saw."""
    shared = submit(store)
    total = 4 * 12
    seen: list[int] = []

    def work(number: int) -> None:
        if number == 4:
            while len(seen) < total + 1:
                seen.extend(seq for seq, _ in store.records(shared.uuid, after=seen[-1] if seen else 0))
            return
        mine = SqlStore(url)
        for _ in range(12):
            while mine.commit([move(mine.load([shared.uuid])[0], S.RUNNING)]):
                pass
        mine.close()

    together(5, work)
    assert seen == [seq for seq, _ in store.records(shared.uuid)] and len(seen) == total + 1


def test_commits_of_many_workflows_in_any_order_do_not_deadlock(store: SqlStore, url: str) -> None:
    made = [submit(store, groups=1, tasks=1) for _ in range(10)]

    def work(number: int) -> None:
        mine = SqlStore(url)
        for _ in range(10):
            now = list(mine.load([w.uuid for w in made]))
            mine.commit([move(w, S.RUNNING) for w in (now if number % 2 else now[::-1])])
        mine.close()

    together(4, work)
    assert all(version > 5 for version in store.alive().values())


@pytest.mark.postgres
class TestPostgresServer:
    @pytest.fixture
    def store(self, fragile_postgres: PostgresServer) -> SqlStore:
        made = SqlStore(fragile_postgres.database())
        made.migrate()
        return made

    def test_a_server_that_stops_and_starts(self, store: SqlStore, fragile_postgres: PostgresServer) -> None:
        lease = store.acquire("controller", "a", 300.0)
        assert lease is not None
        made = submit(store, commands=(ApplyGroup("g0"),))
        fragile_postgres.stop("immediate")
        try:
            for ask in (
                store.ping,
                store.alive,
                lambda: store.load([made.uuid]),
                lambda: submit(store),
                lambda: store.commit([move(made, S.RUNNING)], lease),
                lambda: store.acquire("controller", "a", 300.0),
            ):
                with pytest.raises(StoreError) as told:
                    ask()
                assert not told.value.permanent and not isinstance(told.value, LeaseLost)
        finally:
            fragile_postgres.start()
        assert store.load([made.uuid]) == [made]
        assert list(store.commit([move(made, S.RUNNING)], lease)) == []
        assert submit(store).id == "train-2"
        store.close()

    def test_a_restart_between_two_calls_is_not_even_noticed(
        self, store: SqlStore, fragile_postgres: PostgresServer
    ) -> None:
        made = submit(store)
        together(4, lambda _: store.ping())
        fragile_postgres.stop("immediate")
        fragile_postgres.start()
        assert store.load([made.uuid]) == [made]
        fragile_postgres.stop("fast")
        fragile_postgres.start()
        made = put(store, move(made, S.RUNNING))
        fragile_postgres.stop("immediate")
        fragile_postgres.start()
        assert submit(store).id == "train-2"
        store.close()

    def test_a_server_that_dies_under_writers(self, store: SqlStore, fragile_postgres: PostgresServer) -> None:
        """Every acknowledged commit is there afterwards, each exactly once."""
        made = [submit(store, groups=1, tasks=1) for _ in range(4)]
        acknowledged = [0, 0, 0, 0]
        stop = threading.Event()

        def work(number: int) -> None:
            if number == 4:
                for _ in range(2):
                    goal = sum(acknowledged) + 40
                    while sum(acknowledged) < goal:
                        time.sleep(0.01)
                    fragile_postgres.stop("immediate")
                    fragile_postgres.start()
                stop.set()
                return
            now = made[number]
            while not stop.is_set():
                try:
                    if store.commit([move(now, S.RUNNING, restarts=now.version)]):
                        (now,) = store.load([now.uuid])  # our own, or a commit whose answer was lost
                    else:
                        acknowledged[number] = now.version
                        now = replace(move(now, S.RUNNING, restarts=now.version).workflow, version=now.version + 1)
                except StoreError as error:
                    assert not error.permanent
                    time.sleep(0.02)

        together(5, work)
        for w, last in zip(made, acknowledged, strict=True):
            (found,) = store.load([w.uuid])
            assert found.version >= last + 1
            assert found.groups[0].tasks[0].restarts == found.version - 1
            assert len(store.records(w.uuid)) == found.version
        store.close()

    def test_a_submission_whose_answer_was_lost_counts_once(
        self, store: SqlStore, fragile_postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        real = store.database.engine.dialect.do_commit
        broken: list[bool] = []

        def commit(connection: object) -> None:
            real(connection)  # type: ignore[arg-type]
            if not broken:
                broken.append(True)
                fragile_postgres.stop("immediate")
                fragile_postgres.start()
                real(connection.cursor().execute("SELECT 1"))  # type: ignore[attr-defined]

        monkeypatch.setattr(store.database.engine.dialect, "do_commit", commit)
        made = submit(store)
        assert broken and made.id == "train-1"
        assert [row.id for row in store.list_workflows(WorkflowQuery())[0]] == ["train-1"]
        assert store.find("train-1") == made
        store.close()

    def test_commits_wait_for_the_disk_whatever_the_administrator_says(self, fragile_postgres: PostgresServer) -> None:
        url = fragile_postgres.database()
        plain = SqlStore(url)
        with plain.database.engine.begin() as connection:
            name = url.rsplit("/", 1)[1]
            connection.exec_driver_sql(f"ALTER DATABASE {name} SET synchronous_commit = 'off'")
        plain.close()
        fresh = SqlStore(url)
        with fresh.database.engine.begin() as connection:
            assert connection.exec_driver_sql("SHOW synchronous_commit").scalar() == "on"
        fresh.close()


def test_a_finished_workflow_is_not_written_over(store: SqlStore) -> None:
    made = submit(store)
    put(store, finish(made, 5.0))
    assert list(store.commit([move(made, S.RUNNING)])) == [made.uuid]
