"""A reader written from docs/datasets.md alone, with nothing of this package: what is said is what is there."""

from __future__ import annotations

import io
import json
import os
import struct
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from blake3 import blake3
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from dataset_contract import grow, tree

from osmo_ray.objects.datasets import Dataset, catalog, open_bucket
from osmo_ray.objects.datasets.collecting import Policy, collect
from osmo_ray.objects.local import LocalStore

KINDS = FILE, FOLDER, LINK = 0, 1, 2
CHECKED = ("path", "kind", "mode", "size", "digest", "target")


class Foreign:
    """A bucket in a local folder, read as the document says."""

    def __init__(self, root: Path, key: bytes | None = None) -> None:
        self.root, self.key = root, key
        told = json.loads((root / "bucket.json").read_bytes())
        assert told["format"] == 1
        if key is None:
            assert told["key_check"] == ""
        else:
            assert told["key_check"] == self.derived("osmo-ray 2026 dataset key check").hex()
        self.places = self.index()

    def derived(self, context: str) -> bytes:
        assert self.key is not None
        return bytes(blake3(self.key, derive_key_context=context).digest())

    def opened(self, stored: bytes, object: str, more: bytes = b"") -> bytes:
        if self.key is None:
            return stored
        mine = blake3(object.encode(), key=self.derived("osmo-ray 2026 dataset objects")).digest()
        return AESGCM(mine).decrypt(stored[:12], stored[12:], more)

    def id_of(self, data: bytes) -> bytes:
        keyed = {} if self.key is None else {"key": self.derived("osmo-ray 2026 dataset chunk ids")}
        return bytes(blake3(data, **keyed).digest())

    def digest_of_parts(self, parts: bytes) -> bytes:
        inner = bytes(blake3(parts, derive_key_context="osmo-ray 2026 file of several chunks").digest())
        return inner if self.key is None else self.id_of(inner)

    def whole(self, object: str) -> bytes:
        return self.opened((self.root / object).read_bytes(), object)

    def record(self, object: str) -> Any:
        return json.loads(self.whole(object))

    def numbers(self, folder: str) -> list[int]:
        there = self.root / folder
        assert all(len(path.name) == 12 for path in there.glob("*"))
        return sorted(int(path.name) for path in there.glob("*"))

    def highest(self, folder: str) -> Any:
        numbers = self.numbers(folder)
        return self.record(f"{folder}/{numbers[-1]:012}") if numbers else {}

    def table(self, object: str) -> pa.Table:
        data = self.whole(object)
        assert blake3(data).hexdigest() == object.removesuffix(".parquet")[-64:]
        return pq.read_table(io.BytesIO(data))

    def index(self) -> dict[bytes, tuple[str, int, int, int]]:
        """Where chunks are: (pack, offset, bytes, bytes as stored)."""
        packs = {str(path.relative_to(self.root / "packs")) for path in (self.root / "packs").glob("*/*")}
        found, known = {}, set()
        for segment in (self.root / "index").glob("*.parquet"):
            for row in self.table(f"index/{segment.name}").to_pylist():
                pack = row["pack"] if isinstance(row["pack"], str) else row["pack"].decode()
                known.add(pack)
                if pack in packs:
                    found[row["id"]] = (pack, row["offset"], row["size"], row["stored"])
        for pack in packs - known:
            found |= {id: (pack, *where) for id, *where in self.end_of(pack)}
        return found

    def end_of(self, pack: str) -> list[tuple[bytes, int, int, int]]:
        data = (self.root / "packs" / pack).read_bytes()
        count, sum_, magic = struct.unpack("<I32s8s", data[-44:])
        listed = data[-44 - 40 * count : -44]
        assert magic == b"OSMOPAK1" and blake3(listed).digest() == sum_
        found, offset = [], 0
        for id, size, stored in struct.iter_unpack("<32sII", listed):
            found.append((id, offset, size, stored))
            offset += stored
        return found

    def chunk(self, id: bytes) -> bytes:
        pack, offset, size, stored = self.places[id]
        with (self.root / "packs" / pack).open("rb") as file:
            file.seek(offset)
            data = self.opened(file.read(stored), f"packs/{pack}", id)
        assert self.id_of(data) == id and len(data) == size
        return data

    def version(self, name: str, selector: str = "latest") -> Any:
        id = self.highest(f"names/{name}")["id"]
        at = f"datasets/{id}"
        gone = set(self.numbers(f"{at}/deleted"))
        numbers = [number for number in self.numbers(f"{at}/versions") if number not in gone]
        if selector == "latest":
            number = numbers[-1]
        else:
            number = int(selector) if selector.isdigit() else self.highest(f"{at}/tags/{selector}")["version"]
        assert number in numbers
        found = self.record(f"{at}/versions/{number:012}")
        metadata = self.highest(f"{at}/metadata/{number}").get("values", found["metadata"])
        labels = self.highest(f"{at}/labels").get("values", {})
        return {**found, "manifest": f"{at}/{found['manifest']}", "metadata": metadata, "labels": labels}

    def restore(self, name: str, target: Path, selector: str = "latest") -> None:
        version = self.version(name, selector)
        table = self.table(version["manifest"])
        assert self.checksum(table) == version["checksum"]
        rows = table.to_pylist()
        assert [row["path"] for row in rows] == sorted(row["path"] for row in rows)
        assert sum(row["kind"] == FILE for row in rows) == version["files"]
        assert sum(row["size"] for row in rows) == version["size"]
        target.mkdir(parents=True)
        for row in rows:
            self.make(row, target / os.fsdecode(row["path"]))
        for row in reversed(rows):
            path = target / os.fsdecode(row["path"])
            if row["kind"] != LINK:
                path.chmod(row["mode"])
            os.utime(path, ns=(row["mtime_ns"], row["mtime_ns"]), follow_symlinks=False)

    def make(self, row: dict[str, Any], path: Path) -> None:
        parts = row["path"].split(b"/")
        assert row["kind"] in KINDS and not {b"", b".", b".."} & set(parts) and len(row["path"]) <= 4096
        if row["kind"] == FOLDER:
            path.mkdir()
        elif row["kind"] == LINK:
            path.symlink_to(os.fsdecode(row["target"]))
        else:
            with path.open("xb") as file:
                for id in self.chunks(row):
                    file.write(self.chunk(id))
                assert file.tell() == row["size"]

    def chunks(self, row: dict[str, Any]) -> list[bytes]:
        if row["digest"] is None:
            return []
        if row["parts"] is None:
            return [row["digest"]]
        assert self.digest_of_parts(row["parts"]) == row["digest"]
        pairs = list(struct.iter_unpack("<32sI", row["parts"]))
        assert all(self.places[id][2] == size for id, size in pairs)
        return [id for id, _ in pairs]

    @staticmethod
    def checksum(table: pa.Table) -> str:
        sums = []
        for name in CHECKED:
            values = table.column(name).to_pylist()
            binary = name in ("path", "digest", "target")
            joined = b"".join((v or b"") if binary else struct.pack("<q", v) for v in values)
            lengths = b"".join(struct.pack("<q", len(v or b"")) for v in values) if binary else b""
            sums += [blake3(joined).digest(), blake3(lengths).digest()]
        return str(blake3(b"".join(sums)).hexdigest())


