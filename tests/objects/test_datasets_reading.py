"""Any tree through a folder and back; the node's cache, the filesystem, the shards."""

from __future__ import annotations

import io
import os
import random
import sys
import tarfile
import tempfile
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from dataset_contract import grow, tree
from faulty_stores import MemoryStore
from hypothesis import given, settings
from hypothesis import strategies as st

from osmo_ray.data.errors import DataError
from osmo_ray.objects.datasets import Dataset, open_bucket
from osmo_ray.objects.datasets.cache import NodeCache
from osmo_ray.objects.datasets.feeding import BucketFeed, Worker, shards
from osmo_ray.objects.datasets.filesystem import DatasetFileSystem
from osmo_ray.objects.datasets.reading import Reader

PART = st.binary(min_size=1, max_size=6).filter(lambda p: not set(p) & {0, 47} and p not in (b".", b".."))
SHAPE = st.recursive(
    st.one_of(
        st.tuples(st.just("file"), st.binary(max_size=300), st.integers(0o400, 0o777), st.integers(0, 2**61)),
        st.tuples(st.just("link"), PART),
    ),
    lambda inner: st.dictionaries(PART, inner, max_size=4),
    max_leaves=12,
)


def build(shape: object, path: bytes) -> None:
    if isinstance(shape, dict):
        os.mkdir(path)  # noqa: PTH102 - bytes paths
        for name, inner in shape.items():
            build(inner, path + b"/" + name)
    elif shape[0] == "link":  # type: ignore[index]
        os.symlink(shape[1], path)  # type: ignore[index]  # noqa: PTH211
    else:
        _, data, mode, mtime = shape  # type: ignore[misc]
        Path(os.fsdecode(path)).write_bytes(data)
        os.chmod(path, mode)  # noqa: PTH101
        os.utime(path, ns=(mtime, mtime))


@settings(max_examples=40, deadline=None)
@given(st.dictionaries(PART, SHAPE, max_size=5), st.sampled_from([None, b"k" * 32]))
def test_any_tree_comes_back(shape: object, key: bytes | None) -> None:
    with tempfile.TemporaryDirectory() as folder:
        build(shape, os.fsencode(f"{folder}/in"))
        dataset = Dataset(open_bucket(MemoryStore(), key=key), "d", create=True)
        dataset.upload([Path(folder, "in")])
        dataset.download(Path(folder, "out"))
        assert tree(Path(folder, "out")) == tree(Path(folder, "in"))


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    found = Dataset(open_bucket(MemoryStore(), cache=tmp_path / "cache"), "d", create=True)
    found.upload([grow(tmp_path / "in")])
    return found


def test_what_was_hashed_is_not_read_again(dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "in"
    monkeypatch.setattr("osmo_ray.objects.datasets.tree._FRESH_NS", -(10**12))
    dataset.upload([source])
    monkeypatch.setattr("osmo_ray.objects.datasets.adding._open", lambda item: pytest.fail(f"read {item.path!r}"))
    assert dataset.upload([source]).checksum == dataset.version("1").checksum
    monkeypatch.undo()
    (source / "sub" / "f1").write_bytes(b"new")
    dataset.upload([source])
    assert dataset.find(b"sub/f1").size == 3


def _interrupt(opened: int, data: object) -> None:
    raise KeyboardInterrupt


def test_a_restore_goes_on_where_it_stopped(dataset: Dataset, tmp_path: Path) -> None:
    out = tmp_path / "out"
    dataset.download(out)
    (out / "sub" / "f1").write_bytes(b"damaged")
    (out / "large").unlink()
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("osmo_ray.objects.datasets.restoring.write_all", _interrupt)
        dataset.download(out, resume=True)
    assert list(out.rglob(".osmo-part-*"))
    with pytest.raises(DataError, match="not empty"):
        dataset.download(out)
    assert dataset.download(out, resume=True) >= dataset.find(b"large").size
    assert tree(out) == tree(tmp_path / "in")
    assert dataset.download(out, resume=True) == 0


def test_a_restore_never_writes_through_a_link(dataset: Dataset, tmp_path: Path) -> None:
    (tmp_path / "victim").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "sub").symlink_to(tmp_path / "victim")
    with pytest.raises(DataError, match="in the way"):
        dataset.download(tmp_path / "out", resume=True)
    assert list((tmp_path / "victim").iterdir()) == []


def test_a_pipe_is_refused(dataset: Dataset, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "in" / "pipe")
    with pytest.raises(DataError, match="pipe"):
        dataset.upload([tmp_path / "in"])
    assert len(dataset.versions()) == 1


def test_a_regex_chooses(dataset: Dataset, tmp_path: Path) -> None:
    dataset.download(tmp_path / "out", regex="sub/f")
    assert {p.parent.name for p in (tmp_path / "out").rglob("f*")} == {"sub"}


def test_the_cache_fetches_once_and_notices_damage(dataset: Dataset, tmp_path: Path) -> None:
    cache, reader = NodeCache(tmp_path / "node", 1 << 30), Reader(dataset.bucket)
    entry = dataset.find(b"large")
    want = (tmp_path / "in" / "large").read_bytes()
    held = cache.path(entry, reader)
    asked: list[str] = []
    store = dataset.bucket.store._store  # type: ignore[attr-defined]
    store.before = lambda verb, key: asked.append(key)
    cache.give(entry, tmp_path / "one", reader, link=True)
    cache.give(entry, tmp_path / "two", reader)
    assert asked == [] and (tmp_path / "one").stat().st_ino == held.stat().st_ino
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes() == want
    assert (tmp_path / "two").stat().st_mtime_ns == entry.mtime_ns
    held.chmod(0o600)
    with held.open("r+b") as file:
        file.write(b"x")
    cache.give(entry, tmp_path / "three", reader)
    assert (tmp_path / "three").read_bytes() == want and asked


