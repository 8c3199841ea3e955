"""Datasets on real servers, and what happens to them when wires, disks, servers and clients die."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import real_places
from dataset_contract import NOW, DatasetContract, grow, tree
from faulty_wire import FAULTS, wire
from test_real_stores import gcs_store, s3_store

from osmo_ray.data.errors import DataError
from osmo_ray.objects.datasets import Dataset, open_bucket
from osmo_ray.objects.datasets.bucket import Bucket
from osmo_ray.objects.datasets.collecting import Policy, collect, verify
from osmo_ray.objects.local import LocalStore
from osmo_ray.objects.protocol import ObjectError
from osmo_ray.objects.remote import FsspecStore
from tests.servers import buckets

pytestmark = pytest.mark.servers


class TestVersitygwDatasets(DatasetContract):
    @pytest.fixture
    def store(self, versitygw: buckets.Server) -> FsspecStore:
        return s3_store(versitygw)


class TestCephDatasets(DatasetContract):
    @pytest.fixture
    def store(self, ceph: buckets.Server) -> FsspecStore:
        return s3_store(ceph)


class TestGoogleDatasets(DatasetContract):
    @pytest.fixture
    def store(self, google: buckets.Server) -> FsspecStore:
        return gcs_store(google)


def test_without_conditional_writes_one_writer_works_and_garbage_stays(rclone: buckets.Server, tmp_path: Path) -> None:
    bucket = open_bucket(s3_store(rclone))
    assert "two writers at the same moment" in bucket.promises
    dataset = Dataset(bucket, "d", create=True)
    for number in (1, 2):
        source = grow(tmp_path / f"in{number}", number)
        assert dataset.upload([source]).number == number
    dataset.download(tmp_path / "out")
    assert tree(tmp_path / "out") == tree(source)
    with pytest.raises(DataError, match="cannot collect garbage safely"):
        collect(bucket, NOW)


@pytest.fixture(params=["versitygw", "ceph", "google", "azurite"])
def place(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> real_places.Place:
    """An empty place on each kind of real server."""
    server = request.getfixturevalue(request.param)
    real_places.impatient(monkeypatch)
    kinds = {"google": real_places.google, "azurite": real_places.azure}
    return kinds.get(request.param, real_places.s3)(server)


def through(place: real_places.Place, endpoint: str) -> Bucket:
    """The same bucket by another address, tried again without pauses, and many times."""
    found = open_bucket(place.hasty(int(endpoint.rpartition(":")[2])))
    found.store._tries, found.store._pause = 60, 0.0  # type: ignore[attr-defined]
    return found


@pytest.mark.parametrize("fault", FAULTS)
def test_a_bad_wire_does_no_harm(place: real_places.Place, fault: str, tmp_path: Path) -> None:
    """Every fault on a real server's wire, at a fifth of all requests: it takes longer, and is right."""
    store, source = place.store(), grow(tmp_path / "in", 3)
    Dataset(open_bucket(store), "d", create=True)
    dice, calm = random.Random(fault), [True]

    def plan(method: str, path: str) -> str:
        # wrong bytes can only be noticed where they have a hash: in what is read of packs and tables
        hashed = method == "GET" and re.search(r"(/|%2F)packs(/|%2F)|\.parquet", path) and "prefix=" not in path
        if place.kind == "google":  # the rest is what it says about objects
            hashed = hashed and "alt=media" in path
        if calm[0] or (fault == "wrong" and not hashed):
            return ""
        return fault if dice.random() < 0.2 else ""

    with wire(place.port, plan) as between:
        dataset = Dataset(through(place, between.endpoint), "d")
        calm[0] = False
        for number in (1, 2):
            assert dataset.upload([source]).number == number
        for number in range(30):
            try:
                dataset.download(tmp_path / f"out{number}")
                break
            except DataError as error:  # the same piece was wrong twice: told, and nothing wrong was given out
                assert fault == "wrong" and ("damaged" in str(error) or "not what was stored" in str(error))
        calm[0] = True
        assert fault in between.done
    assert tree(tmp_path / f"out{number}") == tree(source)
    assert [v.number for v in Dataset(open_bucket(store), "d").versions()] == [1, 2]
    assert verify(open_bucket(store)) == []