@pytest.mark.parametrize("key", [None, bytes(range(32))])
def test_a_foreign_reader_reads_every_version(tmp_path: Path, key: bytes | None) -> None:
    dataset = Dataset(open_bucket(LocalStore(tmp_path / "bucket"), key=key), "old-name", create=True)
    one, two = grow(tmp_path / "one", 1), grow(tmp_path / "two", 2, large=20 << 20)
    dataset.upload([one])
    dataset.upload([two])
    dataset.update([], remove="sub/")
    dataset.tag("first", "1")
    dataset.tag("gone", "2")
    dataset.tag("gone", None)
    dataset.label({"kind": "pets"})
    dataset.describe("2", {"score": 7})
    dataset.delete("3")
    catalog.rename(dataset.bucket, "old-name", "name")
    foreign = Foreign(tmp_path / "bucket", key)
    assert foreign.highest("names/old-name")["id"] == ""
    assert foreign.version("name")["number"] == 2 and foreign.version("name", "first")["number"] == 1
    assert (foreign.version("name")["labels"], foreign.version("name")["metadata"]) == ({"kind": "pets"}, {"score": 7})
    for selector, source in (("latest", two), ("first", one)):
        foreign.restore("name", tmp_path / selector, selector)
        assert tree(tmp_path / selector) == tree(source)


def test_it_reads_what_a_collection_of_garbage_left_and_packs_without_an_index(tmp_path: Path) -> None:
    dataset = Dataset(open_bucket(LocalStore(tmp_path / "bucket")), "d", create=True)
    for seed in range(3):
        dataset.upload([grow(tmp_path / f"in{seed}", seed, large=9 << 20)])
    dataset.delete("1")
    for _ in range(2):
        collect(dataset.bucket, Policy(grace=-1, silent=3600, repack=1.0))
    Foreign(tmp_path / "bucket").restore("d", tmp_path / "out")
    assert tree(tmp_path / "out") == tree(tmp_path / "in2")
    for segment in (tmp_path / "bucket" / "index").iterdir():
        segment.unlink()
    Foreign(tmp_path / "bucket").restore("d", tmp_path / "again", "2")
    assert tree(tmp_path / "again") == tree(tmp_path / "in1")


SAMPLE = Path(__file__).with_name("format1")
"""A bucket as the first format was written, kept for good: what was stored once must be read for ever."""


def test_a_bucket_of_the_first_format_is_read(tmp_path: Path) -> None:
    assert (
        Foreign(SAMPLE).version("sample")["checksum"]
        == Dataset(open_bucket(LocalStore(SAMPLE)), "sample").version().checksum
    )
    Foreign(SAMPLE).restore("sample", tmp_path / "foreign")
    Dataset(open_bucket(LocalStore(SAMPLE)), "sample").download(tmp_path / "ours")
    assert tree(tmp_path / "ours") == tree(tmp_path / "foreign")
    assert (tmp_path / "ours" / "words").read_text() == "kept for good\n"
    assert (tmp_path / "ours" / "sub" / "link").readlink() == Path("../words")
    assert (tmp_path / "ours" / "sub" / "run").stat().st_mode & 0o777 == 0o755
    assert (tmp_path / "ours" / "words").stat().st_mtime_ns == 1_700_000_000_123_456_789
