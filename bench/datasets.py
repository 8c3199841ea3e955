"""Datasets beside restic, borg, rclone and cp on the same data in the same run.

    python -m bench.datasets [--scale 1.0] [--work FOLDER] [small big insertion s3 shards manifest]

`--scale 0.1` makes a tenth of the files. Peers that are not installed are left out and named. The data is random bytes,
so compression is off wherever it is an option; `sync` goes before each measurement; every restore is compared.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq

from osmo_ray.data.diff import diff
from osmo_ray.data.manifest import SCHEMA
from osmo_ray.objects import open_store
from osmo_ray.objects.datasets import Dataset, open_bucket
from osmo_ray.objects.datasets.cache import NodeCache
from osmo_ray.objects.datasets.feeding import BucketFeed, shards
from osmo_ray.objects.local import LocalStore

MIB = 1 << 20
PEERS = {"RESTIC_PASSWORD": "x", "BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK": "yes"}


@dataclass(frozen=True)
class Took:
    wall: float
    cpu: float

    def __str__(self) -> str:
        return f"{self.wall:.2f} ({self.cpu:.2f})"


def timed(work: Callable[[], object]) -> Took:
    os.sync()
    before, began = os.times(), time.monotonic()
    work()
    after = os.times()
    return Took(time.monotonic() - began, sum(after[:4]) - sum(before[:4]))


def row(name: str, *cells: object) -> None:
    print(f"  {name:<34}" + "".join(f"{cell!s:>18}" for cell in cells), flush=True)


def run(*command: object, cwd: Path | None = None, env: Mapping[str, str] = {}) -> None:
    told = {name: value for name, value in os.environ.items() if name != "AWS_CA_BUNDLE"}  # rclone refuses it
    given = [str(part) for part in command]
    done = subprocess.run(given, cwd=cwd, env={**told, **PEERS, **env}, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{command[0]}: {done.stderr[-400:]}")


def same(left: Path, right: Path) -> None:
    subprocess.run(["diff", "-rq", "--no-dereference", left, right], check=True)


def stored(folder: Path) -> float:
    return sum(f.stat().st_size for f in folder.rglob("*") if f.is_file()) / MIB


def small_files(folder: Path, count: int) -> None:
    dice = np.random.default_rng(7)
    log = np.exp(dice.uniform(np.log(1024), np.log(400 * 1024), count))
    sizes = np.where(dice.random(count) < 0.71, log, dice.uniform(1024, 400 * 1024, count)).astype(int)
    for number, size in enumerate(sizes):
        path = folder / f"d{number % 100:02}" / f"f{number:06}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(dice.bytes(int(size)))


def change(folder: Path, share: float) -> None:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    for path in random.Random(11).sample(files, max(1, int(len(files) * share))):
        path.write_bytes(os.urandom(path.stat().st_size))


class Ours:
    def __init__(self, work: Path) -> None:
        self.repo = work / "osmo"
        self.dataset = Dataset(open_bucket(LocalStore(self.repo), cache=work / "cache"), "d", create=True)

    def add(self, source: Path) -> None:
        self.dataset.upload([source])

    def restore(self, target: Path) -> None:
        self.dataset.download(target)


class Restic:
    def __init__(self, work: Path, repo: str = "", env: Mapping[str, str] = {}) -> None:
        self.repo, self._env = work / "restic", env
        self._at = repo or str(self.repo)
        run("restic", "-r", self._at, "init", env=env)

    def add(self, source: Path) -> None:
        run("restic", "-r", self._at, "--compression", "off", "backup", ".", cwd=source, env=self._env)

    def restore(self, target: Path) -> None:
        run("restic", "-r", self._at, "restore", "latest", "--target", target, env=self._env)


class Borg:
    def __init__(self, work: Path) -> None:
        self.repo, self._count = work / "borg", 0
        run("borg", "init", "-e", "none", self.repo)

    def add(self, source: Path) -> None:
        self._count += 1
        run("borg", "create", "-C", "none", f"{self.repo}::v{self._count}", ".", cwd=source)

    def restore(self, target: Path) -> None:
        target.mkdir(parents=True)
        run("borg", "extract", f"{self.repo}::v{self._count}", cwd=target)


class Rclone:
    def __init__(self, work: Path, repo: str = "", env: Mapping[str, str] = {}) -> None:
        self.repo, self._env = work / "rclone", env
        self._at = repo or str(self.repo)

    def add(self, source: Path) -> None:
        run("rclone", "sync", "--transfers", 16, "--checkers", 16, source, self._at, env=self._env)

    def restore(self, target: Path) -> None:
        run("rclone", "copy", "--transfers", 16, "--checkers", 16, self._at, target, env=self._env)


class Cp:
    def __init__(self, work: Path) -> None:
        self.repo = work / "cp"
        self.repo.mkdir()

    def add(self, source: Path) -> None:
        self._last = self.repo / str(len(list(self.repo.iterdir())))
        run("cp", "-a", source, self._last)

    def restore(self, target: Path) -> None:
        run("cp", "-a", self._last, target)


def peers(work: Path, *kinds: type) -> Iterator[tuple[str, Any]]:
    yield "osmo-ray", Ours(work)
    for kind in kinds:
        name = kind.__name__.lower()
        if shutil.which(name):
            yield name, kind(work)
        else:
            row(name, "not installed")


def small(work: Path, scale: float) -> None:
    source, count = work / "small", int(20_000 * scale)
    small_files(source, count)
    time.sleep(2.1)  # so that sizes and times are trusted from the first round on
    print(f"{count} files, {stored(source):.0f} MiB on a disk: wall s (CPU s)")
    row("", "add", "re-add", "1% changed", "restore", "stored MiB")
    tools = list(peers(work, Restic, Borg, Rclone, Cp))
    took: dict[str, list[object]] = {name: [timed(lambda t=tool: t.add(source))] for name, tool in tools}
    for name, tool in tools:
        took[name].append("-" if isinstance(tool, Cp) else timed(lambda t=tool: t.add(source)))
    change(source, 0.01)
    for name, tool in tools:
        took[name].append(timed(lambda t=tool: t.add(source)))
    for name, tool in tools:
        target = work / "out" / name
        target.parent.mkdir(exist_ok=True)
        took[name].append(timed(lambda t=tool, to=target: t.restore(to)))
        same(source, target)
        shutil.rmtree(target)
        row(name, *took[name], f"{stored(tool.repo):.0f}")


def big(work: Path, scale: float) -> None:
    source, size = work / "big", int(512 * scale) * MIB
    source.mkdir()
    for number in range(8):
        (source / f"{number}").write_bytes(np.random.default_rng(number).bytes(size))
    print(f"8 files of {size // MIB} MiB: wall s (CPU s)")
    row("", "add", "restore")
    for name, tool in peers(work, Restic, Cp):
        target = work / "out" / name
        target.parent.mkdir(exist_ok=True)
        row(name, timed(lambda t=tool: t.add(source)), timed(lambda t=tool, to=target: t.restore(to)))
        same(source, target)
        shutil.rmtree(target)
        shutil.rmtree(tool.repo)


def insertion(work: Path, scale: float) -> None:
    source, size = work / "insertion", int(512 * scale) * MIB
    source.mkdir()
    data = np.random.default_rng(5).bytes(size)
    print(f"1 MiB + 1 byte inserted in the middle of {size // MIB} MiB: MiB stored more (budget 2)")
    row("", "more MiB")
    for name, tool in peers(work, Restic, Borg):
        (source / "f").write_bytes(data)
        tool.add(source)
        before = stored(tool.repo)
        middle = size // 2 + 12_345
        (source / "f").write_bytes(data[:middle] + random.Random(3).randbytes(MIB + 1) + data[middle:])
        tool.add(source)
        row(name, f"{stored(tool.repo) - before:.2f}")


@contextlib.contextmanager
def s3_server(work: Path) -> Iterator[tuple[str, str, str, str]]:
    """(what it is, endpoint, key, secret): Ceph's gateway where Debian's radosgw is installed, else moto."""
    if shutil.which("radosgw") and shutil.which("ceph-osd"):
        from tests.servers import buckets

        (work / "ceph").mkdir()
        with buckets.ceph(work / "ceph") as server:
            yield "Ceph in memory", server.endpoint, buckets.KEY, buckets.SECRET
        return
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    command = [Path(sys.executable).with_name("moto_server"), "-H", "127.0.0.1", "-p", str(port)]
    with (work / "s3.log").open("w") as log, subprocess.Popen(command, stdout=log, stderr=log) as server:
        try:
            while server.poll() is None:
                with contextlib.suppress(OSError):
                    socket.create_connection(("127.0.0.1", port), 1).close()
                    break
                time.sleep(0.1)
            yield "moto", f"http://127.0.0.1:{port}", "testing", "testing"
        finally:
            server.terminate()


def s3(work: Path, scale: float) -> None:
    source, count = work / "s3", int(5_000 * scale)
    small_files(source, count)
    time.sleep(2.1)
    with s3_server(work) as (what, endpoint, key, secret):
        print(f"{count} files, {stored(source):.0f} MiB on S3 ({what}; its own CPU is not counted): wall s (CPU s)")
        row("", "add", "re-add", "1% changed", "restore")
        secrets = {"AWS_ACCESS_KEY_ID": key, "AWS_SECRET_ACCESS_KEY": secret}
        options = {
            "key": key,
            "secret": secret,
            "endpoint_url": endpoint,
            "client_kwargs": {"region_name": "us-east-1"},
        }
        store = open_store("s3://ours", **options)
        store._fs.call_s3("create_bucket", Bucket="ours")  # type: ignore[attr-defined]
        ours = Ours(work)
        ours.dataset = Dataset(open_bucket(store, cache=work / "s3cache"), "d", create=True)
        tools: list[tuple[str, Any]] = [("osmo-ray", ours)]
        if shutil.which("restic"):
            tools.append(("restic", Restic(work, f"s3:{endpoint}/restic", secrets)))
        if shutil.which("rclone"):
            remote = {"TYPE": "s3", "PROVIDER": "Ceph", "ENV_AUTH": "true", "ENDPOINT": endpoint}
            env = {f"RCLONE_CONFIG_R_{name}": value for name, value in remote.items()}
            tools.append(("rclone", Rclone(work, "r:rclone/p", {**secrets, **env})))
        took: dict[str, list[object]] = {
            name: [timed(lambda t=tool: t.add(source)) for _ in range(2)] for name, tool in tools
        }
        change(source, 0.01)
        for name, tool in tools:
            took[name].append(timed(lambda t=tool: t.add(source)))
        for name, tool in tools:
            target = work / "out" / f"s3-{name}"
            target.parent.mkdir(exist_ok=True)
            row(name, *took[name], timed(lambda t=tool, to=target: t.restore(to)))
            same(source, target)


def shard(work: Path, scale: float) -> None:
    source = work / "shards"
    source.mkdir()
    dice = np.random.default_rng(1)
    for number in range(8):
        columns = {"x": dice.random(int(2_000_000 * scale)), "y": dice.integers(0, 99, int(2_000_000 * scale))}
        pq.write_table(pa.table(columns), source / f"{number}.parquet", row_group_size=1 << 17)
    dataset = Dataset(open_bucket(LocalStore(work / "feed")), "d", create=True)
    dataset.upload([source])
    print(f"shards, 8 Parquet files, {stored(source):.0f} MiB: MiB/s (budget 0.9 of plain pyarrow)")
    row("", "MiB/s", "rows")
    cache = NodeCache(work / "node", 1 << 40)

    def ours() -> int:
        return sum(len(batch) for _, batch in shards(BucketFeed(dataset, cache=cache), rows=1 << 17))

    def plain() -> int:
        found = pyarrow.dataset.dataset(source)
        return sum(len(batch) for batch in found.to_batches(batch_size=1 << 17))

    began, rows = time.monotonic(), ours()
    row("osmo-ray, first time", f"{stored(source) / (time.monotonic() - began):.0f}", rows)
    rates: dict[str, list[float]] = {"osmo-ray, from the node's cache": [], "pyarrow.dataset": []}
    for _ in range(7):  # in turn, because the machine is not ours alone
        for name, read in zip(rates, (ours, plain), strict=True):
            began = time.monotonic()
            read()
            rates[name].append(stored(source) / (time.monotonic() - began))
    for name, rate in rates.items():
        row(name, f"{statistics.median(rate):.0f}", rows)


def manifest(work: Path, scale: float) -> None:
    """In a process of its own, so that the peak is its own."""
    for step in ("make_millions", "millions"):
        call = f"from bench.datasets import {step}; {step}({str(work)!r}, {scale})"
        subprocess.run([sys.executable, "-c", call], check=True)


def make_millions(work: str, scale: float) -> None:
    count = int(5_000_000 * scale)
    for version in (1, 2):
        file = Path(work) / f"manifest{version}.parquet"
        with pq.ParquetWriter(file, SCHEMA, compression="zstd", use_dictionary=False) as writer:
            for start in range(0, count, 1 << 16):
                writer.write_table(_rows(start, min(count, start + (1 << 16)), version))


def millions(work: str, scale: float) -> None:
    count = int(5_000_000 * scale)
    files = [Path(work) / f"manifest{version}.parquet" for version in (1, 2)]
    print(
        f"manifests of {count} files, {files[0].stat().st_size / MIB:.0f} MiB each: s, peak MiB of the process so far"
    )
    row("", "s", "peak MiB", "found")

    def batches(file: Path) -> Iterator[pa.Table]:
        with pq.ParquetFile(file, memory_map=True, pre_buffer=False) as opened:
            for batch in opened.iter_batches(1 << 16):
                yield pa.Table.from_batches([batch])

    def listed() -> int:
        return sum(len(batch) for batch in batches(files[0]))

    def changed() -> int:
        return sum(len(step.changed_after) for step in diff(batches(files[0]), batches(files[1])))

    def planned() -> int:
        from osmo_ray.data.shardplan import shard_plan

        sizes = np.concatenate([batch.column("size").to_numpy() for batch in batches(files[0])])
        return len(shard_plan("c", sizes, epoch=0, rank=0, world=64).items)

    for name, step in (("list", listed), ("diff, 1% changed", changed), ("plan of one rank of 64", planned)):
        began, found = time.monotonic(), step()
        status = Path("/proc/self/status").read_text()  # not ru_maxrss: that one remembers the parent's
        peak = int(status.split("VmHWM:")[1].split()[0]) / 1024
        row(name, f"{time.monotonic() - began:.1f}", f"{peak:.0f}", found)


def _rows(start: int, end: int, version: int) -> pa.Table:
    numbers = np.arange(start, end)
    digests = np.random.default_rng(start).integers(0, 256, (end - start, 32), np.uint8)
    digests[numbers % 100 == 0, 0] = version
    digests[numbers % 100 == 0, 1] = version
    count = end - start
    columns = [
        pa.array([b"d%04d/f%07d" % (n // 10_000, n) for n in numbers], pa.binary()),
        pa.array(np.zeros(count), pa.uint8()),
        pa.array(np.full(count, 0o644), pa.uint16()),
        pa.array(numbers, pa.int64()),
        pa.array(numbers % 400_000 + 1, pa.int64()),
        pa.FixedSizeBinaryArray.from_buffers(pa.binary(32), count, [None, pa.py_buffer(digests)]),
        pa.nulls(count, pa.binary()),
        pa.nulls(count, pa.binary()),
    ]
    return pa.Table.from_arrays(columns, schema=SCHEMA)


SECTIONS: dict[str, Callable[[Path, float], None]] = {
    "small": small,
    "big": big,
    "insertion": insertion,
    "s3": s3,
    "shards": shard,
    "manifest": manifest,
}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=", ".join(SECTIONS))
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--work", type=Path, help="a folder on the disk to measure (default: a temporary one)")
    given = parser.parse_args(argv)
    for name in given.sections or list(SECTIONS):
        with tempfile.TemporaryDirectory(prefix="osmo-bench-", dir=given.work) as folder:
            SECTIONS[name](Path(folder), given.scale)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
