"""Quotas that another system keeps, read in rounds.

That system is far away and may be slow, while the door is asked in each scheduling cycle: a thread of its own reads,
the door hands out what was read last. Before the first answer nothing is known, and that is not the same as "no
quotas": the snapshot then has no queue at all, and work waits for it.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

from osmo_ray.providers.quota import QuotaError, QuotaQueue, QuotaSnapshot
from osmo_ray.providers.quota_kept import KeptQuotas


@dataclass(frozen=True, slots=True)
class Told:
    """One answer: queues in their order, and which pool's work goes into which of them."""

    queues: tuple[QuotaQueue, ...]
    pools: Mapping[str, str] = field(default_factory=dict)


class Origin(Protocol):
    """Where the quotas are kept. `name` is what messages call it."""

    name: str

    def read(self) -> Told:
        """What holds now. Raises `QuotaError` when that cannot be had."""

    def pools(self, queues: tuple[QuotaQueue, ...]) -> Mapping[str, str]:
        """Which pools queues that were kept from before the start have."""

    def close(self) -> None: ...


class FarQuota:
    """A `QuotaProvider`. The first `snapshot()` starts the reader; `refresh()` reads at once, for tests."""

    def __init__(self, origin: Origin, interval: float = 20.0, kept: KeptQuotas | None = None) -> None:
        self._origin, self._interval, self._kept = origin, interval, kept
        self._lock, self._stop = threading.Lock(), threading.Event()
        self._reader: threading.Thread | None = None
        self._readings = 0
        before = kept.load() if kept is not None else QuotaSnapshot("", ())
        queues = before.queues
        told = f"{origin.name} has not answered since the start; these are the quotas of before it"
        self._now = QuotaSnapshot(
            "kept" if queues else "",
            queues,
            {**before.pools, **origin.pools(queues)},
            stale=True,
            error=told if queues else f"{origin.name} has not answered yet",
        )

    @property
    def error(self) -> str:
        return self._now.error

    def snapshot(self) -> QuotaSnapshot | None:
        with self._lock:
            if self._reader is None and not self._stop.is_set():
                self._reader = threading.Thread(target=self._read, name="quotas", daemon=True)
                self._reader.start()
        return self._now

    def refresh(self) -> None:
        """Read once. What was in force stays when that fails, marked stale; equal content stays the same object."""
        try:
            told = self._origin.read()
        except QuotaError as error:
            self._fail(str(error))
        except Exception as error:  # whatever a stranger's answer breaks must not end the reader
            self._fail(f"{self._origin.name}'s answer cannot be understood: {type(error).__name__} {error}")
        else:
            self._take(told)

    def _take(self, told: Told) -> None:
        if told.queues != self._now.queues or told.pools != self._now.pools:
            self._readings += 1
            self._now = QuotaSnapshot(f"read-{self._readings}", told.queues, told.pools)
            if self._kept is not None:
                self._kept.save(told.queues, told.pools)
        elif self._now.stale:
            self._now = replace(self._now, stale=False, error="")

    def close(self) -> None:
        """End the reader."""
        self._stop.set()
        if self._reader is not None:
            self._reader.join(1.0)
        self._origin.close()

    def _read(self) -> None:
        while not self._stop.is_set():
            self.refresh()
            self._stop.wait(self._interval)

    def _fail(self, message: str) -> None:
        if message != self._now.error or not self._now.stale:
            self._now = replace(self._now, stale=True, error=message)