def test_the_cache_keeps_its_limit(dataset: Dataset, tmp_path: Path) -> None:
    cache, reader = NodeCache(tmp_path / "node", 10 << 20), Reader(dataset.bucket)
    for entry in dataset.entries():
        if entry.digest and entry.size < 1 << 20:
            cache.path(entry, reader)
    first = cache.size()
    cache.path(dataset.find(b"large"), reader)
    assert first > 0 and cache.size() <= 10 << 20
    (tmp_path / "more").write_bytes(random.Random(9).randbytes(9 << 20))
    dataset.update([tmp_path / "more"])
    cache.path(dataset.find(b"more"), reader)
    assert cache.size() <= 10 << 20


def test_the_filesystem_reads_ranges(dataset: Dataset, tmp_path: Path) -> None:
    fs = DatasetFileSystem({"b": dataset.bucket})
    want = (tmp_path / "in" / "large").read_bytes()
    assert fs.cat_file("osmo://b/d@1/large", 5_000_000, 5_000_100) == want[5_000_000:5_000_100]
    assert fs.cat_file("b/d/large") == want and fs.cat_file("b/d/large", -7) == want[-7:]
    with fs.open("osmo://b/d/large") as file:
        file.seek(8_999_990)
        assert file.read(100) == want[8_999_990:9_000_090]
    assert sorted(fs.ls("osmo://b/d", detail=False)) == [
        f"b/d/{name}" for name in ("broken link", "empty", "large", "link", "sub")
    ]
    assert {Path(p).name for p in fs.find("b/d/sub")} == {f"f{n}" for n in range(12)}
    assert fs.isdir("b/d/empty") and fs.isfile("b/d/large") and not fs.exists("b/d/none")
    assert fs.size("b/d/large") == len(want)
    for wrong, error in (("b/d/none", FileNotFoundError), ("b/d/sub", IsADirectoryError)):
        with pytest.raises(error):
            fs.open(wrong)
    with pytest.raises(OSError, match="never changes"):
        fs.open("b/d/new", "wb")


def test_the_filesystem_fetches_what_is_touched(dataset: Dataset) -> None:
    fs = DatasetFileSystem({"b": dataset.bucket})
    fs.info("b/d/large")
    sizes: list[int] = []
    store = dataset.bucket.store._store  # type: ignore[attr-defined]
    real = store.read
    store.read = lambda key, start=0, end=None: sizes.append((end or 0) - start) or real(key, start, end)
    fs.cat_file("b/d/large", 5_000_000, 5_000_010)
    assert sum(size for size in sizes if size > 0) < 3 << 20


def test_it_is_known_to_fsspec_when_registered(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules["fsspec.registry"]._registry, "osmo", DatasetFileSystem)  # for this test alone
    with fsspec.open("osmo://b/d@1/sub/f1", buckets={"b": dataset.bucket}) as file:
        assert file.read() == fsspec.filesystem("osmo", buckets={"b": dataset.bucket}).cat_file("b/d/sub/f1")


@pytest.fixture
def feed(tmp_path: Path) -> Dataset:
    folder = tmp_path / "feed"
    folder.mkdir()
    for number in range(7):
        table = pa.table({"x": range(number * 100, number * 100 + 100)})
        pq.write_table(table, folder / f"{number}.parquet", row_group_size=30)
    found = Dataset(open_bucket(MemoryStore()), "feed", create=True)
    found.upload([folder])
    return found


def test_the_ranks_of_an_epoch_read_every_row_once(feed: Dataset) -> None:
    for epoch in range(2):
        seen = [
            x
            for rank in range(3)
            for _, batch in shards(BucketFeed(feed), Worker(rank, 3, epoch), rows=17)
            for x in batch.column("x").to_pylist()
        ]
        assert sorted(seen) == list(range(700)) and seen != list(range(700))


def test_a_worker_goes_on_from_any_cursor(feed: Dataset) -> None:
    whole = list(shards(BucketFeed(feed), Worker(1, 2), rows=17))
    rows = [x for _, batch in whole for x in batch.column("x").to_pylist()]
    done = 0
    for cursor, batch in whole:
        done += len(batch)
        rest = [
            x
            for _, b in shards(BucketFeed(feed), Worker(1, 2, cursor=cursor), rows=25)
            for x in b.column("x").to_pylist()
        ]
        assert rest == rows[done:]


def test_tars_and_plain_files_are_samples(tmp_path: Path) -> None:
    folder = tmp_path / "w"
    folder.mkdir()
    with tarfile.open(folder / "a.tar", "w") as tar:
        for name, data in (("d/1.jpg", b"j1"), ("d/1.cls.txt", b"c1"), ("d/2.jpg", b"j2")):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    found = Dataset(open_bucket(MemoryStore()), "w", create=True)
    found.upload([folder])
    rows = [row for _, batch in shards(BucketFeed(found)) for row in batch.to_pylist()]
    assert rows == [
        {"__key__": "d/1", "cls.txt": b"c1", "jpg": b"j1"},
        {"__key__": "d/2", "cls.txt": None, "jpg": b"j2"},
    ]
    (tmp_path / "plain").write_bytes(b"p")
    found.upload([tmp_path / "plain"])
    assert [b.to_pylist() for _, b in shards(BucketFeed(found))] == [[{"path": b"plain", "bytes": b"p"}]]
