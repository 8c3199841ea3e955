"""What goes wrong must show as an error or not at all: nothing published is ever wrong, nothing acknowledged lost."""

from __future__ import annotations

import errno
import os
import random
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from dataset_contract import NOW, grow, tree
from faulty_stores import Killed, MemoryStore, Turns, die_at

from osmo_ray.data.errors import Conflict, Corrupt, DataError
from osmo_ray.objects.datasets import Dataset, open_bucket
from osmo_ray.objects.datasets.bucket import Bucket
from osmo_ray.objects.datasets.collecting import Policy, collect, verify
from osmo_ray.objects.datasets.steady import SteadyStore
from osmo_ray.objects.local import LocalStore
from osmo_ray.objects.protocol import ObjectError


def quick(bucket: Bucket) -> Bucket:
    """Without the pauses between tries."""
    assert isinstance(bucket.store, SteadyStore)
    bucket.store._pause = 0.0
    return bucket


def steps_of_an_upload(source: Path) -> int:
    store, count = MemoryStore(), 0

    def counted(verb: str, key: str) -> None:
        nonlocal count
        count += 1

    dataset = Dataset(open_bucket(store), "d", create=True)
    store.before = counted
    dataset.upload([source])
    return count


@pytest.mark.parametrize("where", ["before", "after"])
def test_an_upload_that_dies_at_any_request_publishes_nothing_or_all(tmp_path: Path, where: str) -> None:
    old, new = grow(tmp_path / "old", 1, 4, large=10), grow(tmp_path / "new", 2, 4, large=10)
    for step in range(steps_of_an_upload(new)):
        store = MemoryStore()
        dataset = Dataset(open_bucket(store), "d", create=True)
        dataset.upload([old])
        left = step

        def hook(verb: str, key: str) -> None:
            nonlocal left
            left -= 1
            if left < 0:
                raise Killed

        setattr(store, where, hook)
        try:
            dataset.upload([new])
            acknowledged = True
        except Killed:
            acknowledged = False
        setattr(store, where, lambda verb, key: None)
        again = Dataset(open_bucket(store), "d")
        numbers = [version.number for version in again.versions()]
        assert numbers in ([1], [1, 2]) and (not acknowledged or numbers == [1, 2])
        collect(again.bucket, Policy(grace=-1, silent=-1))
        collect(again.bucket, Policy(grace=-1, silent=-1))
        last = again.upload([new])
        assert verify(again.bucket) == [], step
        again.download(tmp_path / f"out{step}", str(last.number))
        assert tree(tmp_path / f"out{step}") == tree(new)


def test_what_was_sent_before_a_crash_is_not_sent_again(tmp_path: Path) -> None:
    source = grow(tmp_path / "in", large=9 << 20)
    store = MemoryStore()
    dataset = Dataset(open_bucket(store), "d", create=True)

    def die(verb: str, key: str) -> None:
        if key.startswith("index/"):
            raise Killed

    store.before = lambda verb, key: die(verb, key) if verb == "write" else None
    with pytest.raises(Killed):
        dataset.upload([source])
    store.before = lambda verb, key: None
    packs = {key for key in store.objects if key.startswith("packs/")}
    assert packs
    dataset.upload([source])
    assert {key for key in store.objects if key.startswith("packs/")} == packs


@pytest.mark.parametrize("seed", range(6))
def test_errors_that_pass_do_no_harm(tmp_path: Path, seed: int) -> None:
    source = grow(tmp_path / "in", seed, large=9 << 20)
    store, dice = MemoryStore(), random.Random(seed)

    def trouble(verb: str, key: str) -> None:
        if dice.random() < 0.15:
            raise ObjectError("503 slow down, or the connection was reset", permanent=False)

    store.before = store.after = trouble
    while True:
        try:
            bucket = quick(open_bucket(store))
            break
        except ObjectError:
            continue
    bucket.store._tries = 40  # type: ignore[attr-defined]
    dataset = Dataset(bucket, "d", create=True)
    for number in (1, 2):
        assert dataset.upload([source]).number == number
    dataset.download(tmp_path / "out")
    assert tree(tmp_path / "out") == tree(source)


