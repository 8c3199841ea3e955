"""What datasets do on every object store. Each store's test file inherits this and gives a fixture `store`."""

from __future__ import annotations

import os
import random
import stat
import threading
from pathlib import Path

import pytest

from osmo_ray.data.errors import Conflict, DataError, NoSuchDataset
from osmo_ray.data.versions import Lineage, Requires
from osmo_ray.objects.datasets import Dataset, open_bucket
from osmo_ray.objects.datasets.collecting import Policy, collect, verify
from osmo_ray.objects.datasets.dataset import About, Source
from osmo_ray.objects.protocol import ObjectStore

Tree = dict[bytes, tuple[object, ...]]
NOW = Policy(grace=-1.0, silent=3600.0)


def tree(root: Path) -> Tree:
    """Everything that a restore must bring back."""
    found: Tree = {}
    base = os.fsencode(root)
    for folder, folders, files in os.walk(base):
        for name in folders + files:
            path = folder + b"/" + name
            status = os.lstat(path)
            told: object = None
            if stat.S_ISLNK(status.st_mode):
                told = os.readlink(path)  # noqa: PTH115
            elif stat.S_ISREG(status.st_mode):
                told = Path(os.fsdecode(path)).read_bytes()
            mode = None if stat.S_ISLNK(status.st_mode) else stat.S_IMODE(status.st_mode)
            found[os.path.relpath(path, base)] = (stat.S_IFMT(status.st_mode), mode, status.st_mtime_ns, told)
    return found


def grow(root: Path, seed: int = 1, files: int = 12, large: int = 9 << 20) -> Path:
    dice = random.Random(seed)
    (root / "empty").mkdir(parents=True)
    (root / "sub" / "deep").mkdir(parents=True)
    for number in range(files):
        path = root / ("sub" if number % 2 else "sub/deep") / f"f{number}"
        path.write_bytes(dice.randbytes(dice.choice([0, 1, 1000, 50_000])))
        path.chmod(dice.choice([0o644, 0o600, 0o755]))
        os.utime(path, ns=(10**18 + number, 10**18 + number))
    (root / "large").write_bytes(dice.randbytes(large))
    (root / "link").symlink_to("sub/f1")
    (root / "broken link").symlink_to("/nowhere")
    return root


