"""The index follows the buckets: what is new is read, and nothing else."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from osmo_ray.control.indexing import Indexer
from osmo_ray.data.errors import DataError
from osmo_ray.objects.datasets import Dataset, catalog, guests, layout, open_bucket
from osmo_ray.objects.datasets.bucket import Bucket
from osmo_ray.objects.datasets.dataset import About
from osmo_ray.objects.local import LocalStore
from osmo_ray.providers.buckets import Buckets, Place
from osmo_ray.spec.attempt import DataKey
from osmo_ray.store.dataset_nouns import DatasetQuery, Indexed, Synced
from osmo_ray.store.sql import SqlStore

S = "default"


class Seen(LocalStore):
    """Writes down what was read."""

    reads: list[str]

    def read(self, key: str, start: int = 0, end: int | None = None) -> bytes:
        self.reads.append(key)
        return super().read(key, start, end)


class World:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = SqlStore(f"sqlite:///{folder / 'osmo.db'}")
        self.store.migrate()
        self.objects = Seen(folder / "bucket", durable=False)
        self.objects.reads = []
        self.bucket = open_bucket(self.objects)
        self.now = 1000.0
        self.indexer = Indexer(self.store, self.clock)

    def clock(self) -> float:
        self.now += 1.0
        return self.now

    def make(self, name: str, text: str, by: str = "ann", **metadata: Any) -> Dataset:
        dataset = Dataset(self.bucket, name, create=True)
        (self.folder / "x").write_text(text)
        dataset.upload([self.folder / "x"], About(created_by=by, metadata=metadata))
        return dataset

    def look(self) -> None:
        self.objects.reads.clear()
        self.indexer.look(S, "default", lambda: self.bucket)

    def names(self) -> list[str]:
        return sorted(found.name for found in self.store.list_datasets(DatasetQuery((S,), limit=1000)))

    def one(self, name: str) -> Indexed:
        found = self.store.indexed(S, name)
        assert found is not None
        return found


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.store.close()


def agrees(world: World, name: str) -> None:
    """The index says of a dataset what the bucket says."""
    dataset, found = Dataset(world.bucket, name), world.one(name)
    ready = [v for v in found.versions if v.status == "READY"]
    assert [(v.number, v.size, v.checksum, v.created_by) for v in ready] == [
        (v.number, v.size, v.checksum, v.created_by) for v in dataset.versions()
    ]
    assert {t.tag: t.version for t in found.tags if t.version} == dataset.tags()
    assert dict(found.name.labels) == dataset.labels()
    assert [dict(v.metadata) for v in ready] == [dataset.metadata(str(v.number)) for v in ready]
    assert found.name.size == sum(v.size for v in ready)
    assert found.name.newest == (ready[-1].number if ready else 0)


def test_every_change_is_found_and_only_what_is_new_is_read(world: World) -> None:
    cats, dogs = world.make("cats", "one", score=1), world.make("dogs", "two")
    world.look()
    assert world.names() == ["cats", "dogs"]
    world.look()
    assert world.objects.reads == [], "a listing tells that nothing is new"
    changes: list[Callable[[], object]] = [
        lambda: world.make("cats", "three"),
        lambda: cats.tag("best", "1"),
        lambda: cats.tag("best", "2"),
        lambda: cats.label({"kind": {"of": "pets"}}),
        lambda: cats.label({"kind": None}),
        lambda: cats.describe("1", {"score": 2}),
        lambda: cats.tag("best", None),
        lambda: cats.delete("2"),
    ]
    for change in changes:
        change()
        world.look()
        assert len(world.objects.reads) <= 1, world.objects.reads
        agrees(world, "cats")
        agrees(world, "dogs")
    assert [v.status for v in world.one("cats").versions] == ["READY", "PENDING_DELETE"]
    world.objects.reads.clear()
    world.indexer.refresh(S, world.bucket, "dogs")
    assert world.objects.reads == []
    assert dogs.versions()[0].created_by == world.one("dogs").name.created_by


def test_names_and_collections(world: World) -> None:
    world.make("cats", "one")
    catalog.collect(world.bucket, "both", [("cats", 1)])
    world.look()
    assert world.names() == ["both", "cats"] and world.store.collections_of(S, "cats") == {1: ["both"]}
    catalog.rename(world.bucket, "cats", "tigers")
    catalog.forget(world.bucket, "both")
    world.look()
    assert world.names() == ["tigers"] and world.store.collections_of(S, "cats") == {}
    agrees(world, "tigers")
    again = world.make("cats", "other")
    world.look()
    agrees(world, "cats")
    assert again.id != Dataset(world.bucket, "tigers").id


def test_an_upload_of_another_client_is_pending_until_it_is_done(world: World) -> None:
    dataset = Dataset(world.bucket, "cats", create=True)
    guests.claim(dataset, "eve", {"n": 1})
    world.look()
    assert [(v.status, v.created_by) for v in world.one("cats").versions] == [("PENDING", "eve")]
    world.make("cats", "two")
    world.bucket.append(layout.deleted(dataset.id), 1, {"at": 1.0})
    world.look()
    assert [(v.number, v.status) for v in world.one("cats").versions] == [(2, "READY")]


def test_what_is_broken_does_not_hide_the_rest(world: World) -> None:
    world.make("cats", "one")
    world.make("dogs", "one")
    key = layout.numbered(layout.versions(Dataset(world.bucket, "dogs").id), 1)
    world.objects.write(key, b"{}")
    world.objects.write("names/bad/000000000001", b'{"kind": "dataset", "id": "../../x"}')
    world.objects.write("names/odd/000000000001", b"[]")
    report = world.indexer.reconcile(S, world.bucket)
    assert world.names() == ["cats"]
    assert [one.partition(":")[0] for one in sorted(report.wrong)] == ["bad", "dogs", "odd"]


def test_rebuilding_finds_what_the_index_has_wrong(world: World) -> None:
    world.make("cats", "one")
    world.make("dogs", "two")
    world.look()
    with world.store.database.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE dataset_versions SET size = 99")
        connection.exec_driver_sql("DELETE FROM dataset_values")
        connection.exec_driver_sql("DELETE FROM datasets WHERE name = 'cats'")
    world.look()
    assert world.one("dogs").versions[0].size == 99, "nothing in the bucket told of it"
    report = world.indexer.reconcile(S, world.bucket, anew=True)
    assert (report.names, report.wrong) == (2, ())
    agrees(world, "cats")
    agrees(world, "dogs")


def test_a_slow_bucket_is_read_in_the_background_and_seldom(world: World) -> None:
    world.make("cats", "one")
    world.look()
    synced = world.store.synced(S)
    assert synced is not None
    world.store.mark_synced(S, Synced(synced.bucket, world.now, 50.0))
    world.make("dogs", "two")
    before = threading.active_count()
    world.look()
    assert world.names() == ["cats"] and threading.active_count() == before, "it was read a moment ago"
    world.indexer.refresh(S, world.bucket, "dogs")
    assert world.names() == ["cats", "dogs"], "what was written through the platform is there at once"
    world.make("mice", "three")
    world.now += 1001.0
    world.look()
    for thread in threading.enumerate():
        if thread.daemon and "_in_background" in thread.name:
            thread.join(30)
    assert world.names() == ["cats", "dogs", "mice"]


def test_a_bucket_that_cannot_be_reached_is_listed_as_it_was(world: World) -> None:
    def away() -> Bucket:
        raise DataError("the wire is cut")

    with pytest.raises(DataError):
        world.indexer.look(S, "default", away)
    world.make("cats", "one")
    world.look()
    world.indexer.look(S, "default", away)
    assert world.names() == ["cats"]


def test_another_bucket_in_the_same_place(world: World) -> None:
    world.make("cats", "one")
    world.look()
    other = open_bucket(LocalStore(world.folder / "other", durable=False))
    world.indexer.reconcile(S, other)
    assert world.names() == []


def test_who_brings_an_endpoint_of_his_own_sees_a_shelf_of_his_own() -> None:
    place = Place("robots", "s3://robots/data")
    buckets = Buckets({"robots": place}, "robots", "file:///x")
    mine = DataKey("s3://robots", "id", "key")
    evil = DataKey("s3://robots", "id", "key", override_url="http://evil:9000")
    assert buckets.shelf(place) == buckets.shelf(place, [mine]) == "robots"
    assert buckets.shelf(place, [evil]) not in (
        "robots",
        buckets.shelf(place, [DataKey("s3://robots", "", "", override_url="x")]),
    )
    assert buckets.shelf(place, [DataKey("s3://else", "", "", override_url="http://evil:9000")]) == "robots"
