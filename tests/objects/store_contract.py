"""What every object store does, whatever is behind it. Each store's test file inherits this class and names itself by
a fixture `store`, an empty store."""

from __future__ import annotations

import io
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from osmo_ray.objects.protocol import AlreadyExists, NoSuchObject, ObjectError, ObjectStore

BAD_KEYS = [
    "",
    "/a",
    "a//b",
    "a/",
    "../a",
    "a/../b",
    "./a",
    "a/./b",
    "..",
    "a\nb",
    "a\x00b",
    "a/" + "k" * 2000,
    "\ud800",
]
KEYS = st.lists(st.text("ab-.~ é", min_size=1, max_size=3).filter(lambda p: p.strip(" .")), min_size=1, max_size=3)


class ObjectStoreContract:
    conditional = True

    def test_what_is_written_is_read(self, store: ObjectStore) -> None:
        assert store.write("a/b/c.txt", b"hello") == 5
        assert store.read("a/b/c.txt") == b"hello"
        info = store.stat("a/b/c.txt")
        assert (info.key, info.size) == ("a/b/c.txt", 5)
        assert info.modified == 0.0 or info.modified > 1.6e9

    def test_an_empty_object_is_an_object(self, store: ObjectStore) -> None:
        assert store.write("empty", b"") == 0
        assert store.stat("empty").size == 0
        assert store.read("empty") == b""

    def test_write_replaces_and_takes_streams(self, store: ObjectStore) -> None:
        store.write("k", b"old and long")
        assert store.write("k", io.BytesIO(b"new")) == 3
        assert store.read("k") == b"new"

    @pytest.mark.parametrize(
        ("start", "end", "want"),
        [
            (0, 3, b"012"),
            (3, None, b"3456789"),
            (3, 3, b""),
            (5, 4, b""),
            (8, 99, b"89"),
            (10, None, b""),
            (20, 30, b""),
        ],
    )
    def test_ranges(self, store: ObjectStore, start: int, end: int | None, want: bytes) -> None:
        store.write("digits", b"0123456789")
        assert store.read("digits", start, end) == want

    def test_what_is_not_there(self, store: ObjectStore, tmp_path: Path) -> None:
        store.write("folder/x", b"1")
        for key in ("none", "folder", "folder/x2", "none/none"):
            for ask in (store.stat, store.read, lambda k: store.download(k, tmp_path / "t")):
                with pytest.raises(NoSuchObject) as told:
                    ask(key)
                assert told.value.permanent
        assert not (tmp_path / "t").exists()

    def test_create_is_only_for_a_free_key(self, store: ObjectStore) -> None:
        assert store.conditional is self.conditional
        store.create("tags/latest.1", b"first")
        with pytest.raises(AlreadyExists) as told:
            store.create("tags/latest.1", b"second")
        assert told.value.permanent
        assert store.read("tags/latest.1") == b"first"

    def test_one_of_many_creates_wins(self, store: ObjectStore) -> None:
        won: list[int] = []
        lost: list[int] = []
        together = threading.Barrier(8)

        def one(number: int) -> None:
            together.wait()
            try:
                store.create("race/one", str(number).encode())
                won.append(number)
            except AlreadyExists:
                lost.append(number)

        threads = [threading.Thread(target=one, args=(n,)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(won) == 1 and len(lost) == 7
        assert store.read("race/one") == str(won[0]).encode()

    def test_list_is_recursive_and_in_order_of_key(self, store: ObjectStore) -> None:
        keys = ["a", "b-c/x", "b/x", "b/y/z", "b.txt", "b/y.txt", "bb/x", "b0"]
        for key in keys:
            store.write(key, key.encode())
        assert [(i.key, i.size) for i in store.list("")] == [(k, len(k)) for k in sorted(keys)]
        assert [i.key for i in store.list("b")] == ["b/x", "b/y.txt", "b/y/z"]
        assert [i.key for i in store.list("b/")] == ["b/x", "b/y.txt", "b/y/z"]
        assert [i.key for i in store.list("b/y")] == ["b/y/z"]
        assert list(store.list("b/x")) == []
        assert list(store.list("none/none")) == []

    def test_delete_removes_and_passes_over_what_is_absent(self, store: ObjectStore) -> None:
        for key in ("d/1", "d/2", "d/deep/3", "keep"):
            store.write(key, b"x")
        store.delete(iter(["d/1", "d/none", "d/deep/3", "d"]))
        assert [i.key for i in store.list("")] == ["d/2", "keep"]
        store.delete(["d/2"])
        assert list(store.list("d")) == []
        store.write("d", b"now an object")
        assert store.read("d") == b"now an object"

    def test_files_go_up_and_come_down(self, store: ObjectStore, tmp_path: Path) -> None:
        source = tmp_path / "source.bin"
        data = bytes(range(256)) * (3 * 4096 + 1)
        source.write_bytes(data)
        assert store.upload(source, "big/one") == len(data)
        assert store.stat("big/one").size == len(data)
        target = tmp_path / "new" / "folder" / "target.bin"
        assert store.download("big/one", target) == len(data)
        assert target.read_bytes() == data
        source.write_bytes(b"")
        assert store.upload(source, "big/one") == 0
        assert store.download("big/one", target) == 0
        assert target.read_bytes() == b""
        assert [p.name for p in target.parent.iterdir()] == ["target.bin"]

    def test_only_regular_files_go_up(self, store: ObjectStore, tmp_path: Path) -> None:
        (tmp_path / "secret").write_text("x")
        (tmp_path / "link").symlink_to(tmp_path / "secret")
        for bad in ("link", "absent", "."):
            with pytest.raises(ObjectError) as told:
                store.upload(tmp_path / bad, "k")
            assert told.value.permanent
        assert list(store.list("")) == []

    @pytest.mark.parametrize("key", BAD_KEYS)
    def test_bad_keys_are_refused_everywhere(self, store: ObjectStore, key: str, tmp_path: Path) -> None:
        (tmp_path / "f").write_bytes(b"x")
        asks = (
            lambda: store.stat(key),
            lambda: store.read(key),
            lambda: store.write(key, b""),
            lambda: store.create(key, b""),
            lambda: store.delete([key]),
            lambda: store.upload(tmp_path / "f", key),
            lambda: store.download(key, tmp_path / "t"),
        )
        for ask in asks:
            with pytest.raises(ObjectError) as told:
                ask()
            assert told.value.permanent

    def test_names_that_people_use(self, store: ObjectStore) -> None:
        keys = sorted(
            ["with space/a b", "percent%20/100%", "plus+/a+b", "hash#/q?x=1&y=2", "ünï/çode 名", "quote'\"", "a:b@c"]
        )
        for key in keys:
            store.write(key, key.encode())
        assert [i.key for i in store.list("")] == keys
        assert [store.read(k).decode() for k in keys] == keys

    def test_list_shows_what_was_written(self, store: ObjectStore) -> None:
        @settings(max_examples=10, deadline=None)
        @given(parts=st.lists(KEYS, max_size=8), data=st.binary(max_size=20))
        def check(parts: list[list[str]], data: bytes) -> None:
            store.delete([i.key for i in store.list("")])
            kept: list[str] = []
            for key in sorted({"/".join(p) for p in parts}):
                if not any(key.startswith(f"{k}/") or k.startswith(f"{key}/") for k in kept):
                    store.write(key, data)
                    kept.append(key)
            assert [i.key for i in store.list("")] == sorted(kept)
            assert all(store.read(k) == data for k in kept)

        check()