def test_a_server_that_is_killed_while_it_is_written_to(tmp_path: Path) -> None:
    """kill -9 of the server in the middle, and back with what its disk has."""
    with buckets.versitygw(tmp_path / "server") as server:
        place, source = real_places.s3(server), grow(tmp_path / "in", 4)
        store = place.store()
        dataset = Dataset(open_bucket(store), "d", create=True)
        dataset.upload([source])
        hit, seen = threading.Event(), [0]

        def plan(method: str, path: str) -> str:
            seen[0] += method == "PUT"
            if seen[0] == 3:
                hit.set()
            return ""

        def kill() -> None:
            assert hit.wait(60)
            server.stop(signal.SIGKILL)
            server.start()

        killer = threading.Thread(target=kill)
        killer.start()
        with wire(server.port, plan) as between:
            mine = Dataset(through(place, between.endpoint), "d")
            mine.bucket.store._pause = 0.02  # type: ignore[attr-defined]
            (source / "large").write_bytes(random.Random(5).randbytes(12 << 20))
            assert mine.upload([source]).number == 2
        killer.join()
        Dataset(open_bucket(store), "d").download(tmp_path / "out")
        assert tree(tmp_path / "out") == tree(source)
        assert verify(open_bucket(store)) == []


_WRITER = """
import json, os, signal, sys
from pathlib import Path
from osmo_ray.objects import open_store
from osmo_ray.objects.datasets import Dataset, open_bucket
from osmo_ray.objects.datasets.collecting import Policy, collect
what, url, options, step, source = sys.argv[1:]
store = open_store(url, **json.loads(options))
bucket, left = open_bucket(store), [int(step)]
def stepping(work):
    def call(*args):
        left[0] -= 1
        if left[0] < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return work(*args)
    return call
for verb in ("write", "create", "delete"):
    setattr(store, verb, stepping(getattr(store, verb)))
store.conditional
if what == "upload":
    Dataset(bucket, "d").upload([Path(source)])
else:
    collect(bucket, Policy(grace=-1, silent=3600))
"""


def killed(what: str, place: real_places.Place, step: int, source: Path) -> bool:
    """Whether the process was killed before its `step`-th change; it ends well when it makes fewer."""
    argv = [what, place.url, json.dumps(place.options), str(step), str(source)]
    done = subprocess.run([sys.executable, "-c", _WRITER, *argv], capture_output=True, text=True, timeout=120)
    assert done.returncode in (0, -signal.SIGKILL), done.stderr
    return done.returncode != 0


@pytest.mark.parametrize("what", ["upload", "collect"])
def test_kill_9_of_the_client_in_each_phase(place: real_places.Place, what: str, tmp_path: Path) -> None:
    old, new = grow(tmp_path / "old", 1, 4, large=10), grow(tmp_path / "new", 2, 4, large=10)
    store = place.store()
    dataset = Dataset(open_bucket(store), "d", create=True)
    dataset.upload([old])
    dataset.upload([new])
    dataset.delete("1")
    if what == "collect":
        collect(dataset.bucket, NOW)
    for step in range(40):
        died = killed(what, place, step, old)
        again = Dataset(open_bucket(store), "d")
        assert verify(again.bucket) == [], step
        again.download(tmp_path / f"out{step}")
        assert tree(tmp_path / f"out{step}") == tree(new if again.version().number == 2 else old)
        if what == "collect":  # the dead one holds the right to collect for a while
            store.delete(info.key for info in list(store.list("collectors")))
        if not died:
            break
    assert not died and step > 3
    late = Dataset(open_bucket(store, now=lambda: time.time() + 9e5), "d")
    for _ in range(2):
        collect(late.bucket, Policy(grace=-1, silent=3600))
    assert verify(late.bucket) == []
    for version in late.versions():
        late.delete(str(version.number))
    for _ in range(3):
        collect(late.bucket, Policy(grace=-1, silent=3600))
    assert not list(store.list("packs")), "what the dead ones had sent is garbage too"


