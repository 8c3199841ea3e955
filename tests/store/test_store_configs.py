"""Configuration with its history, on both databases."""

from __future__ import annotations

import pytest

from osmo_ray.store.protocol import Config, ConfigQuery, Conflicted, Store


def change(type: str, revision: int, body: dict[str, object], at: float, name: str = "") -> Config:
    return Config(type, revision, body, "ann", at, name, f"change {revision}", ("t",))


def test_the_newest_revision_holds_and_the_others_stay(store: Store) -> None:
    assert store.config("POOL") is None
    first, second = change("POOL", 1, {"a": {}}, 10.0), change("POOL", 2, {"a": {}, "b": {"x": [1]}}, 20.0, "b")
    assert [store.save_config(c) for c in (first, second, change("ROLE", 1, {}, 15.0))] == [1, 2, 1]
    assert store.config("POOL") == second
    assert store.config("POOL", 1) == first
    assert store.config("POOL", 3) is None


def test_two_writers_cannot_both_be_next(store: Store) -> None:
    store.save_config(change("POOL", 1, {}, 1.0))
    with pytest.raises(Conflicted, match="at revision 1"):
        store.save_config(change("POOL", 1, {}, 2.0))
    with pytest.raises(Conflicted):
        store.save_config(change("POOL", 3, {}, 2.0))


def test_the_history_is_asked_and_hidden_from(store: Store) -> None:
    for number in (1, 2, 3):
        store.save_config(change("POOL", number, {}, 10.0 * number, name="b" if number == 2 else ""))
    store.save_config(change("ROLE", 1, {}, 25.0))

    def found(**query: object) -> list[tuple[str, int]]:
        return [(c.type, c.revision) for c in store.config_history(ConfigQuery(**query))]  # type: ignore[arg-type]

    assert found() == [("POOL", 1), ("POOL", 2), ("ROLE", 1), ("POOL", 3)]
    assert found(types=("POOL",), descending=True, limit=2) == [("POOL", 3), ("POOL", 2)]
    assert found(name="b") == [("POOL", 2)]
    assert found(after=20.0, before=30.0) == [("POOL", 2), ("ROLE", 1)]
    assert found(revision=1, offset=1) == [("ROLE", 1)]
    assert store.mark_config("POOL", 2, deleted_by="bob")
    assert not store.mark_config("POOL", 2, deleted_by="bob")
    assert store.mark_config("POOL", 3, tags=["x", "y"])
    assert found(types=("POOL",)) == [("POOL", 1), ("POOL", 3)]
    newest = store.config("POOL")
    assert newest is not None
    assert newest.tags == ("x", "y")
