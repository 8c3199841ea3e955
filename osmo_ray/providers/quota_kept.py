"""Quotas on disk for the next start, so that a control plane that is away then does not keep all work waiting.

It is a copy of what was in force, never a source: what was answered since always wins.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from osmo_ray.providers.quota import QuotaQueue, QuotaSnapshot, parse

log = logging.getLogger(__name__)
_NOTHING = QuotaSnapshot("", ())
_AMOUNTS = ("quota", "limit", "weight")


class KeptQuotas:
    """One file. `origin` is where its queues are from: those of another place are not taken."""

    def __init__(self, path: Path, origin: str) -> None:
        self._path, self._head = path, f"# Kept for the next start, not to be edited; of {origin}"

    def load(self) -> QuotaSnapshot:
        """What was kept; no queue where there is no such file, or it is of another place, or cannot be used."""
        try:
            head, _, text = self._path.read_text("utf-8").partition("\n")
            return parse(text, str(self._path)) if head == self._head else _NOTHING
        except FileNotFoundError:
            return _NOTHING
        except (OSError, ValueError) as error:
            log.warning("quotas of before the start are not used: %s", error)
            return _NOTHING

    def save(self, queues: Sequence[QuotaQueue], pools: Mapping[str, str]) -> None:
        """Best effort: only a start without a control plane is worse without it. Several processes may do so."""
        leaves = {queue.name for queue in queues} - {queue.parent for queue in queues}
        kept = {pool: queue for pool, queue in pools.items() if queue in leaves}
        text = yaml.safe_dump({"queues": [_plain(queue) for queue in queues], "pools": kept}, sort_keys=False)
        fresh = self._path.with_name(f".{self._path.name}.{os.getpid()}")
        try:
            with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as out:
                out.write(f"{self._head}\n{text}")
                out.flush()
                os.fsync(out.fileno())
            fresh.replace(self._path)
        except OSError as error:
            log.warning("%s: quotas cannot be kept for the next start (%s)", self._path, error.strerror)


def _plain(queue: QuotaQueue) -> Mapping[str, Any]:
    """As `quota.yaml` would say it."""
    plain = {key: value for key, value in asdict(queue).items() if value not in ("", None)}
    return {k: dict(zip(_AMOUNTS, v, strict=True)) if isinstance(v, tuple) else v for k, v in plain.items()}
