"""The door to bytes: a handful of verbs over any store that fsspec reaches.

Keys are relative, `/`-separated and never begin with `/` or contain `..`. Local path, S3 and Azure behave alike; each
store says itself whether an error is permanent and whether it honours conditional writes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol


class ObjectError(Exception):
    """A store refused or failed. `permanent` says that trying again cannot help."""

    def __init__(self, message: str, *, permanent: bool) -> None:
        super().__init__(message)
        self.permanent = permanent


class AlreadyExists(ObjectError):
    """`create` found the key taken."""

    def __init__(self, key: str) -> None:
        super().__init__(f"{key} already exists", permanent=True)


class NoSuchObject(ObjectError):
    """The key does not exist."""

    def __init__(self, key: str) -> None:
        super().__init__(f"no object {key}", permanent=True)


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """`modified` is seconds since the epoch, 0.0 if the store does not say."""

    key: str
    size: int
    modified: float = 0.0


class ObjectStore(Protocol):
    """Bytes under keys, below one URL."""

    url: str

    @property
    def conditional(self) -> bool:
        """Whether `create` is atomic here."""
        ...

    def stat(self, key: str) -> ObjectInfo: ...

    def read(self, key: str, start: int = 0, end: int | None = None) -> bytes:
        """The bytes [start, end) of an object."""
        ...

    def write(self, key: str, source: BinaryIO | bytes) -> int:
        """Put an object, replacing any; a reader sees the old or the new one, never a part. Returns its size."""
        ...

    def create(self, key: str, data: bytes) -> None:
        """Put an object only if the key is free, else `AlreadyExists`."""
        ...

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Every object below `prefix` (a folder, taken recursively), in order of key."""
        ...

    def delete(self, keys: Iterable[str]) -> None:
        """Remove objects; those that do not exist are passed over."""
        ...

    def download(self, key: str, target: Path) -> int:
        """Object to file, by the cheapest way the store has (a reflink where both are one local filesystem)."""
        ...

    def upload(self, source: Path, key: str) -> int:
        """File to object, multipart where it is large."""
        ...

    def sign(self, key: str, verb: str, ttl: float) -> str:
        """A URL that allows `verb` (GET or PUT) on this key for `ttl` seconds."""
        ...
