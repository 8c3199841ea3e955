"""Which way calls to each agent go: a direct line to those of this host, Ray's calls to the others."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from typing import Any

from osmo_ray.backends.ray.line import Line


class Lines:
    """One line per agent of this host, made when it is first wanted and again after it broke."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[Any, Line | None]] = {}
        self._making: dict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def to(self, node: str, agent: Any) -> Line | None:
        """The line to this agent, or None where only Ray reaches it."""
        found = self._usable(node, agent)
        if found is not None:
            return found[1]
        async with self._making[node]:
            found = self._usable(node, agent)
            if found is None:
                found = self._known[node] = (agent, await _connect(agent))
            return found[1]

    def _usable(self, node: str, agent: Any) -> tuple[Any, Line | None] | None:
        known = self._known.get(node)
        if known is None or known[0] is not agent or (known[1] is not None and known[1].broken):
            return None
        return known

    def close(self) -> None:
        for _, line in self._known.values():
            if line is not None:
                line.close()


async def _connect(agent: Any) -> Line | None:
    address = await agent.door.remote()
    try:
        return await Line.connect(address)
    except OSError:
        return None  # another host's, or another network namespace's
