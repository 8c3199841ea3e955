"""What every store does, on SQLite and on PostgreSQL."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest
from store_making import S, admitted, finish, move, put, spec, submit, with_task

from osmo_ray.engine.model import ApplyGroup, Decision, DeleteGroup, Record, Task, Times
from osmo_ray.engine.status import WorkflowStatus
from osmo_ray.spec.attempt import NodeReport, UsageSample
from osmo_ray.spec.model import Priority, ResourceSpec
from osmo_ray.spec.reason import Reason
from osmo_ray.store.protocol import (
    LeaseLost,
    Profile,
    StoreError,
    TaskQuery,
    Texts,
    Token,
    WorkflowQuery,
)
from osmo_ray.store.sql import SqlStore

REASON = Reason("NoFit", "needs 8 GPUs, has 4", {"asked": "8"}, "osmo pool list")


class TestSubmitting:
    def test_ids_are_numbered_by_name(self, store: SqlStore) -> None:
        assert [submit(store, n).id for n in ("a", "b", "a", "a-1", "a")] == ["a-1", "b-1", "a-2", "a-1-1", "a-3"]

    def test_all_of_it_comes_back(self, store: SqlStore) -> None:
        made = submit(store, groups=3, tasks=4)
        assert made.version == 1
        assert store.find(made.id) == made
        assert store.find(made.uuid) == made
        assert store.load([made.uuid]) == [made]
        assert store.find("none") is None

    def test_texts(self, store: SqlStore) -> None:
        texts = Texts("rendered: ü\0\ud800", "template", ("b", "a", "b"), {"k": "v\0"})
        made = submit(store, texts=texts)
        assert store.texts(made.uuid) == Texts("rendered: ü\ufffd?", "template", ("a", "b"), {"k": "v\0"})
        with pytest.raises(StoreError, match="no workflow"):
            store.texts("none")

    def test_what_build_raises_passes_and_nothing_is_written(self, store: SqlStore) -> None:
        def build(id: str) -> Decision:
            raise ValueError(f"bad {id}")

        with pytest.raises(ValueError, match="bad train-1"):
            store.submit("train", build, Texts(""))
        assert store.alive() == {}
        assert submit(store).id == "train-1"

    def test_it_is_alive_at_once_and_its_commands_wait(self, store: SqlStore) -> None:
        made = submit(store, commands=(ApplyGroup("g0"),))
        assert store.alive() == {made.uuid: 1}
        assert [(o.workflow_uuid, o.command) for o in store.outgoing()] == [(made.uuid, ApplyGroup("g0"))]
        assert [r for _, r in store.records(made.uuid)] == [Record(1000.0, "Submitted", "ada submitted train-1")]

    def test_what_tasks_ask_for_is_listed(self, store: SqlStore) -> None:
        made = submit(store, resource=ResourceSpec(cpu=4, gpu=2, memory="2Gi", storage="1Mi"))
        plain = submit(store)
        row, bare = store.attempts(made.uuid)[0], store.attempts(plain.uuid)[0]
        assert (row.cpu, row.gpu, row.memory, row.storage) == (4.0, 2, 2 << 30, 1 << 20)
        assert (bare.cpu, bare.gpu, bare.memory, bare.storage) == (1.0, 0, 1 << 30, 1 << 30)


class TestCommitting:
    def test_every_field_comes_back(self, store: SqlStore) -> None:
        made = submit(store)
        times = Times(1.5, 2.5, 3.5, 4.5, 5.5, 6.5, 7.5, 8.5)
        task = Task(
            *(made.groups[0].tasks[0].uuid, "g0t0", True, S.FAILED_EVICTED, 0, 1, 2, 3, 4, "node-1", "10.0.0.1", 137),
            *(REASON, "out/1", {"memory_peak": 1.5}, times),
        )
        group = replace(
            *(made.groups[0],), status=S.RUNNING, tasks=(task, made.groups[0].tasks[1]), barrier=2, released=1
        )
        group = replace(group, reason=REASON, times=times, pending=frozenset({"x", "y"}))
        after = replace(
            made,
            groups=(group, made.groups[1]),
            status=WorkflowStatus.RUNNING,
            started=2.0,
            ended=3.0,
            exec_timeout=4.0,
            queue_timeout=5.0,
            cancelled_by="bob",
            reason=REASON,
        )
        put(store, Decision(after, frozenset({"g0"}), frozenset({task.uuid}), changed=True))
        assert store.find(made.id) == replace(after, version=2)

    def test_only_what_changed_is_written(self, store: SqlStore) -> None:
        made = submit(store)
        g0, g1 = made.groups
        secretly = tuple(replace(g, barrier=9, tasks=tuple(replace(t, node="n") for t in g.tasks)) for g in (g0, g1))
        named = frozenset({g1.tasks[0].uuid})
        put(store, Decision(replace(made, groups=secretly), frozenset({"g0"}), named, changed=True))
        found = store.find(made.id)
        assert found is not None
        assert [g.barrier for g in found.groups] == [9, 0]
        assert [[t.node for t in g.tasks] for g in found.groups] == [["", ""], ["n", ""]]

    def test_an_old_version_is_a_conflict(self, store: SqlStore) -> None:
        one, two = submit(store), submit(store)
        put(store, move(one, S.RUNNING))
        conflicts = store.commit([move(one, S.FAILED, commands=(ApplyGroup("g0"),)), move(two, S.RUNNING)])
        assert list(conflicts) == [one.uuid]
        assert store.alive() == {one.uuid: 2, two.uuid: 2}
        assert store.outgoing() == []
        assert len(store.records(one.uuid)) == 2
        loaded = store.find(one.id)
        assert loaded is not None and loaded.groups[0].tasks[0].status is S.RUNNING

    def test_two_decisions_on_one_workflow_do_not_both_count(self, store: SqlStore) -> None:
        made = submit(store)
        assert list(store.commit([move(made, S.RUNNING), move(made, S.FAILED, task=1)])) == [made.uuid]
        assert store.alive() == {made.uuid: 2}

    def test_an_unknown_workflow_is_a_conflict(self, store: SqlStore) -> None:
        ghost = admitted("ghost-1").workflow
        assert list(store.commit([move(ghost, S.RUNNING)])) == [ghost.uuid]

    def test_nothing_is_nothing(self, store: SqlStore) -> None:
        assert list(store.commit([])) == []

    def test_an_attempt_that_is_replaced_keeps_its_end(self, store: SqlStore) -> None:
        made = submit(store)
        first = made.groups[0].tasks[0]
        running = put(store, move(made, S.RUNNING, running=7.0, node="n1"))
        retired = replace(running.groups[0].tasks[0], status=S.RESCHEDULED, exit_code=1, reason=REASON)
        fresh = Task(first.uuid, first.name, first.lead, S.WAITING, retry_id=1, user_retries=1)
        after = put(store, with_task(running, 0, 0, fresh, retired=(retired,)))
        assert store.find(made.id) == after
        rows = [r for r in store.attempts(made.uuid) if r.task.uuid == first.uuid]
        assert [r.task for r in rows] == [retired, fresh]
        assert [r.group for r in rows] == ["g0", "g0"] and rows[1].cpu == 1.0

    def test_attempts_that_come_and_go_within_one_decision(self, store: SqlStore) -> None:
        made = submit(store)
        first = made.groups[0].tasks[0]
        ended = [replace(first, retry_id=i, status=S.RESCHEDULED) for i in range(3)]
        put(store, with_task(made, 0, 0, replace(first, retry_id=3), retired=tuple(ended)))
        assert [r.task.retry_id for r in store.attempts(made.uuid) if r.task.uuid == first.uuid] == [0, 1, 2, 3]

    def test_an_attempt_from_nowhere_is_refused_whole(self, store: SqlStore) -> None:
        made = submit(store)
        with pytest.raises(StoreError, match="an attempt that the store does not have") as told:
            store.commit([move(made, S.RUNNING, retry_id=7, commands=(ApplyGroup("g0"),))])
        assert told.value.permanent
        assert store.find(made.id) == made and store.outgoing() == []

    def test_text_that_databases_refuse_does_not_block_a_commit(self, store: SqlStore) -> None:
        made = submit(store)
        reason = Reason("Crashed", "said \0 and \ud800", {"last": "\0"})
        decision = move(made, S.FAILED, reason=reason)
        put(store, replace(decision, records=(Record(1.0, "Exited", "said \0 and \ud800"),)))
        loaded = store.find(made.id)
        assert loaded is not None and loaded.groups[0].tasks[0].reason == reason
        assert store.records(made.uuid)[-1][1].message == "said \ufffd and ?"

    def test_five_hundred_tasks(self, store: SqlStore) -> None:
        made = submit(store, groups=500, tasks=1)
        after = put(store, finish(made, 50.0))
        assert store.find(made.id) == after
        rows, _ = store.list_workflows(WorkflowQuery())
        assert (rows[0].tasks, rows[0].finished, rows[0].failed) == (500, 500, 0)


class TestOutbox:
    def test_in_order_until_settled(self, store: SqlStore) -> None:
        one, two = submit(store), submit(store)
        one = put(store, move(one, S.RUNNING, commands=(ApplyGroup("g0"), DeleteGroup("g1", 2.5))))
        put(store, move(two, S.RUNNING, commands=(ApplyGroup("g0"),)))
        put(store, move(one, S.COMPLETED, commands=(DeleteGroup("g0"),)))
        found = store.outgoing()
        assert [o.command for o in found] == [
            ApplyGroup("g0"),
            DeleteGroup("g1", 2.5),
            ApplyGroup("g0"),
            DeleteGroup("g0"),
        ]
        assert [o.seq for o in found] == sorted({o.seq for o in found})
        assert [o.seq for o in store.outgoing(limit=2)] == [o.seq for o in found[:2]]
        store.settle([found[1].seq, found[0].seq, 10**9])
        assert [o.seq for o in store.outgoing()] == [o.seq for o in found[2:]]

    def test_a_number_is_never_used_again(self, store: SqlStore) -> None:
        made = put(store, move(submit(store), S.RUNNING, commands=(ApplyGroup("g0"),)))
        last = store.outgoing()[-1].seq
        store.settle([last])
        put(store, move(made, S.FAILED, commands=(ApplyGroup("g0"),)))
        assert store.outgoing()[0].seq > last

    def test_a_finished_workflow_is_alive_until_its_commands_are_sent(self, store: SqlStore) -> None:
        made = submit(store)
        put(store, replace(finish(made, 5.0), commands=(DeleteGroup("g0"),)))
        assert store.alive() == {made.uuid: 2}
        assert store.finished_before(10.0) == [] and store.delete_workflows([made.uuid]) == 0
        store.settle([o.seq for o in store.outgoing()])
        assert store.alive() == {}
        assert [r.id for r in store.finished_before(10.0)] == [made.id]


class TestLeading:
    def test_one_holder_at_a_time(self, store: SqlStore) -> None:
        first = store.acquire("controller", "a", 30.0)
        assert first is not None and first.epoch == 1
        assert store.acquire("controller", "b", 30.0) is None
        again = store.acquire("controller", "a", 60.0)
        assert again is not None and again.epoch == 1 and again.expires > first.expires
        assert store.acquire("other", "b", 30.0) is not None

    def test_expiry_is_by_the_databases_clock(self, store: SqlStore) -> None:
        lease = store.acquire("controller", "a", 30.0)
        assert lease is not None and abs(lease.expires - 30.0 - time.time()) < 5.0

    def test_a_released_lease_is_free_and_the_epoch_grows(self, store: SqlStore) -> None:
        first = store.acquire("controller", "a", 30.0)
        assert first is not None
        store.release(first)
        second = store.acquire("controller", "b", 30.0)
        assert second is not None and second.epoch == 2
        store.release(first)
        assert store.acquire("controller", "c", 30.0) is None
        store.release(second)
        third = store.acquire("controller", "b", 30.0)
        assert third is not None and third.epoch == 3

    def test_who_lost_the_lease_writes_nothing(self, store: SqlStore) -> None:
        made = submit(store, commands=(ApplyGroup("g0"),))
        old = store.acquire("controller", "a", -1.0)
        assert old is not None
        with pytest.raises(LeaseLost, match="expired"):
            store.commit([move(made, S.RUNNING)], old)
        new = store.acquire("controller", "b", 30.0)
        assert new is not None and new.epoch == 2
        with pytest.raises(LeaseLost, match="another holder"):
            store.commit([move(made, S.RUNNING)], old)
        with pytest.raises(LeaseLost):
            store.settle([store.outgoing()[0].seq], old)
        assert store.alive() == {made.uuid: 1} and len(store.outgoing()) == 1
        assert list(store.commit([move(made, S.RUNNING)], new)) == []
        store.settle([store.outgoing()[0].seq], new)
        assert store.outgoing() == []


class TestHistory:
    def test_records_go_on_from_any_number(self, store: SqlStore) -> None:
        made = submit(store)
        for status in (S.SCHEDULING, S.RUNNING, S.COMPLETED):
            made = put(store, move(made, status))
        found = store.records(made.uuid)
        assert [r.kind for _, r in found] == ["Submitted", "Moved", "Moved", "Moved"]
        assert store.records(made.uuid, after=found[1][0]) == found[2:]
        assert store.records(made.uuid, after=found[-1][0]) == []
        assert store.records(made.uuid, limit=2) == found[:2]
        assert store.records("none") == []
        assert found[1][1] == Record(5.0, "Moved", "to SCHEDULING", "g0", "g0t0", 0)


class TestListingWorkflows:
    def ids(self, store: SqlStore, **query: object) -> list[str]:
        return [row.id for row in store.list_workflows(WorkflowQuery(**query))[0]]  # type: ignore[arg-type]

    def test_filters(self, store: SqlStore) -> None:
        submit(store, "a", user="ada", pool="p1", at=1.0, texts=Texts("", tags=("x", "y")))
        submit(store, "b", user="bob", pool="p2", at=2.0, priority=Priority.HIGH, texts=Texts("", tags=("y",)))
        done = submit(store, "c", user="eve", pool="p1", at=3.0)
        put(store, finish(done, 9.0))
        submit(store, "d", at=4.0, status=WorkflowStatus.FAILED_SUBMISSION)
        assert self.ids(store) == ["a-1", "b-1", "c-1"]
        assert self.ids(store, descending=True) == ["c-1", "b-1", "a-1"]
        assert self.ids(store, statuses=["FAILED_SUBMISSION", "COMPLETED"]) == ["c-1", "d-1"]
        assert self.ids(store, users=["ada", "eve"]) == ["a-1", "c-1"]
        assert self.ids(store, pools=["p2"]) == ["b-1"]
        assert self.ids(store, priorities=["HIGH"]) == ["b-1"]
        assert self.ids(store, tags=["x"]) == ["a-1"]
        assert self.ids(store, tags=["x", "y"]) == ["a-1", "b-1"]
        assert self.ids(store, submitted_after=2.0) == ["b-1", "c-1"]
        assert self.ids(store, submitted_before=2.0) == ["a-1"]
        assert self.ids(store, users=["ada"], pools=["p2"]) == []

    def test_a_part_of_the_id_is_literal(self, store: SqlStore) -> None:
        for name in ("train", "tr_in", "tr%in", "TRAIN", "tr\\in"):
            submit(store, name)
        assert self.ids(store, name="r_i") == ["tr_in-1"]
        assert self.ids(store, name="%") == ["tr%in-1"]
        assert self.ids(store, name="\\") == ["tr\\in-1"]
        assert self.ids(store, name="rain") == ["train-1"]
        assert len(self.ids(store, name="-1")) == 5

    def test_pages(self, store: SqlStore) -> None:
        for _ in range(5):
            submit(store)
        pages = [store.list_workflows(WorkflowQuery(offset=o, limit=2)) for o in (0, 2, 4, 6)]
        assert [len(rows) for rows, _ in pages] == [2, 2, 1, 0]
        assert [more for _, more in pages] == [True, True, False, False]
        assert len({row.uuid for rows, _ in pages for row in rows}) == 5

    def test_counts(self, store: SqlStore) -> None:
        made = submit(store)
        made = put(store, move(made, S.COMPLETED))
        made = put(store, move(made, S.FAILED, group=1))
        again = replace(made.groups[1].tasks[1], retry_id=1)
        old = replace(made.groups[1].tasks[1], status=S.RESCHEDULED)
        put(store, with_task(made, 1, 1, again, retired=(old,)))
        (row,), _ = store.list_workflows(WorkflowQuery())
        assert (row.tasks, row.finished, row.failed) == (4, 2, 1)
        assert (row.user, row.pool, row.priority, row.status) == ("ada", "default", "NORMAL", "PENDING")


class TestListingTasks:
    def names(self, store: SqlStore, **query: object) -> list[str]:
        found = store.list_tasks(TaskQuery(**query))  # type: ignore[arg-type]
        return [f"{r.workflow_id}/{r.task.name}" for r in found]

    def test_order(self, store: SqlStore) -> None:
        w = submit(store, "a", groups=1, tasks=6)
        w = put(store, move(w, S.COMPLETED, task=1, running=90.0))
        w = put(store, move(w, S.COMPLETED, task=2, running=95.0))
        w = put(store, move(w, S.RUNNING, task=3, running=10.0))
        w = put(store, move(w, S.SCHEDULING, task=4))
        put(store, move(w, S.INITIALIZING, task=5))
        later = submit(store, "b", groups=1, tasks=1)
        put(store, move(later, S.RUNNING, running=20.0))
        want = ["a-1/g0t4", "a-1/g0t5", "b-1/g0t0", "a-1/g0t3", "a-1/g0t2", "a-1/g0t1", "a-1/g0t0"]
        assert self.names(store) == want
        assert self.names(store, offset=2, limit=3) == want[2:5]

    def test_filters(self, store: SqlStore) -> None:
        a = submit(store, "a_b", groups=1, tasks=2, user="ada", pool="p1", priority=Priority.LOW)
        put(store, move(a, S.RUNNING, running=10.0, node="n1"))
        b = submit(store, "axb", groups=1, tasks=1, user="bob", pool="p2")
        put(store, move(b, S.FAILED, running=20.0, node="n2"))
        assert self.names(store, workflow="a_b") == ["a_b-1/g0t0", "a_b-1/g0t1"]
        assert self.names(store, workflow="none") == []
        assert self.names(store, statuses=["FAILED"]) == ["axb-1/g0t0"]
        assert self.names(store, users=["ada"]) == ["a_b-1/g0t0", "a_b-1/g0t1"]
        assert self.names(store, pools=["p2"]) == ["axb-1/g0t0"]
        assert self.names(store, nodes=["n1", "n2"]) == ["a_b-1/g0t0", "axb-1/g0t0"]
        assert self.names(store, priorities=["LOW"]) == ["a_b-1/g0t0", "a_b-1/g0t1"]
        assert self.names(store, started_after=20.0) == ["axb-1/g0t0"]
        assert self.names(store, started_before=20.0) == ["a_b-1/g0t0"]

    def test_a_part_that_fits_many_workflows(self, store: SqlStore, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("osmo_ray.store.queries.FEW_WORKFLOWS", 1)
        for name in ("train", "train", "other"):
            submit(store, name, groups=1, tasks=1)
        assert sorted(self.names(store, workflow="train")) == ["train-1/g0t0", "train-2/g0t0"]

    def test_every_attempt_in_order(self, store: SqlStore) -> None:
        made = submit(store, groups=2, tasks=2)
        assert [r.task for r in store.attempts(made.uuid)] == [t for g in made.groups for t in g.tasks]
        assert {(r.workflow_id, r.workflow_uuid) for r in store.attempts(made.uuid)} == {(made.id, made.uuid)}
        assert store.attempts("none") == []


class TestRemoving:
    def test_all_that_belongs_to_a_workflow_goes(self, store: SqlStore) -> None:
        gone, kept, running = submit(store), submit(store), submit(store)
        for w in (gone, kept):
            put(store, finish(w, 50.0))
        task, other = gone.groups[0].tasks[0], kept.groups[0].tasks[0]
        store.add_usage([UsageSample(task.uuid, 0, 1.0), UsageSample(other.uuid, 0, 1.0)])
        assert store.delete_workflows([gone.uuid, gone.uuid, running.uuid, "none"]) == 1
        assert store.find(gone.id) is None and store.records(gone.uuid) == [] and store.attempts(gone.uuid) == []
        assert store.usage(task.uuid, 0) == [] and len(store.usage(other.uuid, 0)) == 1
        assert store.find(kept.id) is not None and store.find(running.id) is not None
        store.add_usage([UsageSample(task.uuid, 0, 2.0)])
        assert store.usage(task.uuid, 0) == []

    def test_an_id_is_never_used_again(self, store: SqlStore) -> None:
        made = submit(store)
        put(store, finish(made, 5.0))
        assert store.delete_workflows([made.uuid]) == 1
        assert submit(store).id == "train-2"

    def test_oldest_end_first(self, store: SqlStore) -> None:
        made = [submit(store) for _ in range(4)]
        for w, at in zip(made, (30.0, 10.0, 20.0), strict=False):
            put(store, finish(w, at))
        assert [r.id for r in store.finished_before(30.0)] == [made[1].id, made[2].id]
        assert [r.id for r in store.finished_before(31.0, limit=1)] == [made[1].id]


class TestAround:
    def test_tags(self, store: SqlStore) -> None:
        made = submit(store, texts=Texts("", tags=("a", "b")))
        store.tag(made.uuid, ["c", "a", "c"], ["b", "none"])
        store.tag(made.uuid, [], [])
        assert store.texts(made.uuid).tags == ("a", "c")
        with pytest.raises(StoreError, match="no workflow"):
            store.tag("none", ["a"], [])

    def test_nodes(self, store: SqlStore) -> None:
        one = NodeReport("n1", "10.0.0.1", 4.0, 1 << 33, 1, 1 << 40, labels={"a": "b"}, reasons=(REASON,))
        two = NodeReport("n2", "10.0.0.2", 8.0, 1 << 34, 0, 1 << 41, alive=False, platform="x", backend_id="id")
        store.save_nodes("local", [one, two], 100.0)
        store.save_nodes("other", [one], 101.0)
        store.save_nodes("local", [replace(one, cpu=2.0)], 200.0)
        assert store.nodes() == [("local", 200.0, replace(one, cpu=2.0)), ("local", 100.0, two), ("other", 101.0, one)]
        store.save_nodes("local", [one], 100_000.0)
        assert [(b, at, n.name) for b, at, n in store.nodes()] == [("local", 100_000.0, "n1"), ("other", 101.0, "n1")]

    def test_profiles(self, store: SqlStore) -> None:
        assert store.profile("ada") == Profile("ada")
        for profile in (Profile("ada", "p", "b", True, False), Profile("ada", "q", "", False, True)):
            store.save_profile(profile)
            assert store.profile("ada") == profile
        assert store.profile("bob") == Profile("bob")

    def test_usage(self, store: SqlStore) -> None:
        uuid = submit(store).groups[0].tasks[0].uuid
        samples = [UsageSample(uuid, 0, at, 1.5, 1e9, 0.25) for at in (1.0, 3.0, 2.0)]
        store.add_usage(samples)
        store.add_usage([samples[0], UsageSample(uuid, 1, 1.0), UsageSample("none", 0, 1.0)])
        store.add_usage([])
        assert store.usage(uuid, 0) == sorted(samples, key=lambda s: s.at)
        assert store.usage(uuid, 1) == [] and store.usage("none", 0) == []

    def test_tokens(self, store: SqlStore) -> None:
        a = Token("laptop", "ada", "aa", 5.0, ("osmo-admin", "x"), "mine")
        b = Token("ci", "ada", "bb", 6.0)
        for token in (a, b, Token("ci", "bob", "cc", 7.0)):
            store.save_token(token)
        assert store.tokens("ada") == [b, a] and store.token("aa") == a and store.token("zz") is None
        store.save_token(replace(a, sha256="dd"))
        assert store.token("aa") is None and store.token("dd") == replace(a, sha256="dd")
        assert store.delete_token("ada", "laptop") and not store.delete_token("ada", "laptop")
        assert store.token("dd") is None and store.token("cc") is not None

    def test_counts(self, store: SqlStore) -> None:
        old, fresh, running = submit(store, groups=1), submit(store, groups=1), submit(store, groups=1)
        put(store, finish(old, time.time() - 90_000))
        put(store, finish(fresh, time.time() - 80_000))
        put(store, move(running, S.RUNNING))
        assert store.count_by_status() == {
            "workflow": {"COMPLETED": 1, "PENDING": 1},
            "task": {"COMPLETED": 2, "RUNNING": 1, "WAITING": 1},
        }

    def test_ping_and_identity(self, store: SqlStore, url: str) -> None:
        store.ping()
        store.migrate()
        other = SqlStore(url)
        assert store.database_id() == other.database_id() and len(store.database_id()) == 32
        other.close()

    def test_a_database_without_a_schema_says_so(self, url: str) -> None:
        bare = SqlStore(url)
        for ask in (bare.alive, bare.database_id, lambda: submit(bare)):
            with pytest.raises(StoreError, match=r"migrate\(\)") as told:
                ask()
            assert told.value.permanent
        bare.close()


def test_the_makers_make_what_they_say() -> None:
    assert len(spec(groups=3, tasks=2).groups) == 3
