"""Datasets beside a task: a version into an input folder before the command, the output as a new version after it.

All tasks of a node share one cache by content: what one task read, the next one gets without asking the bucket for a
byte of it. Each task has files of its own (a reflink where the filesystem has them, else a copy), since it may write.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from osmo_ray.data.errors import DataError
from osmo_ray.data.manifest import Kind
from osmo_ray.data.names import LATEST
from osmo_ray.data.versions import Lineage, Version
from osmo_ray.objects import open_store
from osmo_ray.objects.datasets.bucket import Bucket, open_bucket
from osmo_ray.objects.datasets.cache import NodeCache
from osmo_ray.objects.datasets.dataset import About, Dataset, Source
from osmo_ray.objects.datasets.reading import Reader
from osmo_ray.objects.datasets.restoring import restore
from osmo_ray.objects.keyed import below, bucket_key, store_options, store_url
from osmo_ray.runtime.options import Options
from osmo_ray.runtime.place import Place
from osmo_ray.spec.attempt import AttemptPlan, DatasetPlan, OutputPlan
from osmo_ray.spec.quantity import show_bytes

_ATTRIBUTES = 1 << 20
"""Bytes that a file of metadata or labels may have."""
_TABLES = 1 << 30
"""Bytes of manifests and indexes that a node keeps."""


@dataclass(frozen=True, slots=True)
class Got:
    """What an input brought: its files and their bytes, and how many of those came from the bucket."""

    files: int
    size: int
    fetched: int


def fetch(place: Place, wanted: DatasetPlan, target: Path, regex: str) -> Got:
    """A version below `target`. Raises `DataError` and `ObjectError`."""
    root = _root(place)
    dataset = announce(place, wanted, target)
    cache = _cache(root) if place.job.mode != "pod" else None  # a pod shares no folder with other tasks
    reader = Reader(dataset.bucket)
    files, size = 0, 0
    for entry in dataset.entries(str(wanted.version), regex=regex):
        files, size = files + (entry.kind is Kind.FILE), size + entry.size
    fetched = restore(dataset.entries(str(wanted.version), regex=regex), target, reader, cache=cache)
    trim(root / "tables", _TABLES)
    return Got(files, size, fetched)


def announce(place: Place, wanted: DatasetPlan, target: Path) -> Dataset:
    """Say beside `target` which version it will be, for `osmo.data.shards`. Raises `DataError` if there is none."""
    dataset = Dataset(_bucket(place, wanted), wanted.name)
    told = {"dataset": str(wanted), "checksum": dataset.version(str(wanted.version)).checksum}
    target.parent.mkdir(parents=True, exist_ok=True)
    target.with_name(f".{target.name}.osmo").write_text(json.dumps(told))
    return dataset


def serve(
    place: Place,
    wanted: DatasetPlan,
    target: Path,
    regex: str,
    ready: Callable[[], None],
    trouble: Callable[[str], None],
) -> str:
    """A version mounted at `target` until this process is told to end; what there is to say of it then. Raises
    `DataError` and `ObjectError`."""
    from osmo_ray.objects.datasets.mounting import How, mount

    root = _root(place)
    dataset, cache = Dataset(_bucket(place, wanted), wanted.name), _cache(root)
    target.mkdir(exist_ok=True)
    mount(dataset, str(wanted.version), target, cache, How(regex, os.geteuid() == 0, ready, trouble))
    trim(root / "tables", _TABLES)
    return f"{show_bytes(cache.fetched)} of it fetched"


def keep(place: Place, output: OutputPlan, number: int = 0) -> str:
    """Commit an output, the plan's `number`th, as a new version; what there is to say of it. Nothing to keep is not an
    error. An attempt commits once, and not after a later one of its task has."""
    plan, folder = place.job.plan, place.folder.data_out
    assert output.dataset is not None
    try:
        metadata = _attributes(folder, output.metadata)
        labels = _attributes(folder, output.labels)
    except FileNotFoundError as error:
        return f"dataset {output.dataset} gets no version: {error}"
    sources = list(_sources(folder, output))
    if not _any(sources, output.regex):
        return f"dataset {output.dataset} gets no version: there is nothing to keep"
    about = About(
        created_by=plan.user, lineage=_lineage(plan), metadata=metadata, writer=f"{plan.key.task_uuid}/{number}"
    )
    version = _commit(_bucket(place, output.dataset), output, sources, about, labels)
    return f"version {output.dataset}:{version.number} of {version.files} files, {show_bytes(version.size)}"


def _commit(
    bucket: Bucket, output: OutputPlan, sources: list[Source], about: About, labels: Mapping[str, Any]
) -> Version:
    wanted = output.dataset
    assert wanted is not None
    if output.kind == "update_dataset":
        dataset = Dataset(bucket, wanted.name)
        version = dataset.update(sources, about, base=wanted.selector or LATEST)
    else:
        dataset = Dataset(bucket, wanted.name, create=True)
        version = dataset.upload(sources, about, regex=output.regex)
        if wanted.selector:
            dataset.tag(wanted.selector, str(version.number))
    if labels:
        dataset.label(labels)
    return version


def _root(place: Place) -> Path:
    """This node's folder for datasets, in its spool; a pod's is its own."""
    if place.job.mode == "pod":
        root = Path(tempfile.gettempdir()) / "osmo-datasets"
    else:
        root = place.folder.path.parent.parent / "datasets"
    root.mkdir(mode=0o700, exist_ok=True)
    return root


def _cache(root: Path) -> NodeCache:
    return NodeCache(root / "files", Options.load(root.parent / "options.json").dataset_cache)


def _bucket(place: Place, wanted: DatasetPlan) -> Bucket:
    if "://" not in wanted.url:
        store = open_store(below(place.job.storage_url, wanted.url))
    else:
        keys = place.job.plan.secrets.data
        store = open_store(store_url(wanted.url), **store_options(keys, wanted.url))
        return open_bucket(store, key=bucket_key(keys, wanted.url), cache=_root(place) / "tables")
    return open_bucket(store, cache=_root(place) / "tables")


def _lineage(plan: AttemptPlan) -> Lineage:
    read = [str(one) for wanted in plan.inputs for one in wanted.datasets]
    read += [wanted.source for wanted in plan.inputs if wanted.kind == "url"]
    code = next((w.source.removeprefix("code/") for w in plan.inputs if w.source.startswith("code/")), "")
    return Lineage(plan.workflow_id, plan.task, code, plan.image, tuple(read), plan.key.retry_id)


def _sources(folder: Path, output: OutputPlan) -> Iterator[Source]:
    if output.kind == "dataset":
        yield Source(_inside(folder, output.paths[0] if output.paths else ""))
        return
    for text in output.paths or ("",):
        local, _, remote = text.replace("\\:", "\0").partition(":")
        local, remote = local.replace("\0", ":"), remote.replace("\0", ":")
        contents = local in ("", ".", "./") or local.endswith("/*")
        yield Source(_inside(folder, local.removesuffix("/*")), remote, contents=contents)


def _inside(folder: Path, path: str) -> Path:
    """A path of the output. Raises `DataError` for what leads out of it, be it by a link of the task's own."""
    found = (folder / path.lstrip("/")).resolve()
    if not found.is_relative_to(folder.resolve()):
        raise DataError(f"{path!r} leads out of {{{{output}}}}; name what lies in it")
    return found


