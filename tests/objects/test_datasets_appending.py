"""Many workers, one version: whoever was told that its part is written is in it, once; nobody sees half of it."""

from __future__ import annotations

import random
import threading
from pathlib import Path

import pytest
from faulty_stores import Killed, MemoryStore, Turns
from hypothesis import given, settings
from hypothesis import strategies as st

from osmo_ray.data.errors import Conflict, DataError
from osmo_ray.data.manifest import Kind
from osmo_ray.objects.datasets import Dataset, open_bucket
from osmo_ray.objects.datasets.appending import Append, unfinished
from osmo_ray.objects.datasets.collecting import Policy, collect, verify
from osmo_ray.objects.local import LocalStore

EAGER = Policy(grace=-1, silent=3600)


def shard(folder: Path, name: str, data: bytes) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(data)
    return folder


def held(dataset: Dataset, selector: str = "latest") -> set[str]:
    return {e.path.decode() for e in dataset.entries(selector) if e.kind is Kind.FILE}


def test_the_last_worker_publishes_all_parts_as_one_version(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "bucket", durable=False)
    dataset = Dataset(open_bucket(store), "d", create=True)
    dataset.upload([shard(tmp_path / "old", "base", b"b")])
    together, made = threading.Barrier(8), []

    def work(number: int) -> None:
        mine = Append(Dataset(open_bucket(store), "d"), "run-1")
        folder = shard(tmp_path / str(number), f"{number}.bin", random.Random(number).randbytes(1000))
        together.wait()
        mine.write(str(number), [folder])
        assert len(dataset.versions()) <= 2
        if (version := mine.finish(8)) is not None:
            made.append(version.number)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made and set(made) == {2} and [v.number for v in dataset.versions()] == [1, 2]
    assert held(dataset) == {"base", *(f"{n}.bin" for n in range(8))}
    assert verify(dataset.bucket) == []


def test_nothing_is_seen_before_the_commit_and_too_few_do_not_commit(tmp_path: Path) -> None:
    dataset = Dataset(open_bucket(MemoryStore()), "d", create=True)
    append = Append(dataset, "r", alone=True)
    append.write("a", [shard(tmp_path / "a", "a", b"1")])
    assert append.parts() == ("a",) and append.finish(2) is None and dataset.versions() == []
    with pytest.raises(Conflict, match="1 parts of 2"):
        append.commit(writers=2)


def test_a_worker_that_is_run_again_changes_nothing(tmp_path: Path) -> None:
    dataset = Dataset(open_bucket(MemoryStore()), "d", create=True)
    append = Append(dataset, "r")
    append.write("a", [shard(tmp_path / "a", "a", b"1")])
    append.write("a", [shard(tmp_path / "again", "other", b"2")])
    first = append.commit()
    append.write("a", [shard(tmp_path / "late", "third", b"3")])  # after the commit: its part is in
    assert append.commit() == first and held(dataset) == {"a"} and len(dataset.versions()) == 1


def test_who_comes_late_is_told(tmp_path: Path) -> None:
    dataset = Dataset(open_bucket(MemoryStore()), "d", create=True)
    append = Append(dataset, "r")
    append.write("a", [shard(tmp_path / "a", "a", b"1")])
    append.commit()
    with pytest.raises(Conflict, match="closed before 'b'"):
        append.write("b", [shard(tmp_path / "b", "b", b"2")])
    assert held(dataset) == {"a"} and append.parts() == ("a",)


def test_parts_with_a_file_in_common_conflict(tmp_path: Path) -> None:
    dataset = Dataset(open_bucket(MemoryStore()), "d", create=True)
    append = Append(dataset, "r")
    append.write("a", [shard(tmp_path / "a" / "sub", "x", b"1").parent])
    append.write("b", [shard(tmp_path / "b" / "sub", "x", b"2").parent])
    with pytest.raises(Conflict, match=r"'a' and 'b' both wrote 'sub/x'"):
        append.commit()
    assert dataset.versions() == []


