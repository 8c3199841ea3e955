"""One bucket: a place in an object store, its seal, its records, its index.

Everything small is a numbered object that is created once (`append`), or read whole (`record`). The index is loaded
from its segments, and for packs that no segment speaks of from the packs' own ends.
"""

from __future__ import annotations

import io
import json
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from blake3 import blake3

from osmo_ray.data.errors import Corrupt, DataError
from osmo_ray.data.garbage import Condemned
from osmo_ray.data.index import ChunkIndex, segment
from osmo_ray.data.packs import TAIL_BYTES, PackEntry, footer_bytes, read_footer
from osmo_ray.data.versions import FORMAT, load_object
from osmo_ray.objects.datasets import layout
from osmo_ray.objects.datasets.seal import Seal
from osmo_ray.objects.datasets.steady import SteadyStore
from osmo_ray.objects.protocol import AlreadyExists, NoSuchObject, ObjectStore

_GUESS = 64 << 10
THREADS = 8


def open_bucket(
    store: ObjectStore,
    *,
    key: bytes | None = None,
    cache: Path | None = None,
    create: bool = True,
    now: Callable[[], float] = time.time,
) -> Bucket:
    """The bucket at `store`, made if there is none and `create` is set. `key` (32 bytes) opens an encrypted one;
    `cache` is a folder for what need not be fetched or hashed again. Raises `DataError` when the key does not fit."""
    steady, seal = SteadyStore(store), Seal(key)
    try:
        data = steady.read(layout.BUCKET)
    except NoSuchObject:
        if not create:
            raise DataError(f"{store.url} holds no datasets; check the address, or upload the first one") from None
        made = {"format": FORMAT, "id": uuid.uuid4().hex, "key_check": seal.check}
        try:
            steady.create(layout.BUCKET, json.dumps(made, sort_keys=True).encode())
        except AlreadyExists:
            pass
        data = steady.read(layout.BUCKET)
    found = load_object(data, "bucket")
    if found["key_check"] != seal.check:
        told = "is encrypted with another key" if found["key_check"] and key else "is encrypted; give its key"
        raise DataError(f"{store.url} {told if found['key_check'] else 'is not encrypted; open it without a key'}")
    return Bucket(steady, seal, str(found["id"]), cache, now)