def _any(sources: list[Source], regex: str) -> bool:
    """Whether there is any file or link to keep. Sources that do not exist are as good as empty ones."""
    sources[:] = [source for source in sources if source.path.exists()]
    match = re.compile(regex).match
    for source in sources:
        if source.path.is_file():
            if match(source.path.name):
                return True
            continue
        for above, _, names in os.walk(source.path):
            if any(match(str((Path(above) / name).relative_to(source.path))) for name in names):
                return True
    return False


def _attributes(folder: Path, files: tuple[str, ...]) -> dict[str, Any]:
    """Metadata or labels from YAML files of the output, later ones over earlier ones."""
    found: dict[str, Any] = {}
    for name in files:
        path = _inside(folder, name)
        if not path.is_file():
            raise FileNotFoundError(f"there is no file {name} in the output")
        if path.stat().st_size > _ATTRIBUTES:
            raise DataError(f"{name} is larger than {show_bytes(_ATTRIBUTES)}, too much for labels or metadata")
        try:
            value = yaml.safe_load(path.read_text())
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise DataError(f"{name} is no YAML of plain values: {str(error).splitlines()[0]}") from None
        if not isinstance(value, dict):
            raise DataError(f"{name} is no mapping of names to values")
        found.update(value)
    return found


def trim(folder: Path, limit: int) -> None:
    """Keep a folder of files below `limit` bytes by removing those that were read longest ago."""
    files = [(path, path.stat()) for path in folder.rglob("*") if path.is_file()] if folder.is_dir() else []
    left = sum(status.st_size for _, status in files)
    for path, status in sorted(files, key=lambda one: max(one[1].st_atime, one[1].st_mtime)):
        if left <= limit:
            return
        path.unlink(missing_ok=True)
        left -= status.st_size


__all__ = ["Got", "announce", "fetch", "keep", "serve", "trim"]