def test_an_append_that_nobody_finishes_is_collected(tmp_path: Path) -> None:
    store, clock = MemoryStore(), [1e9]
    bucket = open_bucket(store, now=lambda: clock[0])
    dataset = Dataset(bucket, "d", create=True)
    append = Append(dataset, "r")
    append.write("a", [shard(tmp_path / "a", "a", b"x" * 1000)])
    policy = Policy(grace=100.0, silent=100.0)
    clock[0] += 50
    collect(bucket, policy)
    assert append.parts() == ("a",) and [u.over for u in unfinished(bucket)] == [False]
    for _ in range(5):
        clock[0] += 101
        collect(bucket, policy)
    assert not [key for key in store.objects if key.startswith("packs/") or "/appends/" in key]


def test_an_append_that_was_given_up_says_so(tmp_path: Path) -> None:
    clock = [1e9]
    bucket = open_bucket(MemoryStore(), now=lambda: clock[0])
    append = Append(Dataset(bucket, "d", create=True), "r")
    append.write("a", [shard(tmp_path / "a", "a", b"x")])
    clock[0] += 101
    collect(bucket, Policy(grace=100.0, silent=100.0))
    for late in (lambda: append.commit(), lambda: append.write("b", [shard(tmp_path / "b", "b", b"y")])):
        with pytest.raises(DataError, match="given up"):
            late()


@pytest.mark.parametrize("where", ["before", "after"])
def test_a_finisher_or_worker_that_dies_at_any_request(tmp_path: Path, where: str) -> None:
    """At each step: nothing or all is visible, and whoever comes next completes it."""
    folders = {name: shard(tmp_path / name, name, name.encode() * 100) for name in "abc"}

    def work(store: MemoryStore, names: str) -> None:
        append = Append(Dataset(open_bucket(store), "d"), "r")
        for name in names:
            append.write(name, [folders[name]])
        append.finish(3)

    step, over = 0, False
    while not over:
        store, left = MemoryStore(), [step]
        Dataset(open_bucket(store), "d", create=True)
        work(store, "a")

        def hook(verb: str, key: str, left: list[int] = left) -> None:
            left[0] -= 1
            if left[0] < 0:
                raise Killed

        setattr(store, where, hook)
        try:
            work(store, "bc")
            over = True
        except Killed:
            pass
        setattr(store, where, lambda verb, key: None)
        dataset = Dataset(open_bucket(store), "d")
        assert [held(dataset, str(v.number)) for v in dataset.versions()] in ([], [set("abc")])
        for _ in range(2):
            collect(dataset.bucket, EAGER)
        work(store, "abc")
        assert [held(dataset, str(v.number)) for v in dataset.versions()] == [set("abc")], step
        assert verify(dataset.bucket) == []
        step += 1
    assert step > 20


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_workers_finishers_and_collectors_in_any_order(tmp_path_factory: pytest.TempPathFactory, seed: int) -> None:
    """Any order, deaths anywhere: every part that was acknowledged is in the one version, which is whole."""
    root = tmp_path_factory.mktemp("append")
    store, clock = MemoryStore(), [1e9]

    def now() -> float:
        clock[0] += 1
        return clock[0]

    Dataset(open_bucket(store, now=now), "d", create=True)
    contents = [random.Random(n).randbytes(50) for n in range(2)]
    told: set[str] = set()

    def worker(name: str) -> None:
        for _ in range(3):
            try:
                append = Append(Dataset(open_bucket(store, now=now), "d"), "r")
                append.write(name, [shard(root / name, name, contents[len(name) % 2])])
                told.add(name)
                append.finish(3)
                return
            except Conflict:
                return

    def finisher() -> None:
        for _ in range(3):
            try:
                Append(Dataset(open_bucket(store, now=now), "d"), "r").commit()
            except Conflict:
                continue

    def sweep() -> None:
        for _ in range(4):
            try:
                collect(open_bucket(store, now=now), Policy(grace=-1, silent=1e6))
            except (Conflict, DataError):
                continue

    turns = Turns(seed, deaths=0.003, changes=0.05)
    store.before = turns.step
    turns.run([lambda: worker("a"), lambda: worker("bb"), lambda: worker("ccc"), finisher, sweep])
    store.before = lambda verb, key: None
    bucket = open_bucket(store, now=lambda: 1.5e9)
    dataset = Dataset(bucket, "d")
    if told:
        Append(dataset, "r").commit()
    assert [told <= held(dataset, str(v.number)) for v in dataset.versions()] == [True] * bool(dataset.versions())
    assert bool(dataset.versions()) or not told
    assert verify(bucket) == []