def test_after_a_kill_only_what_is_missing_is_sent(place: real_places.Place, tmp_path: Path) -> None:
    source, store = grow(tmp_path / "in", 6), place.store()
    dataset = Dataset(open_bucket(store), "d", create=True)
    step = 0
    while killed("upload", place, step, source) and not list(store.list("packs")):
        step += 1
    there = {info.key for info in store.list("packs")}
    assert there and dataset.versions() == []
    assert dataset.upload([source]).number == 1
    assert {info.key for info in store.list("packs")} == there


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "disk"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", place], check=True)
    yield place
    subprocess.run(["umount", "-l", place], check=True)


@pytest.mark.root
def test_a_full_disk_below_the_server(small_disk: Path, tmp_path: Path) -> None:
    """The upload says so and nothing is published; when there is room, it goes on."""
    with buckets.versitygw(tmp_path / "server", small_disk) as server:
        store = s3_store(server)
        bucket = open_bucket(store)
        bucket.store._tries = 2  # type: ignore[attr-defined]
        dataset = Dataset(bucket, "d", create=True)
        first = grow(tmp_path / "a", 1, large=1 << 20)
        dataset.upload([first])
        (small_disk / "ballast").write_bytes(bytes(5 << 20))
        second = grow(tmp_path / "b", 2, large=11 << 20)
        with pytest.raises(ObjectError):
            dataset.upload([second])
        assert [v.number for v in dataset.versions()] == [1] and verify(open_bucket(store)) == []
        (small_disk / "ballast").unlink()
        os.sync()
        assert dataset.upload([second]).number == 2
        dataset.download(tmp_path / "out")
        assert tree(tmp_path / "out") == tree(second)


def test_twelve_writers_on_a_real_server_beside_a_collector(place: real_places.Place, tmp_path: Path) -> None:
    store = place.store()
    Dataset(open_bucket(store), "d", create=True)
    together, numbers, errors = threading.Barrier(13), [], []

    def write(number: int) -> None:
        (tmp_path / f"f{number}").write_bytes(b"%d" % number * 1000)
        together.wait()
        try:
            numbers.append(Dataset(open_bucket(store), "d").upload([tmp_path / f"f{number}"]).number)
        except Exception as error:
            errors.append(error)

    def sweep() -> None:
        together.wait()
        for _ in range(3):
            collect(open_bucket(store), Policy(grace=-1, silent=3600))

    threads = [threading.Thread(target=write, args=(n,)) for n in range(12)] + [threading.Thread(target=sweep)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors, errors
    assert sorted(numbers) == list(range(1, 13))
    assert verify(open_bucket(store)) == []


@pytest.mark.root
def test_a_folder_on_a_full_disk(small_disk: Path, tmp_path: Path) -> None:
    bucket = open_bucket(LocalStore(small_disk / "bucket"))
    bucket.store._tries = 2  # type: ignore[attr-defined]
    dataset = Dataset(bucket, "d", create=True)
    (small_disk / "ballast").write_bytes(bytes(8 << 20))
    source = grow(tmp_path / "in", 3, large=9 << 20)
    with pytest.raises(ObjectError, match="No space left"):
        dataset.upload([source])
    assert dataset.versions() == [] and verify(bucket) == []
    (small_disk / "ballast").unlink()
    assert dataset.upload([source]).number == 1
    dataset.download(tmp_path / "out")
    assert tree(tmp_path / "out") == tree(source)
