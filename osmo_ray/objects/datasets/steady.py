"""An object store that tries again when an error may pass: throttling, a broken connection, a 500.

`create` needs care: after an error nobody knows whether it happened, and the library below tries again by itself
without telling. So when the key is taken, what lies there decides: the same bytes are ours. Whoever must not share them
with another writer of the same puts something of its own into them.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, TypeVar

from osmo_ray.objects.protocol import AlreadyExists, NoSuchObject, ObjectError, ObjectInfo, ObjectStore

T = TypeVar("T")


class SteadyStore:
    """`tries` in all; the pause before the n-th is up to `pause * 2**n` seconds, at most 10."""

    def __init__(self, store: ObjectStore, *, tries: int = 6, pause: float = 0.1) -> None:
        self._store, self._tries, self._pause = store, tries, pause
        self.url = store.url

    @property
    def conditional(self) -> bool:
        return self._again(lambda: self._store.conditional)

    def stat(self, key: str) -> ObjectInfo:
        return self._again(lambda: self._store.stat(key))

    def read(self, key: str, start: int = 0, end: int | None = None) -> bytes:
        return self._again(lambda: self._store.read(key, start, end))

    def write(self, key: str, source: BinaryIO | bytes) -> int:
        if not isinstance(source, bytes):
            begin = source.tell()

            def rewound() -> int:
                source.seek(begin)
                return self._store.write(key, source)

            return self._again(rewound)
        return self._again(lambda: self._store.write(key, source))

    def create(self, key: str, data: bytes) -> None:
        def once() -> None:
            try:
                self._store.create(key, data)
            except AlreadyExists as taken:
                try:
                    ours = self._store.read(key) == data
                except NoSuchObject:  # removed since; it was there
                    raise taken from None
                if not ours:
                    raise

        self._again(once)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        return iter(self._again(lambda: list(self._store.list(prefix))))

    def delete(self, keys: Iterable[str]) -> None:
        gone = list(keys)
        self._again(lambda: self._store.delete(gone))

    def download(self, key: str, target: Path) -> int:
        return self._again(lambda: self._store.download(key, target))

    def upload(self, source: Path, key: str) -> int:
        return self._again(lambda: self._store.upload(source, key))

    def sign(self, key: str, verb: str, ttl: float) -> str:
        return self._store.sign(key, verb, ttl)

    def _again(self, work: Callable[[], T]) -> T:
        for number in range(1, self._tries):
            try:
                return work()
            except ObjectError as error:
                if error.permanent:
                    raise
            time.sleep(min(10.0, self._pause * 2**number) * random.random())  # noqa: S311 - spreads clients apart
        return work()
