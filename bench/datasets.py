"""Datasets beside restic, borg, rclone and cp on the same data in the same run.

    python -m bench.datasets [--scale 1.0] [--work FOLDER] [small big insertion s3 shards manifest]

`--scale 0.1` makes a tenth of the files. Peers that are not installed are left out and named. The data is random bytes,
so compression is off wherever it is an option; `sync` goes before each measurement; every restore is compared.
"""

from __future__ import annotations

import argparse
import random
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from bench.dataset_feed import manifest, shard
from bench.dataset_s3 import s3
from bench.dataset_tools import MIB, Borg, Cp, Rclone, Restic, change, peers, row, same, small_files, stored, timed


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
