"""Stores that go wrong: between any two requests, by plan."""

from __future__ import annotations

import os
import random
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from osmo_ray.objects.protocol import AlreadyExists, NoSuchObject, ObjectError, ObjectInfo

Hook = Callable[[str, str], None]


class Killed(BaseException):
    """The process died here."""


class MemoryStore:
    """A bucket with conditional writes. `before` and `after` see each request's verb and key."""

    url = "test://memory"
    conditional = True

    def __init__(self, objects: dict[str, bytes] | None = None) -> None:
        self.objects = objects if objects is not None else {}
        self.before: Hook = lambda verb, key: None
        self.after: Hook = lambda verb, key: None
        self._lock = threading.Lock()

    def stat(self, key: str) -> ObjectInfo:
        return ObjectInfo(key, len(self.read(key)))

    def read(self, key: str, start: int = 0, end: int | None = None) -> bytes:
        return self._do("read", key, lambda: self._get(key)[start:end])

    def write(self, key: str, source: BinaryIO | bytes) -> int:
        data = source if isinstance(source, bytes) else source.read()
        self._do("write", key, lambda: self.objects.__setitem__(key, data))
        return len(data)

    def create(self, key: str, data: bytes) -> None:
        def once() -> None:
            if key in self.objects:
                raise AlreadyExists(key)
            self.objects[key] = data

        self._do("create", key, once)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        below = f"{prefix.rstrip('/')}/" if prefix else ""
        found = self._do("list", prefix, lambda: sorted((k, len(v)) for k, v in self.objects.items()))
        return iter([ObjectInfo(key, size) for key, size in found if key.startswith(below)])

    def delete(self, keys: Iterable[str]) -> None:
        for key in list(keys):
            self._do("delete", key, lambda key=key: self.objects.pop(key, None))

    def download(self, key: str, target: Path) -> int:
        data = self.read(key)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
        return len(data)

    def upload(self, source: Path, key: str) -> int:
        return self.write(key, source.read_bytes())

    def sign(self, key: str, verb: str, ttl: float) -> str:
        raise ObjectError("no", permanent=True)

    def _get(self, key: str) -> bytes:
        if key not in self.objects:
            raise NoSuchObject(key)
        return self.objects[key]

    def _do(self, verb: str, key: str, work: Callable[[], Any]) -> Any:
        self.before(verb, key)
        with self._lock:
            found = work()
        self.after(verb, key)
        return found


class Turns:
    """Threads take turns at each request. One runs on until the dice put it behind all others: so one thread may do
    a lot while another stands still in the middle of something. Any of them may die at any turn."""

    def __init__(self, seed: int, deaths: float, changes: float) -> None:
        self._dice, self._deaths, self._changes = random.Random(seed), deaths, changes
        self._waiting: dict[int, threading.Event] = {}
        self._order: list[int] = []
        self._me = threading.local()
        self._lock = threading.Lock()

    def run(self, works: list[Callable[[], None]]) -> None:
        self._order = list(range(len(works)))
        self._dice.shuffle(self._order)
        threads = [threading.Thread(target=self._live, args=(n, work)) for n, work in enumerate(works)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
            assert not thread.is_alive()

    def step(self, verb: str, key: str) -> None:
        me = getattr(self._me, "number", None)
        if me is None:  # a helper thread of an actor: its owner waits for it anyway
            return
        mine = threading.Event()
        with self._lock:
            self._waiting[me] = mine
            self._next()
        assert mine.wait(60)
        if self._dice.random() < self._deaths:
            raise Killed

    def _live(self, number: int, work: Callable[[], None]) -> None:
        self._me.number = number
        try:
            work()
        except Killed:
            pass
        finally:
            with self._lock:
                self._order.remove(number)
                self._next()

    def _next(self) -> None:
        """Once everybody waits, one goes on."""
        if self._waiting and len(self._waiting) == len(self._order):
            if self._dice.random() < self._changes:
                self._order.append(self._order.pop(0))
            self._waiting.pop(self._order[0]).set()


def die_at(number: int, verb_of: set[str]) -> Hook:
    """SIGKILL to this process before its `number`-th request of these verbs."""
    seen = iter(range(1, 1 << 30))

    def hook(verb: str, key: str) -> None:
        if verb in verb_of and next(seen) == number:
            os.kill(os.getpid(), signal.SIGKILL)

    return hook