class Bucket:
    """Made by `open_bucket`. `now` gives seconds since the epoch."""

    def __init__(self, store: ObjectStore, seal: Seal, id: str, cache: Path | None, now: Callable[[], float]) -> None:
        self.store, self.seal, self.id, self.now = store, seal, id, now
        self.cache = cache / id if cache else None

    @property
    def promises(self) -> str:
        """Empty if several writers at once are safe here, else what is then not promised."""
        if self.store.conditional:
            return ""
        return (
            f"{self.store.url} ignores conditional writes: two writers at the same moment may both believe that they "
            "made the same version, and one of them is lost; use one writer at a time, and collect no garbage meanwhile"
        )

    def append(self, folder: str, number: int, record: dict[str, Any]) -> None:
        """Create record `number` of a numbered folder. Raises `AlreadyExists`."""
        self.append_once(layout.numbered(folder, number), record)

    def append_once(self, key: str, record: dict[str, Any]) -> None:
        """Create a record under a key of its own. Raises `AlreadyExists`."""
        self.put(key, json.dumps({"format": FORMAT, **record}, sort_keys=True).encode())

    def has(self, key: str) -> bool:
        """Whether there is an object of this key."""
        try:
            self.store.stat(key)
        except NoSuchObject:
            return False
        return True

    def put_mark(self, key: str) -> None:
        """Create an object that only says that it is there, unless it is."""
        try:
            self.append_once(key, {})
        except AlreadyExists:
            pass

    def rewrite(self, key: str, record: dict[str, Any]) -> None:
        """Replace a record that has one writer only."""
        data = json.dumps({"format": FORMAT, **record}, sort_keys=True).encode()
        self.store.write(key, bytes(self.seal.close(data, key)))

    def newest(self, folder: str) -> tuple[int, dict[str, Any]]:
        """(number, record) of the highest record of a numbered folder; (0, {}) if there is none."""
        numbers = self.numbers(folder)
        return (numbers[-1], self.record(layout.numbered(folder, numbers[-1]))) if numbers else (0, {})

    def numbers(self, folder: str) -> list[int]:
        return [layout.number_of(info.key) for info in self.store.list(folder)]

    def record(self, key: str) -> dict[str, Any]:
        return load_object(self.get(key), "record")

    def put(self, key: str, data: bytes) -> None:
        """Create a sealed object. Raises `AlreadyExists`."""
        self.store.create(key, bytes(self.seal.close(data, key)))

    def get(self, key: str) -> bytes:
        return bytes(self.seal.open(self.store.read(key), key))

    def put_table(self, folder: str, table: pa.Table, session: str) -> str:
        """A table as Parquet, named by the hash of its bytes; its key."""
        sink = io.BytesIO()
        pq.write_table(
            table, sink, compression="zstd", row_group_size=1 << 16, use_dictionary=["pack"], write_statistics=["path"]
        )
        data = sink.getvalue()
        key = f"{folder}/{session}-{blake3(data).hexdigest()}.parquet"
        self.store.write(key, bytes(self.seal.close(data, key)))
        return key

    @contextmanager
    def table_file(self, key: str) -> Iterator[pq.ParquetFile]:
        """A Parquet object, verified by the hash in its name, kept in the cache if there is one."""
        if self.cache is None:
            with tempfile.TemporaryDirectory(prefix="osmo-") as folder:
                yield pq.ParquetFile(self._fetch(key, Path(folder) / "table"), memory_map=True, pre_buffer=False)
        else:
            target = self.cache / key
            if not (target.exists() and _hash(target) == _named(key)):
                self._fetch(key, target)
            yield pq.ParquetFile(target, memory_map=True, pre_buffer=False)

    def _fetch(self, key: str, target: Path) -> Path:
        for _ in range(2):  # the wire may have been at fault
            self.store.download(key, target)
            try:
                if self.seal.overhead:
                    target.write_bytes(self.seal.open(target.read_bytes(), key))
                if _hash(target) == _named(key):
                    return target
            except Corrupt:
                continue
        target.unlink()
        raise Corrupt(f"{key} is not what was stored there; restore it from a copy of the bucket")

    def condemned(self) -> list[Condemned]:
        """Every verdict that stands; `sessions` is missing (empty) until it was announced."""
        found = []
        keys = [info.key for info in self.store.list(layout.GARBAGE)]
        for key in keys:
            if key.endswith("/packs"):
                record = self._maybe(key)
                if record is None:  # swept since
                    continue
                announced = self._maybe(key.removesuffix("packs") + "sessions") or {"sessions": [UNANNOUNCED]}
                found.append(
                    Condemned(key.split("/")[1], record["at"], tuple(record["packs"]), tuple(announced["sessions"]))
                )
        return found

    def _maybe(self, key: str) -> dict[str, Any] | None:
        try:
            return self.record(key)
        except NoSuchObject:
            return None

    def index(self) -> ChunkIndex:
        """Of all packs that exist. A segment or pack that vanishes meanwhile was collected: everything is read anew."""
        for _ in range(5):
            try:
                return self._index()
            except NoSuchObject:
                continue
        return self._index()

    def _index(self) -> ChunkIndex:
        keys = [info.key for info in self.store.list(layout.INDEX)]
        packs = {info.key.removeprefix(f"{layout.PACKS}/"): info.size for info in self.store.list(layout.PACKS)}
        with ThreadPoolExecutor(THREADS) as pool:
            tables = [_only(table, packs) for table in pool.map(self.table, keys)]
            known = {name for table in tables for name in table.column("pack").unique().to_pylist()}
            new = sorted(packs.keys() - known)
            lists = list(zip(new, pool.map(lambda name: self.pack_entries(name, packs[name]), new), strict=True))
        return ChunkIndex([*tables, segment(lists)])

    def table(self, key: str) -> pa.Table:
        with self.table_file(key) as file:
            return file.read()

    def pack_entries(self, name: str, size: int) -> tuple[PackEntry, ...]:
        """The list at the end of a pack of `size` bytes. Raises `Corrupt`."""
        key = layout.pack(name)
        tail = self.store.read(key, max(0, size - _GUESS), size)
        needed = footer_bytes(tail[-TAIL_BYTES:], key)
        if needed > len(tail):
            tail = self.store.read(key, max(0, size - needed), size)
        return read_footer(tail, size, key)


UNANNOUNCED = "?"
"""Stands for the uploads of a verdict that nobody finished announcing: it is never swept, only withdrawn."""


def _only(table: pa.Table, packs: dict[str, int]) -> pa.Table:
    """The rows of packs that exist: a segment may be older than a collection."""
    names = table.column("pack").cast(pa.string())
    return table.filter(pc.is_in(names, value_set=pa.array(packs, pa.string())))


def _named(key: str) -> str:
    return key.removesuffix(".parquet")[-64:]


def _hash(path: Path) -> str:
    made = blake3()
    made.update_mmap(path)
    return str(made.hexdigest())
