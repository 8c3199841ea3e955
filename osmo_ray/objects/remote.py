"""Buckets and containers as object stores, through fsspec.

fsspec speaks to each store; this module keeps to its single-object calls (the others expand wildcards in keys), adds
what it leaves open (create-only puts, whole-or-nothing streams) and says which errors may pass.
"""

from __future__ import annotations

import os
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import fsspec

from osmo_ray.objects import faults
from osmo_ray.objects.copying import open_regular
from osmo_ray.objects.keys import check_key, check_prefix
from osmo_ray.objects.protocol import AlreadyExists, NoSuchObject, ObjectError, ObjectInfo

_SMALL = 32 << 20
"""Up to this many bytes of a stream are put in one request; more is gathered in a file first."""
_BULK = 1000
_PROBES = ".osmo-probe"
_MODIFIED = ("LastModified", "last_modified", "updated", "mtime", "created")
_OLD_SERVERS = {"request_checksum_calculation": "when_required", "response_checksum_validation": "when_required"}
_memory = threading.Lock()


class FsspecStore:
    """Objects below `scheme://bucket/prefix`; `options` are fsspec's storage options for the scheme."""

    def __init__(self, url: str, options: dict[str, Any]) -> None:
        self.url = url.rstrip("/")
        self._scheme = url.split("://", 1)[0].lower()
        with faults.translated(url, writing=True):
            self._fs, root = _filesystem(self._scheme, self.url, {"use_listings_cache": False, **options})
        self._root = root.rstrip("/")

    @cached_property
    def conditional(self) -> bool:
        """Found out once, by creating a probe twice: some stores that speak S3 ignore the condition."""
        probe = f"{_PROBES}/{uuid.uuid4().hex}"
        try:
            self._create(probe, b"1")
            self._create(probe, b"2")
        except AlreadyExists:
            return True
        finally:
            self.delete([probe])
        return False

    def stat(self, key: str) -> ObjectInfo:
        path = self._path(key)
        with faults.translated(key):
            return _info(key, self._file_info(key, path))

    def read(self, key: str, start: int = 0, end: int | None = None) -> bytes:
        """See the protocol; a range beyond the end gives what there is."""
        path = self._path(key)
        whole = start == 0 and end is None
        with faults.translated(key), self._lock():
            if not whole and end is not None and end <= start:
                self._file_info(key, path)
                return b""
            try:
                found: bytes = self._fs.cat_file(path) if whole else self._fs.cat_file(path, start=start, end=end)
            except Exception:
                if start and start >= int(self._file_info(key, path)["size"]):  # stores call such a range an error
                    return b""
                raise
        return found

    def write(self, key: str, source: BinaryIO | bytes) -> int:
        path = self._path(key)
        if isinstance(source, bytes | bytearray | memoryview):
            return self._put_bytes(key, path, bytes(source))
        first = _read_up_to(source, _SMALL)
        if len(first) < _SMALL:
            return self._put_bytes(key, path, first)
        with tempfile.NamedTemporaryFile(prefix="osmo-") as spool:  # a source that fails must leave the old object
            spool.write(first)
            while data := source.read(1 << 20):
                spool.write(data)
            spool.flush()
            with faults.translated(key, writing=True):
                self._fs.put_file(spool.name, path)
            return spool.tell()

    def create(self, key: str, data: bytes) -> None:
        """See the protocol. Where the store ignores the condition (`conditional` is False), a check goes before."""
        path = self._path(key)
        if not self.conditional and self._fs.exists(path):
            raise AlreadyExists(key)
        self._create(key, data)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        below = check_prefix(prefix)
        with faults.translated(below), self._lock():
            try:
                found = self._fs.find(f"{self._root}/{below}".rstrip("/"), detail=True)
            except FileNotFoundError:
                return
        if not isinstance(found, dict):  # adlfs answers so when the folder is an object
            return
        start = len(self._root) + 1
        named = (path[start:] for path in found)
        for key, details in sorted(zip(named, found.values(), strict=True), key=lambda item: item[0]):
            if key.startswith(below) and details["type"] == "file" and not key.startswith(f"{_PROBES}/"):
                yield _info(key, details)

    def delete(self, keys: Iterable[str]) -> None:
        paths = [(key, self._path(key)) for key in keys]
        for i in range(0, len(paths), _BULK):
            self._delete(paths[i : i + _BULK])

    def download(self, key: str, target: Path) -> int:
        path = self._path(key)
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
        try:
            with faults.translated(key), self._lock():
                self._fs.get_file(path, str(part))
            if not part.is_file():  # a folder: some stores make one
                raise NoSuchObject(key)
            part.replace(target)
        finally:
            if part.is_dir():
                part.rmdir()
            part.unlink(missing_ok=True)
        return target.stat().st_size

    def upload(self, source: Path, key: str) -> int:
        """Symbolic links, pipes and devices are refused: what a task left behind may point anywhere."""
        path = self._path(key)
        with open_regular(source) as (opened, size):
            with faults.translated(key, writing=True), self._lock():
                self._fs.put_file(f"/proc/self/fd/{opened}", path)
            return size

    def sign(self, key: str, verb: str, ttl: float) -> str:
        path = self._path(key)
        methods = {"GET": "get_object", "PUT": "put_object"}
        if verb not in methods:
            raise ObjectError(f"cannot sign {verb!r} of {key}; GET and PUT can be signed", permanent=True)
        with faults.translated(key):
            if self._scheme in ("az", "abfs", "abfss"):
                return self._sign_azure(path, verb, ttl)
            if self._scheme in ("s3", "s3a"):
                return str(self._fs.sign(path, expiration=int(ttl), client_method=methods[verb]))
            if verb == "GET":
                return str(self._fs.sign(path, expiration=int(ttl)))
        raise ObjectError(f"{self._scheme} stores cannot sign a PUT of {key}", permanent=True)

    def _path(self, key: str) -> str:
        return f"{self._root}/{check_key(key)}"

    def _file_info(self, key: str, path: str) -> dict[str, Any]:
        found: dict[str, Any] = self._fs.info(path)
        if found["type"] != "file":
            raise NoSuchObject(key)
        return found

    def _put_bytes(self, key: str, path: str, data: bytes) -> int:
        with faults.translated(key, writing=True), self._lock():
            self._fs.pipe_file(path, data)
        return len(data)

    def _create(self, key: str, data: bytes) -> None:
        """Only if absent. A store may answer that another create is under way: then it is asked again."""
        for pause in (0.05, 0.1, 0.2, 0.4, 0.8, 0.0):
            with faults.translated(key, writing=True, creating=True), self._lock():
                try:
                    self._fs.pipe_file(self._path(key), data, mode="create")
                    return
                except Exception as error:
                    if not pause or faults.status(error) != 409 or isinstance(error, FileExistsError):
                        raise
            time.sleep(pause)

    def _delete(self, paths: Sequence[tuple[str, str]]) -> None:
        if not paths:
            return
        if self._scheme in ("s3", "s3a"):
            with faults.translated(paths[0][0]):
                removed = fsspec.asyn.sync(self._fs.loop, self._fs._bulk_delete, [path for _, path in paths])
                if len(removed) < len(paths):
                    self._each(self._remove, paths)  # says which one failed, and why
            return
        self._each(self._remove, paths)

    def _each(self, work: Callable[[tuple[str, str]], None], paths: Sequence[tuple[str, str]]) -> None:
        with ThreadPoolExecutor(min(16, len(paths))) as pool:
            for _ in pool.map(work, paths):
                pass

    def _remove(self, named: tuple[str, str]) -> None:
        key, path = named
        with faults.translated(key):
            try:
                self._fs.rm_file(path)
            except FileNotFoundError:
                return

    @contextmanager
    def _lock(self) -> Iterator[None]:
        """fsspec's memory store is a plain dict of files with one position each: only there is one at a time."""
        if self._scheme != "memory":
            yield
            return
        with _memory:
            yield

    def _sign_azure(self, path: str, verb: str, ttl: float) -> str:
        """adlfs signs reads only, so the signature is made here for both."""
        from azure.core.utils import parse_connection_string
        from azure.storage.blob import BlobSasPermissions, generate_blob_sas

        fs = self._fs
        account: dict[str, str] = dict(parse_connection_string(fs.connection_string)) if fs.connection_string else {}
        container, blob, _ = fs.split_path(path)
        allowed = BlobSasPermissions(read=True) if verb == "GET" else BlobSasPermissions(create=True, write=True)
        token = generate_blob_sas(
            account_name=account.get("accountname") or fs.account_name,
            account_key=account.get("accountkey") or fs.account_key,
            container_name=container,
            blob_name=blob,
            permission=allowed,
            expiry=datetime.now(tz=UTC) + timedelta(seconds=ttl),
        )
        return f"{fs.service_client.get_blob_client(container, blob).url}?{token}"


