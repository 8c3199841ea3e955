"""What a group reads is fixed once, and remembered as long as its workflow is."""

from __future__ import annotations

from dataclasses import replace

from osmo_ray.engine.status import WorkflowStatus
from osmo_ray.store.dataset_nouns import DatasetWrite
from osmo_ray.store.protocol import DatasetRead, Store, Texts
from tests.store.store_making import admitted


def workflow(store: Store, name: str) -> str:
    def build(id: str):  # type: ignore[no-untyped-def]
        return admitted(id, status=WorkflowStatus.COMPLETED)

    return store.submit(name, build, Texts("x")).uuid


def test_a_reference_means_what_it_meant_at_first(store: Store) -> None:
    uuid = workflow(store, "a")
    first = DatasetRead(uuid, "g1", "cats", "default", "cats", 3, 1.0)
    assert list(store.pin([first])) == [first]
    later = store.pin([replace(first, version=4, at=2.0)])
    assert [(r.version, r.workflow) for r in later] == [(3, "a-1")]
    other = DatasetRead(uuid, "g1", "both", "default", "dogs", 1, 1.0)
    store.pin([other, replace(other, name="cats", version=2)])
    assert [(r.reference, r.name, r.version) for r in store.pins("g1")] == [
        ("both", "cats", 2), ("both", "dogs", 1), ("cats", "cats", 3),
    ]  # fmt: skip
    assert list(store.pins("g2")) == []


def test_who_reads_a_version_is_known_until_the_workflow_is_deleted(store: Store) -> None:
    a, b = workflow(store, "a"), workflow(store, "b")
    store.pin([DatasetRead(a, "g1", "cats", "default", "cats", 3, 1.0)])
    store.pin([DatasetRead(b, "g2", "cats:4", "default", "cats", 4, 2.0)])
    store.pin([DatasetRead(b, "g2", "dogs", "other", "cats", 3, 2.0)])
    assert [(r.workflow, r.version) for r in store.readers("default", "cats")] == [("b-1", 4), ("a-1", 3)]
    assert [r.workflow for r in store.readers("default", "cats", 3)] == ["a-1"]
    assert [r.workflow for r in store.readers("default", "cats", limit=1)] == ["b-1"]
    store.delete_workflows([a])
    assert [r.workflow for r in store.readers("default", "cats")] == ["b-1"]


def test_a_renamed_dataset_keeps_its_readers(store: Store) -> None:
    a, b = workflow(store, "a"), workflow(store, "b")
    store.pin([DatasetRead(a, "g1", "cats", "default", "cats", 3, 1.0)])
    both = DatasetRead(b, "g2", "both", "default", "cats", 3, 2.0)
    store.pin([both, replace(both, name="felines", version=1)])
    store.pin([DatasetRead(b, "g2", "cats", "other", "cats", 9, 2.0)])
    store.expect_writes([DatasetWrite(a, "g1", "default", "cats"), DatasetWrite(a, "g1", "other", "cats")])
    store.renamed("default", "cats", "felines")
    assert [(r.workflow, r.version) for r in store.readers("default", "felines")] == [("b-1", 1), ("a-1", 3)]
    assert [(r.reference, r.name) for r in store.pins("g1")] == [("cats", "felines")], (
        "its retries read it by that name"
    )
    assert [r.version for r in store.readers("other", "cats")] == [9]
    assert [(w.bucket, w.name) for w in store.writes_of(a)] == [("default", "felines"), ("other", "cats")]
