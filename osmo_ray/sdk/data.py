"""Datasets in a person's program: `osmo.data.shards("robots/grasps@3", rank=r, world=w)` and its sisters.

In a task, a dataset among its inputs is read where the platform put it, without any address or key. Everything else is
asked of the platform that the client talks to (`osmo_ray.sdk.login`), and the bytes come from the bucket directly.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from osmo_ray.data.names import LATEST, Reference, parse_reference
from osmo_ray.data.shardplan import Cursor
from osmo_ray.sdk.errors import ClientError

if TYPE_CHECKING:
    import pyarrow as pa
    from fsspec import AbstractFileSystem

    from osmo_ray.objects.datasets.dataset import Dataset
    from osmo_ray.objects.datasets.feeding import Feed
    from osmo_ray.sdk.client import Client

__all__ = ["Cursor", "appending", "dataset", "files", "filesystem", "open", "shards"]

PLACED = "OSMO_DATASETS"
"""In a task: a JSON object, `bucket/name:number` of each dataset among its inputs to its folder."""
CACHE_BYTES = 50 << 30


def shards(
    reference: str,
    *,
    rank: int = 0,
    world: int = 1,
    epoch: int = 0,
    seed: int = 0,
    cursor: Cursor | None = None,
    regex: str = "",
    rows: int = 65536,
    ahead: int = 4,
) -> Iterator[tuple[Cursor, pa.RecordBatch]]:
    """Record batches of at most `rows` rows of one worker's share of `[bucket/]name[@version]`, each with the cursor
    behind it. Who reads what in which order follows from the version, `seed`, `epoch`, `rank` and `world` alone.
    Parquet files give their rows, tars a row per sample, other files `path` and `bytes`. `regex` chooses files, `ahead`
    of them are fetched in advance. Raises `ClientError` and `DataError`."""
    from osmo_ray.objects.datasets import feeding

    worker = feeding.Worker(rank, world, epoch, seed, cursor)
    yield from feeding.shards(_feed(reference, regex), worker, rows=rows, ahead=ahead)


def files(
    reference: str,
    *,
    rank: int = 0,
    world: int = 1,
    epoch: int = 0,
    seed: int = 0,
    cursor: Cursor | None = None,
    regex: str = "",
    ahead: int = 4,
) -> Iterator[tuple[Cursor, str, Path]]:
    """The same share as files: the cursor behind each, its path in the dataset, and where it lies now (to be read at
    once, and not to be changed)."""
    from osmo_ray.objects.datasets import feeding

    worker = feeding.Worker(rank, world, epoch, seed, cursor)
    for item, entry, path in feeding.files(_feed(reference, regex), worker, ahead=ahead):
        yield Cursor(epoch, item + 1), entry.path.decode(errors="surrogateescape"), path


@contextmanager
def appending(
    reference: str, run: str, *, writer: str | int, writers: int, create: bool = True, message: str = ""
) -> Iterator[Path]:
    """A folder to fill. When the block ends well, its files are this writer's part of append `run`, and the last of
    `writers` to come this far publishes all parts on top of the newest version, as one version. A writer that is run
    again adds nothing; a block that fails adds nothing."""
    from osmo_ray.objects.datasets.appending import Append
    from osmo_ray.objects.datasets.dataset import About, Dataset
    from osmo_ray.sdk import buckets

    client = platform()
    named = buckets.named(client, reference)
    place = buckets.opened(client, named.bucket, write=True)
    append = Append(Dataset(place.bucket, named.name, create=create), run)
    with tempfile.TemporaryDirectory(prefix="osmo-append-") as folder:
        yield Path(folder)
        append.write(str(writer), [Path(folder)])
        append.finish(writers, About(message, place.user))


def dataset(reference: str, *, write: bool = False, create: bool = False) -> Dataset:
    """The dataset itself, with every verb: `upload`, `update`, `download`, `diff`, `log`, `tag` ..."""
    from osmo_ray.objects.datasets.dataset import Dataset
    from osmo_ray.sdk import buckets

    client = platform()
    named = buckets.named(client, reference)
    return Dataset(buckets.opened(client, named.bucket, write=write).bucket, named.name, create=create)


def filesystem() -> AbstractFileSystem:
    """fsspec's view of all buckets, read-only: `bucket/name@version/path`."""
    from osmo_ray.sdk.osmofs import OsmoFileSystem

    return OsmoFileSystem()


def open(path: str) -> Any:
    """A file of `osmo://bucket/name@version/path`, for reading bytes; a read fetches what it touches, unless the
    dataset is an input of this task, whose files are there."""
    bucket, _, rest = path.removeprefix("osmo://").strip("/").partition("/")
    name, _, inner = rest.partition("/")
    if (found := placed(parse_reference(f"{bucket}/{name}"), os.environ)) is not None:
        return (found / inner).open("rb")
    return filesystem().open(path)


def platform() -> Client:
    """The platform that the client talks to."""
    from osmo_ray.sdk.client import Client

    return Client()


def _feed(text: str, regex: str) -> Feed:
    """Where a reference's files come from: the task's own input, else its bucket."""
    from osmo_ray.objects.datasets.cache import NodeCache
    from osmo_ray.objects.datasets.feeding import BucketFeed, FolderFeed
    from osmo_ray.sdk.login import folder

    reference = parse_reference(text.removeprefix("osmo://"))
    if (found := placed(reference, os.environ)) is not None:
        told = json.loads(found.with_name(f".{found.name}.osmo").read_text())
        return FolderFeed(found, str(told["checksum"]), regex=regex)
    cache = NodeCache(folder() / "datasets" / "files", CACHE_BYTES)
    return BucketFeed(dataset(text.removeprefix("osmo://")), selector=reference.selector, regex=regex, cache=cache)


def placed(reference: Reference, environ: Mapping[str, str]) -> Path | None:
    """The folder of a task's input that is this dataset. A tag or no version means the one that the task got. Raises
    `ClientError` when it got another version than the one that is named, or several."""
    inputs = {parse_reference(name): Path(at) for name, at in json.loads(environ.get(PLACED) or "{}").items()}
    mine = {
        one: at for one, at in inputs.items() if one.name == reference.name and reference.bucket in ("", one.bucket)
    }
    exact = [at for one, at in mine.items() if one.version == reference.version]
    if exact or not mine:
        return exact[0] if exact else None
    if reference.version is not None or len(mine) > 1:
        there = ", ".join(map(str, mine))
        named = reference if reference.selector != LATEST else f"{reference.name} (which one?)"
        raise ClientError(f"The inputs of this task are {there}, not {named}", status=400, code="USER")
    return next(iter(mine.values()))
