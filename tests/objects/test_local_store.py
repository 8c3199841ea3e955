"""A folder as an object store."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from store_contract import ObjectStoreContract

from osmo_ray.objects import copying, open_store
from osmo_ray.objects.local import LocalStore
from osmo_ray.objects.protocol import NoSuchObject, ObjectError


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "store")


class TestLocalStore(ObjectStoreContract):
    def test_delete_prunes_empty_folders_but_not_the_root(self, store: LocalStore) -> None:
        store.write("a/b/c", b"")
        store.write("a/d", b"")
        store.delete(["a/b/c"])
        assert not (store.root / "a" / "b").exists() and (store.root / "a").exists()
        store.delete(["a/d"])
        assert not (store.root / "a").exists() and store.root.exists()

    def test_writing_races_with_pruning(self, store: LocalStore) -> None:
        failures: list[Exception] = []

        def work(number: int) -> None:
            try:
                for _ in range(100):
                    store.write(f"x/y/{number}", b"")
                    store.delete([f"x/y/{number}"])
            except Exception as error:
                failures.append(error)

        store._durable = False
        threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []
        assert list(store.list("")) == []

    def test_a_failed_write_leaves_nothing(self, store: LocalStore) -> None:
        class Broken:
            def read(self, size: int) -> bytes:
                raise OSError(errno.EIO, "the cable was pulled")

        store.write("k", b"old")
        with pytest.raises(ObjectError) as told:
            store.write("k", Broken())  # type: ignore[arg-type]
        assert not told.value.permanent
        assert store.read("k") == b"old"
        assert list((store.root / ".osmo-tmp").iterdir()) == []

    def test_a_full_disk_may_pass(self, store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(*_: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr("osmo_ray.objects.local.write_all", full)
        with pytest.raises(ObjectError, match="No space left") as told:
            store.write("k", b"x")
        assert not told.value.permanent

    def test_leftovers_of_the_killed_are_swept(self, store: LocalStore) -> None:
        store.write("k", b"")
        old, new = store.root / ".osmo-tmp" / "old", store.root / ".osmo-tmp" / "new"
        for path in (old, new):
            path.write_bytes(b"")
        os.utime(old, (1, 1))
        LocalStore(store.root).write("k", b"")
        assert not old.exists() and new.exists()

    def test_the_stores_own_folder_is_no_key(self, store: LocalStore) -> None:
        store.write("k", b"")
        assert [i.key for i in store.list("")] == ["k"]
        with pytest.raises(ObjectError, match="own folder"):
            store.write(".osmo-tmp/k", b"")

    def test_links_inside_are_not_followed(self, store: LocalStore, tmp_path: Path) -> None:
        store.write("k", b"")
        (tmp_path / "secret").write_text("x")
        (store.root / "link").symlink_to(tmp_path / "secret")
        (store.root / "folder").symlink_to(tmp_path)
        assert [i.key for i in store.list("")] == ["k"]
        for ask in (store.stat, store.read, lambda k: store.download(k, tmp_path / "t")):
            with pytest.raises((NoSuchObject, ObjectError)):
                ask("link")

    def test_a_pipe_does_not_hang(self, store: LocalStore, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(ObjectError, match="regular file"):
            store.upload(tmp_path / "pipe", "k")

    def test_an_object_is_no_folder(self, store: LocalStore) -> None:
        store.write("a", b"")
        with pytest.raises(ObjectError, match="in the way") as told:
            store.write("a/b", b"")
        assert told.value.permanent
        store.write("c/d", b"")
        with pytest.raises(ObjectError, match="in the way"):
            store.write("c", b"")

    def test_sign_says_what_to_do(self, store: LocalStore) -> None:
        with pytest.raises(ObjectError, match="--storage-gateway"):
            store.sign("k", "GET", 60)

    def test_everything_is_fsynced_before_it_is_acknowledged(
        self, store: LocalStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        synced: list[str] = []
        real = os.fsync

        def note(opened: int) -> None:
            synced.append(str(Path(f"/proc/self/fd/{opened}").readlink()))
            real(opened)

        monkeypatch.setattr(os, "fsync", note)
        store.write("a/b/c", b"x")
        assert synced[0].startswith(str(store.root / ".osmo-tmp"))
        assert {str(store.root / "a" / "b"), str(store.root / "a"), str(store.root)} <= set(synced[1:])


@pytest.mark.parametrize("broken", ["", "_reflink", "_in_kernel", "both"])
def test_every_way_of_copying_gives_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str) -> None:
    def refuse(*_: object) -> int:
        raise OSError(errno.EXDEV, "another filesystem")

    if broken in ("_reflink", "both"):
        monkeypatch.setattr("fcntl.ioctl", refuse)
    if broken in ("_in_kernel", "both"):
        monkeypatch.setattr(os, "copy_file_range", refuse)
    (tmp_path / "a").write_bytes(b"0123456789" * 300_000)
    with (tmp_path / "a").open("rb") as source, (tmp_path / "b").open("wb") as target:
        assert copying.copy(source.fileno(), target.fileno()) == 3_000_000
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_urls(tmp_path: Path) -> None:
    spaced = tmp_path / "a b%"
    for url in (str(spaced), spaced.as_uri()):
        opened = open_store(url)
        assert isinstance(opened, LocalStore) and opened.root == spaced and opened.url == spaced.as_uri()
    for bad in ("ftp://host/x", "file://host/x"):
        with pytest.raises(ObjectError) as told:
            open_store(bad)
        assert told.value.permanent


def test_the_local_store_needs_only_the_standard_library() -> None:
    script = "import sys, osmo_ray.objects as o; o.open_store('/tmp'); print(*{m.split('.')[0] for m in sys.modules})"
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    ours = {m for m in out if m not in sys.stdlib_module_names and not m.startswith("_") and m != "sitecustomize"}
    assert not ours & {"fsspec", "httpx", "numpy", "ray", "pydantic", "sqlalchemy", "yaml"}
    assert "osmo_ray" in ours
