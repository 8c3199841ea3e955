"""Pools and the backends behind them: the platform's own, and those of registered clusters."""

from __future__ import annotations

from collections.abc import Mapping

from osmo_ray.api.services import Services
from osmo_ray.control.clusters import Registration


def pools(services: Services) -> Mapping[str, str]:
    """Pool -> backend, the platform's own first."""
    found = {services.settings.pool: services.settings.backend}
    for cluster in services.store.clusters():
        found.update(dict.fromkeys(Registration.from_json(cluster.settings).pools, cluster.name))
    return found
