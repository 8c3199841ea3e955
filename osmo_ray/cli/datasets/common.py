"""What the verbs of datasets share: names, patterns, a progress line, errors in the client's words."""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from osmo_ray.cli.command import Command
from osmo_ray.sdk.errors import ClientError

if TYPE_CHECKING:
    from osmo_ray.data.names import Reference
    from osmo_ray.objects.datasets.dataset import Dataset
    from osmo_ray.objects.protocol import ObjectStore
    from osmo_ray.sdk.client import Client

_EVERY = 0.25
THREADS = 16


def verb(
    arguments: Callable[[argparse.ArgumentParser], None],
    action: Callable[[argparse.Namespace], int],
    *,
    json: bool = True,
) -> Command:
    """A verb whose refusals by data and storage are told like the platform's."""

    def run(args: argparse.Namespace) -> int:
        from osmo_ray.data.errors import DataError
        from osmo_ray.objects.protocol import ObjectError

        try:
            return action(args)
        except (DataError, ObjectError, OSError) as error:
            raise ClientError(str(error), status=400, code="USER") from None
        except re.error as error:
            raise ClientError(f"not a regular expression: {error}", status=400, code="USAGE") from None

    return Command(arguments, run, json=json)


def patterns(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--regex", "-x", default="", help="only paths that match from their beginning")
    parser.add_argument(
        "--glob", "-g", nargs="+", action="extend", default=[], metavar="GLOB",
        help="only paths like these: * within a name, ** across folders; without / names anywhere",
    )  # fmt: skip


def pattern(args: argparse.Namespace) -> str:
    """The one expression that `--regex` and `--glob` mean. Raises `ClientError`."""
    if args.regex and args.glob:
        raise ClientError("give --regex or --glob, not both", status=400, code="USAGE")
    return "|".join(f"(?:{glob_regex(one)})" for one in args.glob) or args.regex


def glob_regex(glob: str) -> str:
    """`*.png` -> any PNG, `a/*.png` -> those right in a, `a/**` -> all below a."""
    parts = re.split(r"(\*\*/|\*\*|\*|\?|\[!?[^\]]+\])", glob)
    known = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    text = "".join(known.get(p) or (p.replace("[!", "[^") if p.startswith("[") else re.escape(p)) for p in parts)
    return ("" if "/" in glob else "(?:.*/)?") + text + r"\Z"


def effort(parser: argparse.ArgumentParser) -> None:
    """What OSMO's client takes about how hard to try."""
    parser.add_argument("--processes", "-p", type=int, default=0, help="accepted; one process is enough here")
    parser.add_argument("--threads", "-T", type=int, default=THREADS, help=f"files in flight at once ({THREADS})")
    parser.add_argument("--benchmark-out", "-b", type=Path, metavar="FOLDER", help="write there how long it took")


def dataset(client: Client, text: str, *, write: bool = False, create: bool = False) -> tuple[Dataset, Reference, str]:
    """The dataset itself, its name, and who one is."""
    from osmo_ray.objects.datasets import Dataset
    from osmo_ray.sdk import buckets

    reference = buckets.named(client, text)
    place = buckets.opened(client, reference.bucket, write=write, through=Counted)
    return Dataset(place.bucket, reference.name, create=create), reference, place.user


def named(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "name", metavar="[BUCKET/]NAME[:TAG]", help="TAG is a tag, a version's number, or latest (the default)"
    )


def path(client: Client, text: str, more: str = "") -> tuple[str, Reference]:
    """The route of a dataset, and its name."""
    from osmo_ray.sdk import buckets

    reference = buckets.named(client, text)
    return f"/api/bucket/{reference.bucket}/dataset/{reference.name}{more}", reference


def selector(text: str) -> str:
    """What stands behind the name, or nothing."""
    return text.rpartition("/")[2].partition(":")[2]


class Counted:
    """A store that counts the bytes that pass through it; for many threads."""

    moved = 0

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def read(self, key: str, start: int = 0, end: int | None = None) -> bytes:
        data = self._store.read(key, start, end)
        Counted.moved += len(data)
        return data

    def write(self, key: str, source: BinaryIO | bytes) -> int:
        return self._count(self._store.write(key, source))

    def upload(self, source: Path, key: str) -> int:
        return self._count(self._store.upload(source, key))

    def download(self, key: str, target: Path) -> int:
        return self._count(self._store.download(key, target))

    @staticmethod
    def _count(size: int) -> int:
        Counted.moved += size
        return size


@contextmanager
def progress(total: int) -> Iterator[None]:
    """A line on the terminal while bytes move: how many, how fast, how long still. Nothing in a pipe."""
    if not sys.stderr.isatty():
        yield
        return
    over, began = threading.Event(), time.monotonic()
    Counted.moved = 0

    def draw() -> None:
        while not over.wait(_EVERY):
            print(f"\r\x1b[K{bar(Counted.moved, total, time.monotonic() - began)}", end="", file=sys.stderr, flush=True)

    thread = threading.Thread(target=draw, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)


@contextmanager
def measured(args: argparse.Namespace, total: int) -> Iterator[None]:
    """`progress`, and what `--benchmark-out` asks for: a file of JSON with times in ms and the bytes that moved."""
    Counted.moved, began = 0, time.time()
    with progress(total):
        yield
    if args.benchmark_out is None:
        return
    took = max(time.time() - began, 1e-6)
    value = {
        "start_time_ms": int(began * 1000), "end_time_ms": int((began + took) * 1000), "duration_ms": int(took * 1000),
        "bytes_transferred": Counted.moved, "megabytes_per_second": round(Counted.moved / took / 1e6, 3),
    }  # fmt: skip
    args.benchmark_out.mkdir(parents=True, exist_ok=True)
    name = f"{time.strftime('%Y%m%dT%H%M%S', time.gmtime(began))}-{os.getpid()}_benchmark.json"
    (args.benchmark_out / name).write_text(json.dumps(value))


def bar(moved: int, total: int, seconds: float) -> str:
    """`[######....] 60%  1.2 GiB of 2 GiB  80 MiB/s  10s left`."""
    from osmo_ray.spec.quantity import show_bytes, show_seconds

    rate = moved / seconds if seconds > 0 else 0.0
    share = min(moved / total, 1.0) if total else 0.0
    left = f"  {show_seconds((total - moved) / rate)} left" if rate and total > moved else ""
    drawn = "#" * int(share * 20)
    return f"[{drawn:.<20}] {share:4.0%}  {show_bytes(moved)} of {show_bytes(total)}  {show_bytes(int(rate))}/s{left}"


def size_of(sources: Sequence[Path]) -> int:
    """Bytes of what lies below these paths."""
    files = (p for source in sources for p in ([source] if source.is_file() else source.rglob("*")))
    return sum(p.lstat().st_size for p in files if p.is_file() and not p.is_symlink())


def mapping(files: Sequence[str]) -> dict[str, Any]:
    """YAML files of names and values, later ones over earlier ones. Raises `ClientError`."""
    import yaml

    found: dict[str, Any] = {}
    for name in files:
        try:
            value = yaml.safe_load(Path(name).read_text())
        except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
            raise ClientError(f"{name}: cannot be read as YAML: {error}", status=400, code="USAGE") from None
        if not isinstance(value, dict):
            raise ClientError(f"{name}: no mapping of names to values", status=400, code="USAGE")
        found.update(value)
    return found