def _filesystem(scheme: str, url: str, options: dict[str, Any]) -> tuple[Any, str]:
    """fsspec's filesystem and the path in it."""
    if scheme in ("gs", "gcs"):  # its plain one: another asks Google itself about every bucket, wherever that lies
        try:
            from gcsfs.core import GCSFileSystem
        except ImportError:
            raise ObjectError(f"{url} needs gcsfs; pip install 'osmo-ray[gcs]'", permanent=True) from None
        return GCSFileSystem(**options), GCSFileSystem._strip_protocol(url)
    found, root = fsspec.core.url_to_fs(url, **(_s3_options(options) if scheme in ("s3", "s3a") else options))
    return found, str(root)


def _s3_options(options: dict[str, Any]) -> dict[str, Any]:
    """Signatures of version 4, also in signed URLs: the only ones that all servers take. Servers that are not AWS may
    not know the checksums that its library sends by default, and answer with an error: they get them only where the
    protocol demands one. What is read is verified by its own hash in any case."""
    client = options.get("client_kwargs") or {}
    named = (os.environ.get(name) for name in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"))
    other = options.get("endpoint_url") or client.get("endpoint_url") or any(named)
    ours = {"signature_version": "s3v4", **(_OLD_SERVERS if other else {})}
    return {**options, "config_kwargs": {**ours, **(options.get("config_kwargs") or {})}}


def _info(key: str, details: dict[str, Any]) -> ObjectInfo:
    return ObjectInfo(key, int(details["size"] or 0), _modified(details))


def _modified(details: dict[str, Any]) -> float:
    for name in _MODIFIED:
        value = details.get(name)
        if isinstance(value, datetime):
            return (value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp()
        if isinstance(value, str):
            return datetime.fromisoformat(value).timestamp()
        if isinstance(value, int | float):
            return float(value)
    return 0.0


def _read_up_to(source: BinaryIO, limit: int) -> bytes:
    parts, left = [], limit
    while left and (data := source.read(min(left, 1 << 20))):
        parts.append(data)
        left -= len(data)
    return b"".join(parts)