def test_a_wrong_answer_of_the_wire_is_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = grow(tmp_path / "in", large=9 << 20)
    store = MemoryStore()
    Dataset(open_bucket(store), "d", create=True).upload([source])
    real, left = store.read, [2]

    def flips(key: str, start: int = 0, end: int | None = None) -> bytes:
        data = bytearray(real(key, start, end))
        if key.startswith("packs/") and left[0] and end and end - start > 100_000:
            left[0] -= 1
            data[7] ^= 255
        return bytes(data)

    monkeypatch.setattr(store, "read", flips)
    Dataset(open_bucket(store), "d").download(tmp_path / "out")
    assert tree(tmp_path / "out") == tree(source) and left == [0]


@pytest.mark.parametrize("kind", ["manifests", "versions", "index", "packs"])
def test_a_damaged_object_is_an_error(tmp_path: Path, kind: str) -> None:
    store = MemoryStore()
    Dataset(open_bucket(store), "d", create=True).upload([grow(tmp_path / "in", large=10)])
    key = next(key for key in sorted(store.objects) if kind in key.split("/"))
    whole = store.objects[key]
    for damaged in (whole[: len(whole) // 2], b"", bytes([whole[0] ^ 255]) + whole[1:]):
        store.objects[key] = damaged
        with pytest.raises((Corrupt, DataError)):
            Dataset(open_bucket(store), "d").download(tmp_path / f"out-{len(damaged)}-{damaged[:1]!r}")


def test_a_full_disk_publishes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = grow(tmp_path / "in", large=9 << 20)
    bucket = quick(open_bucket(LocalStore(tmp_path / "bucket", durable=False)))
    dataset = Dataset(bucket, "d", create=True)

    def full(target: int, data: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("osmo_ray.objects.local.write_all", full)
        with pytest.raises(ObjectError, match="No space left"):
            dataset.upload([source])
    assert dataset.versions() == []
    dataset.upload([source])
    assert verify(bucket) == []


@pytest.mark.parametrize("step", range(1, 8))
@pytest.mark.parametrize("what", ["upload", "collect"])
def test_kill_9_in_each_phase(tmp_path: Path, what: str, step: int) -> None:
    """A real process, killed before its n-th write, create or delete in a folder that is fsynced."""
    old, new = grow(tmp_path / "old", 1, 4, large=10), grow(tmp_path / "new", 2, 4, large=10)
    dataset = Dataset(open_bucket(LocalStore(tmp_path / "bucket")), "d", create=True)
    dataset.upload([old])
    dataset.upload([new])
    dataset.delete("1")
    if what == "collect":
        collect(dataset.bucket, NOW)
    child = os.fork()
    if child == 0:
        store, hook = LocalStore(tmp_path / "bucket"), die_at(step, {"write"})
        real = {name: getattr(store, name) for name in ("write", "create", "delete")}
        for name, work in real.items():
            setattr(store, name, lambda *a, work=work: (hook("write", ""), work(*a))[1])
        mine = Dataset(open_bucket(store), "d")
        if what == "upload":
            mine.upload([old])
        else:
            collect(mine.bucket, NOW)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert (os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL) or os.WEXITSTATUS(status) == 0
    again = Dataset(open_bucket(LocalStore(tmp_path / "bucket"), now=lambda: 9e9), "d")
    last = again.version()
    assert verify(again.bucket) == []
    again.download(tmp_path / "out")
    assert tree(tmp_path / "out") == tree(new if last.number == 2 else old)
    for _ in range(3):
        collect(again.bucket, Policy(grace=-1, silent=3600))
    assert again.upload([old]).number > last.number
    assert verify(again.bucket) == []


@pytest.mark.parametrize("seed", range(30))
def test_garbage_is_collected_beside_uploads_that_may_die(tmp_path: Path, seed: int) -> None:
    """Writers, deleters and collectors in any order, dying anywhere: every version that stands is whole."""
    dice = random.Random(seed)
    contents = [dice.randbytes(40) for _ in range(3)]
    store, clock = MemoryStore(), [1e9]

    def now() -> float:
        clock[0] += 1
        return clock[0]

    def files(name: str, dice: random.Random) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        for number, data in enumerate(dice.sample(contents, dice.choice([1, 2]))):
            (folder / f"{number}").write_bytes(data)
        return folder

    patience = Policy(grace=-1, silent=1e6 if seed % 2 else -1, repack=1.0)
    seedling = Dataset(open_bucket(store, now=now), "d", create=True)
    seedling.upload([files("first", dice)])
    acknowledged: list[int] = []

    def write(name: str) -> None:
        own = random.Random(f"{seed}{name}")
        for round in range(4):
            mine = Dataset(open_bucket(store, now=now), "d")
            try:
                if own.random() < 0.3:
                    acknowledged.append(mine.update([files(f"{name}{round}", own)]).number)
                else:
                    acknowledged.append(mine.upload([files(f"{name}{round}", own)]).number)
                if own.random() < 0.8:
                    mine.delete(str(mine.versions()[0].number))
            except DataError:
                continue

    def sweep() -> None:
        for _ in range(6):
            try:
                collect(open_bucket(store, now=now), patience)
            except (Conflict, DataError):
                continue

    turns = Turns(seed, deaths=0.002, changes=0.03)
    store.before = turns.step
    turns.run([lambda: write("a"), lambda: write("b"), sweep])
    store.before = lambda verb, key: None
    bucket = open_bucket(store, now=lambda: 2e9)
    assert verify(bucket) == []
    standing = {version.number for version in Dataset(bucket, "d").versions()}
    gone = set(bucket.numbers(f"datasets/{Dataset(bucket, 'd').id}/deleted"))
    assert set(acknowledged) <= standing | gone
    nothing_leaks(store, 3e9)


def nothing_leaks(store: MemoryStore, at: float) -> None:
    """When all versions are deleted, and all the dead are given up, no pack and no manifest stays."""
    bucket = at_time(store, at)
    dataset = Dataset(bucket, "d")
    for version in dataset.versions():
        dataset.delete(str(version.number), force=True)
    for days in (2, 4, 6, 8):
        collect(at_time(store, at, days))
    left = [key for key in store.objects if key.startswith("packs/") or "/manifests/" in key]
    assert left == []


def at_time(store: MemoryStore, at: float, days: int = 0) -> Bucket:
    return open_bucket(store, now=lambda: at + days * 86400)


def at_the_commit(store: MemoryStore, act: Callable[[], None]) -> None:
    """Do something once, when an upload is about to make its version."""

    def before(verb: str, key: str) -> None:
        if verb == "create" and "/versions/" in key:
            store.before = lambda verb, key: None
            act()

    store.before = before


def die() -> None:
    raise Killed


def test_a_deleted_version_above_hides_none_below_it_from_an_update(tmp_path: Path) -> None:
    """Another writer's version came meanwhile, and one more that was deleted: its changes are not lost."""
    store = MemoryStore()
    dataset = Dataset(open_bucket(store), "d", create=True)
    for name in ("a", "b", "c", "mine"):
        (tmp_path / name).write_text(name)
    dataset.upload([tmp_path / "a"])

    def meanwhile() -> None:
        other = Dataset(open_bucket(store), "d")
        other.update([tmp_path / "b"])
        other.update([tmp_path / "c"])
        other.delete("3")

    at_the_commit(store, meanwhile)
    made = dataset.update([tmp_path / "mine"], base="1")
    assert (made.number, made.parent) == (4, 2)
    assert [entry.path for entry in dataset.entries("4")] == [b"a", b"b", b"mine"]


def test_an_upload_that_died_just_before_its_version_is_collected(tmp_path: Path) -> None:
    store = MemoryStore()
    dataset = Dataset(at_time(store, 1e9), "d", create=True)
    dataset.upload([grow(tmp_path / "one", 1, 4, large=10)])
    before = set(store.objects)
    at_the_commit(store, die)
    with pytest.raises(Killed):
        dataset.upload([grow(tmp_path / "two", 2, 4, large=10)])
    assert {key for key in set(store.objects) - before if key.startswith("packs/")}
    early = at_time(store, 1e9 + 3600)
    collect(early)
    assert verify(early) == [] and not [key for key in store.objects if key.endswith("/void")]
    for days in (2, 4, 6):
        collect(at_time(store, 1e9, days))
    late = Dataset(at_time(store, 1e9, 8), "d")
    assert {key for key in store.objects if key.startswith("packs/")} <= before
    assert [v.number for v in late.versions()] == [1] and verify(late.bucket) == []
    assert late.upload([tmp_path / "two"]).number == 3, "the number of the dead one is not used again"
    nothing_leaks(store, 2e9)


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("collections", [1, 2, 3])
def test_an_upload_that_sleeps_just_before_its_version_wakes_too_late(
    tmp_path: Path, collections: int, first: bool
) -> None:
    """It is told, and nothing of it is seen; while it sleeps readers see what there was."""
    store = MemoryStore()
    dataset = Dataset(at_time(store, 1e9), "d", create=True)
    if not first:
        dataset.upload([grow(tmp_path / "one", 1, 4, large=10)])

    def sleep() -> None:
        for number in range(collections):
            collect(at_time(store, 1e9, number + 2))

    at_the_commit(store, sleep)
    with pytest.raises(DataError, match="gave it up"):
        dataset.upload([grow(tmp_path / "two", 2, 4, large=10)])
    bucket = at_time(store, 2e9)
    assert [v.number for v in Dataset(bucket, "d").versions()] == ([] if first else [1]) and verify(bucket) == []
    nothing_leaks(store, 2e9)


def collect_until(store: MemoryStore, step: int) -> bool:
    """A collection two days later that dies before its `step`-th change; whether it came to its end."""
    left = [step]

    def count(verb: str, key: str) -> None:
        left[0] -= verb in ("write", "create", "delete")
        if left[0] < 0:
            raise Killed

    store.before = count
    try:
        collect(at_time(store, 1e9, 2))
    except Killed:
        return False
    finally:
        store.before = lambda verb, key: None
    return True


def test_a_collection_that_dies_anywhere_while_it_ends_an_upload(tmp_path: Path) -> None:
    """And the upload wakes right then: its version is whole, or it is told."""
    one, two = grow(tmp_path / "one", 1, 4, large=10), grow(tmp_path / "two", 2, 4, large=10)
    told = []
    for step in range(60):
        store, made, ended = MemoryStore(), 0, []
        dataset = Dataset(at_time(store, 1e9), "d", create=True)
        dataset.upload([one])
        at_the_commit(store, lambda: ended.append(collect_until(store, step)))  # noqa: B023 - called in this round
        try:
            made = dataset.upload([two]).number
        except DataError as error:
            assert "gave it up" in str(error)
            told.append(step)
        store.delete([key for key in list(store.objects) if key.startswith("collectors/")])
        for days in (3, 5, 7, 9):
            assert verify(at_time(store, 1e9, days)) == []
            collect(at_time(store, 1e9, days))
        late = Dataset(at_time(store, 1e9, 11), "d")
        assert [v.number for v in late.versions()] == ([1, made] if made else [1])
        late.download(tmp_path / f"out{step}")
        assert tree(tmp_path / f"out{step}") == tree(two if made else one)
        nothing_leaks(store, 2e9)
        if ended == [True]:
            assert 0 < len(told) < step, "both ends were seen"
            return
    raise AssertionError("a collection takes fewer steps")
