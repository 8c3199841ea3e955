"""Keys of sessions inside tasks: used once, in time, and by one of those who try at once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from osmo_ray.store.protocol import SessionKey, Texts
from osmo_ray.store.sql import SqlStore
from tests.store.store_making import admitted


@pytest.fixture
def key(store: SqlStore) -> SessionKey:
    workflow = store.submit("train", admitted, Texts(""))
    return SessionKey(
        "EXEC-1", "ada", workflow.uuid, "t" * 32, 2, "n1", "exec", ("sh", "-c", "a 'b'"), 80, True, expires=160.0
    )


def test_a_key_comes_back_as_it_was_and_only_once(store: SqlStore, key: SessionKey) -> None:
    assert store.save_session_key(key, 100.0)
    assert store.take_session_key("EXEC-2", 101.0) is None
    assert store.take_session_key("EXEC-1", 101.0) == key
    assert store.take_session_key("EXEC-1", 101.0) is None


def test_a_taken_name_stays_with_whoever_had_it_first(store: SqlStore, key: SessionKey) -> None:
    assert store.save_session_key(key, 100.0)
    assert not store.save_session_key(replace(key, user="eve"), 100.0)
    found = store.take_session_key("EXEC-1", 101.0)
    assert found is not None and found.user == "ada"


def test_its_time_is_over(store: SqlStore, key: SessionKey) -> None:
    assert store.save_session_key(key, 100.0)
    assert store.take_session_key("EXEC-1", 160.0) is None
    assert store.save_session_key(key, 100.0)
    assert store.save_session_key(replace(key, key="EXEC-2", expires=300.0), 200.0)
    assert store.save_session_key(replace(key, expires=300.0), 200.0), "an old key is no obstacle"


def test_of_many_who_try_one_gets_it(store: SqlStore, key: SessionKey) -> None:
    assert store.save_session_key(key, 100.0)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: store.take_session_key("EXEC-1", 101.0), range(8)))
    assert [one for one in found if one is not None] == [key]


def test_it_goes_with_its_workflow(store: SqlStore, key: SessionKey) -> None:
    with pytest.raises(Exception, match=r"(?i)foreign|constraint|violates"):
        store.save_session_key(replace(key, workflow_uuid="0" * 32), 100.0)
