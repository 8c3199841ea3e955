"""Results that later tasks may use, and workflows that stay because others use theirs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from osmo_ray.engine.cache import Earlier
from osmo_ray.engine.status import WorkflowStatus
from osmo_ray.store.protocol import Store, Texts
from tests.store.store_making import admitted


def made(store: Store, name: str, sources: tuple[str, ...] = ()) -> str:
    def build(id: str):  # type: ignore[no-untyped-def]
        decision = admitted(id, status=WorkflowStatus.COMPLETED)
        return replace(decision, workflow=replace(decision.workflow, ended=2000.0))

    return store.submit(name, build, Texts("x", sources=sources)).uuid


def test_results_are_recalled_until_they_are_forgotten(store: Store) -> None:
    a, b = made(store, "a"), made(store, "b")
    store.remember(a, {"k1": ("t1", f"workflows/{a}/t1/0", 5.0), "k2": ("t2", "", 6.0)})
    store.remember(b, {"k2": ("t3", "o", 7.0)})
    assert store.recall(["k1", "k2", "k3"]) == {
        "k1": Earlier(f"workflows/{a}/t1/0", "a-1", "t1", 5.0),
        "k2": Earlier("o", "b-1", "t3", 7.0),
    }
    assert store.forget_results([a]) == {}
    assert list(store.recall(["k1", "k2"])) == ["k2"]
    store.delete_workflows([b])
    assert store.recall(["k2"]) == {}


def test_code_is_used_as_long_as_a_workflow_names_it(store: Store) -> None:
    def build(id: str):  # type: ignore[no-untyped-def]
        return admitted(id, status=WorkflowStatus.COMPLETED)

    uuid = store.submit("a", build, Texts("x", code=("ab" * 32, "cd" * 32))).uuid
    assert set(store.used_code(["ab" * 32, "ef" * 32])) == {"ab" * 32}
    store.delete_workflows([uuid])
    assert not store.used_code(["ab" * 32])


def test_what_is_used_stays_as_long_as_its_users(store: Store) -> None:
    a = made(store, "a")
    b = made(store, "b", (a,))
    store.use_outputs(b, [a])
    old: Callable[[], list[str]] = lambda: [row.id for row in store.finished_before(3000.0)]  # noqa: E731
    assert old() == ["b-1"]
    assert store.forget_results([a]) == {a: ["b-1"]}
    assert store.forget_results([a, b]) == {}, "together they may go"
    store.delete_workflows([b])
    assert old() == ["a-1"]