class DatasetContract:
    def test_a_tree_comes_back_as_it_was(self, store: ObjectStore, tmp_path: Path) -> None:
        source = grow(tmp_path / "in")
        made = Dataset(open_bucket(store), "robots", create=True).upload([source], About("first", "me"))
        again = Dataset(open_bucket(store, create=False), "robots")
        again.download(tmp_path / "out")
        assert tree(tmp_path / "out") == tree(source)
        assert (made.number, made.message, made.created_by) == (1, "first", "me")
        assert again.version() == made

    def test_what_is_there_is_not_sent_again(self, store: ObjectStore, tmp_path: Path) -> None:
        source = grow(tmp_path / "in")
        dataset = Dataset(open_bucket(store), "d", create=True)
        first = dataset.upload([source])
        packs = list(store.list("packs"))
        second = dataset.upload([source])
        assert list(store.list("packs")) == packs
        assert (second.number, second.checksum) == (2, first.checksum)
        (source / "sub" / "f1").write_bytes(b"changed")
        dataset.upload([source])
        assert sum(info.size for info in store.list("packs")) - sum(info.size for info in packs) < 1000
        changes = [(change.name, path) for step in dataset.diff("1", "3") for change, path in step.changes()]
        assert changes == [("CHANGED", b"sub/f1")]

    def test_disjoint_updates_of_one_base_all_land(self, store: ObjectStore, tmp_path: Path) -> None:
        bucket = open_bucket(store)
        Dataset(bucket, "d", create=True).upload([grow(tmp_path / "in", large=10)])
        together, errors = threading.Barrier(6), []

        def one(number: int) -> None:
            new = tmp_path / f"new{number}"
            new.write_bytes(b"%d" % number)
            mine = Dataset(open_bucket(store), "d")
            together.wait()
            try:
                mine.update([new], base="1")
            except Exception as error:
                errors.append(error)

        _all(one, 6)
        assert not errors, errors
        dataset = Dataset(bucket, "d")
        assert [version.number for version in dataset.versions()] == list(range(1, 8))
        paths = {entry.path for entry in dataset.entries()}
        assert {b"new%d" % n for n in range(6)} <= paths and b"large" in paths

    def test_one_of_twelve_gets_the_version_that_all_want(self, store: ObjectStore, tmp_path: Path) -> None:
        (tmp_path / "f").write_bytes(b"x")
        Dataset(open_bucket(store), "d", create=True).upload([tmp_path / "f"])
        together, won, lost = threading.Barrier(12), [], []

        def one(number: int) -> None:
            mine = Dataset(open_bucket(store), "d")
            together.wait()
            try:
                won.append(mine.upload([tmp_path / "f"], About(str(number)), expect=2))
            except Conflict as error:
                lost.append(error)

        _all(one, 12)
        assert len(won) == 1 and len(lost) == 11
        assert Dataset(open_bucket(store), "d").version() == won[0]

    def test_updates_of_the_same_path_conflict(self, store: ObjectStore, tmp_path: Path) -> None:
        for name in ("a", "b"):
            (tmp_path / name).mkdir()
            (tmp_path / name / "same").write_bytes(name.encode())
        dataset = Dataset(open_bucket(store), "d", create=True)
        dataset.upload([tmp_path / "a"])
        (tmp_path / "a" / "same").write_bytes(b"a2")
        dataset.update([tmp_path / "a"], base="1")
        with pytest.raises(Conflict, match="same"):
            dataset.update([tmp_path / "b"], base="1")
        assert dataset.version().number == 2

    def test_updates_remove_and_put_on_top(self, store: ObjectStore, tmp_path: Path) -> None:
        source = grow(tmp_path / "in", large=10)
        (tmp_path / "extra").write_bytes(b"e")
        dataset = Dataset(open_bucket(store), "d", create=True)
        dataset.upload([source])
        dataset.update([Source(tmp_path / "extra", "sub/deep/new")], remove="sub/f|sub/deep/f")
        paths = {entry.path for entry in dataset.entries()}
        assert paths == {b"large", b"link", b"broken link", b"empty", b"sub", b"sub/deep", b"sub/deep/new"} | {
            b"sub/deep/new/extra"
        }
        assert [version.number for version in dataset.log()] == [2, 1]

    def test_tags_labels_and_metadata(self, store: ObjectStore, tmp_path: Path) -> None:
        (tmp_path / "f").write_bytes(b"x")
        dataset = Dataset(open_bucket(store), "d", create=True)
        dataset.upload([tmp_path / "f"], About(metadata={"a": {"b": 1}, "c": 2}))
        dataset.upload([tmp_path / "f"])
        dataset.tag("good", "1")
        assert dataset.version("good").number == 1 and dataset.tags() == {"good": 1}
        with pytest.raises(Conflict, match="good"):
            dataset.delete("1")
        with pytest.raises(Conflict, match="not 2"):
            dataset.tag("good", "1", Requires("good", 2))
        dataset.tag("good", None, Requires("good", 1))
        assert dataset.tags() == {}
        assert dataset.describe("1", {"a": {"d": 3}, "c": None}) == {"a": {"b": 1, "d": 3}}
        assert dataset.metadata("1") == {"a": {"b": 1, "d": 3}} and dataset.metadata("2") == {}
        assert dataset.label({"kind": "sim"}) == {"kind": "sim"} == dataset.labels()

    def test_latest_falls_back_and_numbers_are_never_used_twice(self, store: ObjectStore, tmp_path: Path) -> None:
        (tmp_path / "f").write_bytes(b"x")
        dataset = Dataset(open_bucket(store), "d", create=True)
        for _ in range(2):
            dataset.upload([tmp_path / "f"])
        dataset.delete()
        assert dataset.version().number == 1
        with pytest.raises(NoSuchDataset):
            dataset.version("2")
        assert dataset.upload([tmp_path / "f"]).number == 3

    def test_garbage_goes_and_nothing_else(self, store: ObjectStore, tmp_path: Path) -> None:
        bucket = open_bucket(store)
        dataset = Dataset(bucket, "d", create=True)
        old, new = grow(tmp_path / "old", 1, large=10), grow(tmp_path / "new", 2, large=10)
        dataset.upload([old])
        dataset.upload([new])
        dataset.delete("1")
        before = sum(info.size for info in store.list("packs"))
        assert collect(bucket, NOW).condemned == 1
        assert collect(bucket, NOW).deleted == 1
        assert sum(info.size for info in store.list("packs")) < before
        dataset.download(tmp_path / "out")
        assert tree(tmp_path / "out") == tree(new)
        assert verify(bucket) == []

    def test_wrong_bytes_are_never_given_out(self, store: ObjectStore, tmp_path: Path) -> None:
        source = grow(tmp_path / "in")
        bucket = open_bucket(store)
        dataset = Dataset(bucket, "d", create=True)
        dataset.upload([source])
        pack = next(info for info in store.list("packs"))
        data = bytearray(store.read(pack.key))
        data[len(data) // 2] ^= 1
        store.write(pack.key, bytes(data))
        with pytest.raises(DataError, match="damaged"):
            dataset.download(tmp_path / "out")
        out = tree(tmp_path / "out")
        assert all(b".osmo-part" in path or out[path][3] == tree(source)[path][3] for path in out if out[path][3])
        assert len(verify(bucket)) == 1

    def test_an_encrypted_bucket_shows_nothing(self, store: ObjectStore, tmp_path: Path) -> None:
        source = tmp_path / "in"
        source.mkdir()
        (source / "name-of-file").write_bytes(b"the secret " * 1000)
        Dataset(open_bucket(store, key=b"k" * 32), "d", create=True).upload([source])
        for info in store.list(""):
            assert b"secret" not in store.read(info.key) and b"name-of-file" not in store.read(info.key)
        for wrong in (None, b"x" * 32):
            with pytest.raises(DataError, match="encrypted"):
                open_bucket(store, key=wrong)
        Dataset(open_bucket(store, key=b"k" * 32), "d").download(tmp_path / "out")
        assert tree(tmp_path / "out") == tree(source)

    def test_an_attempt_commits_once_and_not_after_a_later_one(self, store: ObjectStore, tmp_path: Path) -> None:
        dataset = Dataset(open_bucket(store), "robots", create=True)

        def attempt(retry: int, text: str) -> int:
            (tmp_path / "x").write_text(text)
            about = About(lineage=Lineage(retry=retry), writer="task/0")
            return dataset.upload([tmp_path / "x"], about).number

        assert attempt(0, "a") == 1
        assert attempt(0, "a") == 1, "the same attempt once more, as after a crash before it could tell"
        assert dataset.upload([tmp_path / "x"], About()).number == 2, "people may upload the same twice"
        assert attempt(1, "a") == 1, "a retry that made the same files makes no other version"
        assert attempt(2, "b") == 3
        with pytest.raises(Conflict, match="later attempt"):
            attempt(1, "c")
        assert [v.number for v in dataset.versions()] == [1, 2, 3]

    def test_a_late_attempt_that_races_with_a_later_one_loses(self, store: ObjectStore, tmp_path: Path) -> None:
        dataset = Dataset(open_bucket(store), "robots", create=True)
        ready = threading.Barrier(6)
        told: list[object] = []

        def attempt(retry: int) -> None:
            (tmp_path / f"{retry}").write_text(f"{retry}")
            ready.wait()
            about = About(lineage=Lineage(retry=retry), writer="task/0")
            try:
                told.append(dataset.upload([tmp_path / f"{retry}"], about).lineage.retry)
            except Conflict as error:
                told.append(error)

        threads = [threading.Thread(target=attempt, args=(n,)) for n in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        made = [version.lineage.retry for version in dataset.versions()]
        assert made == sorted(made) and made[-1] == 5 and len(told) == 6
        assert sorted(t for t in told if isinstance(t, int)) == made


def _all(work: object, count: int) -> None:
    threads = [threading.Thread(target=work, args=(n,)) for n in range(count)]  # type: ignore[arg-type]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
