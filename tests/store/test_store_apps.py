"""Apps and credentials on both databases."""

from __future__ import annotations

import pytest
from store_making import submit

from osmo_ray.store.protocol import (
    App,
    AppQuery,
    AppUse,
    AppVersion,
    Credential,
    NameTaken,
    TaskQuery,
    Texts,
    WorkflowQuery,
)
from osmo_ray.store.sql import SqlStore


def made(store: SqlStore, name: str, owner: str = "ann", at: float = 1.0) -> App:
    app = App(f"uuid-{name}", name, f"about {name}", owner, at)
    store.create_app(app, f"spec of {name}")
    return app


def test_versions_count_up_and_keep_their_numbers(store: SqlStore) -> None:
    app = made(store, "train")
    assert store.add_app_version("train", "bob", 2.0, "two") == (
        App(app.uuid, "train", "about train", "ann", 1.0, 2),
        2,
    )
    assert store.add_app_version("nothing", "bob", 2.0, "x") is None
    assert store.delete_app(app.uuid, 2) == [2]
    assert store.add_app_version("train", "bob", 3.0, "three") is not None
    assert store.app_versions(app.uuid) == [
        AppVersion(3, "bob", 3.0),
        AppVersion(2, "bob", 2.0, "DELETED"),
        AppVersion(1, "ann", 1.0),
    ]
    assert [store.app_spec(app.uuid, n) for n in (1, 2, 3, 4)] == ["spec of train", None, "three", None]
    found = store.app("train")
    assert found is not None and found.latest == 3
    assert store.app_by_uuid(app.uuid) == found


def test_a_name_is_taken_until_the_last_version_goes(store: SqlStore) -> None:
    app = made(store, "train")
    with pytest.raises(NameTaken):
        store.create_app(App("other", "train", "", "bob", 2.0), "")
    store.create_app(app, "again")  # the same one: a commit whose answer was lost
    assert store.app_spec(app.uuid, 1) == "spec of train"
    assert store.delete_app(app.uuid, None) == [1]
    assert store.app("train") is None
    store.create_app(App("other", "train", "", "bob", 2.0), "")


def test_lists_by_part_of_name_owner_and_involvement(store: SqlStore) -> None:
    one, two, three = made(store, "a_1", at=1.0), made(store, "a-2", "bob", 2.0), made(store, "b", "cid", 3.0)
    store.add_app_version("b", "ann", 4.0, "changed")
    submit(store, "w", texts=Texts("", app=AppUse(two.uuid, "bob", "a-2", 1)), user="dan")

    def names(**query: object) -> list[str]:
        return [a.name for a in store.list_apps(AppQuery(**query))[0]]  # type: ignore[arg-type]

    assert names() == ["a_1", "a-2", "b"]
    assert names(descending=True) == ["b", "a-2", "a_1"]
    assert names(name="a_") == ["a_1"]
    assert names(owners=["bob"]) == ["a-2"]
    assert names(involved="ann") == ["a_1", "b"]
    assert names(involved="dan") == ["a-2"]
    page, more = store.list_apps(AppQuery(offset=1, limit=1))
    assert ([a.uuid for a in page], more) == ([two.uuid], True)
    assert store.list_apps(AppQuery(offset=2, limit=1))[1] is False
    assert {one.uuid, three.uuid} == {a.uuid for a in store.list_apps(AppQuery(involved="ann"))[0]}


def test_workflows_know_their_app_also_after_a_rename(store: SqlStore) -> None:
    app = made(store, "train")
    mine = submit(store, "w", texts=Texts("", app=AppUse(app.uuid, "ann", "train", 1)))
    submit(store, "v")
    store.rename_app(app.uuid, "learn")
    made(store, "other")
    with pytest.raises(NameTaken):
        store.rename_app(app.uuid, "other")
    rows, _ = store.list_workflows(WorkflowQuery(app="learn", app_version=1))
    assert [(r.uuid, r.app_owner, r.app_name, r.app_version) for r in rows] == [(mine.uuid, "ann", "learn", 1)]
    assert store.list_workflows(WorkflowQuery(app="learn", app_version=2))[0] == []
    assert len(store.list_workflows(WorkflowQuery())[0]) == 2
    assert store.texts(mine.uuid).app == AppUse(app.uuid, "ann", "learn", 1)


def test_credentials_are_replaced_by_name_and_by_profile(store: SqlStore) -> None:
    store.save_credential(Credential("ann", "g", "GENERIC", None, b"\x00\xff"))
    store.save_credential(Credential("ann", "h", "GENERIC", None, b"h"))
    store.save_credential(Credential("ann", "s3", "DATA", "s3://b", b"old"))
    store.save_credential(Credential("bob", "s3", "DATA", "s3://b", b"bob's"))
    store.save_credential(Credential("ann", "other", "DATA", "s3://b", b"new"))
    store.save_credential(Credential("ann", "g", "GENERIC", None, b"g"))
    assert [(c.name, c.sealed) for c in store.credentials("ann")] == [("g", b"g"), ("h", b"h"), ("other", b"new")]
    assert store.delete_credential("ann", "other") == Credential("ann", "other", "DATA", "s3://b", b"new")
    assert store.delete_credential("ann", "other") is None
    assert [c.name for c in store.credentials("bob")] == ["s3"]


def test_tasks_are_added_up_by_the_database(store: SqlStore) -> None:
    one, two = submit(store, "a"), submit(store, "b")
    tasks = sum(len(g.tasks) for g in one.groups)
    alone = store.sum_tasks(TaskQuery(limit=1), by_workflow=False)
    assert len(alone) == 1 and alone[0].cpu == 2 * tasks and alone[0].memory == 2 * tasks << 30
    by = store.sum_tasks(TaskQuery(), by_workflow=True)
    assert [(s.workflow_id, s.cpu) for s in by] == [(one.id, tasks), (two.id, tasks)]
    assert [s.workflow_id for s in store.sum_tasks(TaskQuery(workflow="b-"), by_workflow=True)] == [two.id]
