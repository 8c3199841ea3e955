"""The platform's side: agents come in here, and whoever wants to talk to a cluster is put through.

One link per cluster: a newer one takes the place of the one before, whose streams break at once, so no two agents ever
answer for one cluster. While no agent is there, callers get the API server's own kind of answer, 503 with the reason.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from osmo_ray.backends.kubernetes.tunnel.mux import QUIET, REPLACED, Mux
from osmo_ray.backends.kubernetes.tunnel.pipes import Pipe, join
from osmo_ray.backends.kubernetes.tunnel.serving import refuse

log = logging.getLogger(__name__)


class Switch:
    """Holds the links. Nothing of it needs to outlive the process: agents dial again."""

    def __init__(self, *, quiet: float = QUIET, clock: Callable[[], float] = time.time) -> None:
        self._quiet, self._clock = quiet, clock
        self._links: dict[str, Mux] = {}
        self._gone: dict[str, str] = {}
        """By cluster: since when there is no agent, and why."""

    @property
    def linked(self) -> frozenset[str]:
        return frozenset(self._links)

    async def agent(self, cluster: str, pipe: Pipe) -> None:
        """Carry an agent's link until it ends."""
        link = Mux(pipe, quiet=self._quiet)
        before, self._links[cluster] = self._links.get(cluster), link
        if before is not None:
            await before.bye(f"{REPLACED} of cluster {cluster} took over")
        log.info("the agent of cluster %s is linked", cluster)
        why = await link.run()
        if self._links.get(cluster) is link:
            del self._links[cluster]
            self._gone[cluster] = f"since {_at(self._clock())}: {why}"
            log.warning("the agent of cluster %s is gone: %s", cluster, why)

    async def caller(self, cluster: str, pipe: Pipe) -> None:
        """Carry a connection of an HTTP client to the cluster's API server until either side ends it."""
        link = self._links.get(cluster)
        try:
            if link is None:
                raise ConnectionError(f"no agent of cluster {cluster} is connected{self._since(cluster)}")
            stream = await link.open()
        except OSError as error:
            await refuse(pipe, str(error))
            return
        await join(pipe, stream)

    def _since(self, cluster: str) -> str:
        told = self._gone.get(cluster)
        return f" {told}" if told else " yet"


def _at(seconds: float) -> str:
    return time.strftime("%H:%M:%S UTC", time.gmtime(seconds))
