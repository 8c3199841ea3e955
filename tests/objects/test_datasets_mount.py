"""A version as a folder: what FUSE asks, without and with a kernel."""

from __future__ import annotations

import errno
import os
import random
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from dataset_contract import grow, tree
from faulty_stores import MemoryStore
from hypothesis import given, settings
from hypothesis import strategies as st

from osmo_ray.data.errors import DataError
from osmo_ray.objects.datasets import Dataset, open_bucket
from osmo_ray.objects.datasets.cache import NodeCache
from osmo_ray.objects.datasets.filesystem import Tree
from osmo_ray.objects.datasets.mounting import View, cannot, mount
from osmo_ray.objects.local import LocalStore


@pytest.fixture
def view(tmp_path: Path) -> View:
    dataset = Dataset(open_bucket(MemoryStore()), "d", create=True)
    dataset.upload([grow(tmp_path / "in", large=20 << 20)])
    return View(Tree(dataset, "1"), NodeCache(tmp_path / "node", 1 << 30))


def test_everything_is_there(view: View, tmp_path: Path) -> None:
    assert sorted(view.names("/")) == ["broken link", "empty", "large", "link", "sub"]
    assert view.names("/empty") == [] and view.link("/link") == "sub/f1"
    assert stat.S_ISDIR(view.attributes("/")["st_mode"]) and stat.S_ISLNK(view.attributes("/link")["st_mode"])
    for name in view.names("/sub/deep"):
        told, real = view.attributes(f"/sub/deep/{name}"), (tmp_path / "in/sub/deep" / name).stat()
        assert (told["st_size"], told["st_mtime"]) == (real.st_size, real.st_mtime_ns)
        assert told["st_mode"] == real.st_mode & ~0o222
        handle = view.open(f"/sub/deep/{name}")
        assert view.read(handle, 1 << 20, 0) == (tmp_path / "in/sub/deep" / name).read_bytes()
        view.close(handle)
    for wrong, why in (("/none", errno.ENOENT), ("/large/x", errno.ENOENT)):
        with pytest.raises(OSError) as told:
            view.attributes(wrong)
        assert told.value.errno == why
    with pytest.raises(NotADirectoryError):
        view.names("/large")


@settings(max_examples=30, deadline=None)
@given(asks=st.lists(st.tuples(st.integers(0, 21 << 20), st.integers(1, 3 << 20)), max_size=12), on=st.booleans())
def test_any_reads_of_a_large_file(tmp_path_factory: pytest.TempPathFactory, asks: list, on: bool) -> None:
    if not hasattr(test_any_reads_of_a_large_file, "made"):
        root = tmp_path_factory.mktemp("large")
        (root / "in").mkdir()
        (root / "in" / "large").write_bytes(random.Random(4).randbytes(20 << 20))
        dataset = Dataset(open_bucket(MemoryStore()), "d", create=True)
        dataset.upload([root / "in"])
        made = View(Tree(dataset, "1"), NodeCache(root / "node", 1 << 30)), (root / "in" / "large").read_bytes()
        test_any_reads_of_a_large_file.made = made  # type: ignore[attr-defined]
    view, want = test_any_reads_of_a_large_file.made  # type: ignore[attr-defined]
    handle, at = view.open("/large"), 0
    for start, size in asks:
        at = at if on else start
        assert view.read(handle, size, at) == want[at : at + size]
        at += size
    view.close(handle)


def test_a_read_fetches_what_is_around_it(tmp_path: Path) -> None:
    store = MemoryStore()
    dataset = Dataset(open_bucket(store), "d", create=True)
    dataset.upload([grow(tmp_path / "in", large=40 << 20)])
    view = View(Tree(dataset, "1"), NodeCache(tmp_path / "node", 1 << 30))
    handle, real, fetched = view.open("/large"), store.read, [0]

    def counted(key: str, start: int = 0, end: int | None = None) -> bytes:
        data = real(key, start, end)
        fetched[0] += len(data) if key.startswith("packs/") and end else 0
        return data

    view.read(handle, 10, 0)  # the index is read with the first
    store.read = counted  # type: ignore[method-assign]
    view.read(handle, 10, 30 << 20)
    assert 0 < fetched[0] < 2 << 20


def test_wrong_bytes_are_an_error(tmp_path: Path) -> None:
    store = MemoryStore()
    dataset = Dataset(open_bucket(store), "d", create=True)
    dataset.upload([grow(tmp_path / "in", large=9 << 20)])
    for key in [key for key in store.objects if key.startswith("packs/")]:
        data = store.objects[key]
        store.objects[key] = bytes(byte ^ 255 for byte in data[:4096]) + data[4096 : len(data) // 2] * 2
    view = View(Tree(dataset, "1"), NodeCache(tmp_path / "node", 1 << 30))
    with pytest.raises(OSError) as told:
        view.read(view.open("/large"), 9 << 20, 0)
    assert told.value.errno == errno.EIO


def test_where_it_cannot_be_it_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = Dataset(open_bucket(MemoryStore()), "d", create=True)
    dataset.upload([grow(tmp_path / "in", large=10)])
    with monkeypatch.context() as patch:
        patch.setattr(os, "access", lambda path, mode: path != "/dev/fuse")
        with pytest.raises(DataError, match=r"no /dev/fuse.*download the version"):
            mount(dataset, "1", tmp_path, NodeCache(tmp_path / "node", 1 << 30))
    monkeypatch.setattr(os, "access", lambda path, mode: True)
    monkeypatch.setitem(sys.modules, "mfusepy", None)
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    assert "osmo-ray[mount]" in cannot(tmp_path)


_MOUNT = """
import sys
from pathlib import Path
from osmo_ray.objects.datasets import Dataset, open_bucket
from osmo_ray.objects.datasets.cache import NodeCache
from osmo_ray.objects.datasets.mounting import mount
from osmo_ray.objects.local import LocalStore
bucket, target, cache = map(Path, sys.argv[1:])
mount(Dataset(open_bucket(LocalStore(bucket)), "d"), "1", target, NodeCache(cache, 1 << 30))
"""


@pytest.mark.root
@pytest.mark.servers
def test_a_real_mount(tmp_path: Path) -> None:
    """Through the kernel: the same tree, read-only, ranges of large files, gone when its program ends."""
    source, target = grow(tmp_path / "in", large=30 << 20), tmp_path / "mounted"
    Dataset(open_bucket(LocalStore(tmp_path / "bucket")), "d", create=True).upload([source])
    target.mkdir()
    argv = [sys.executable, "-c", _MOUNT, str(tmp_path / "bucket"), str(target), str(tmp_path / "node")]
    server = subprocess.Popen(argv, stderr=subprocess.PIPE)
    try:
        deadline = time.monotonic() + 30
        while not os.path.ismount(target):
            assert server.poll() is None, server.communicate()[1].decode()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert not cannot(tmp_path / "in").startswith("this host") and "not empty" in cannot(target)
        want = {
            path: (kind, mode if mode is None else mode & ~0o222, mtime, data)
            for path, (kind, mode, mtime, data) in tree(source).items()
        }
        assert tree(target) == want
        with (target / "large").open("rb") as file:
            file.seek(25 << 20)
            assert file.read(1000) == (source / "large").read_bytes()[25 << 20 : (25 << 20) + 1000]
        with pytest.raises(OSError, match="Read-only"):
            (target / "new").write_text("x")
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(30)
    assert not os.path.ismount(target)
