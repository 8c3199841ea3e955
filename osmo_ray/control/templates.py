"""What administrators gave to the pods of pools, for the backends of clusters that carry these out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from osmo_ray.control.clusters import Registration
from osmo_ray.spec import pools
from osmo_ray.spec.pools import BadPool, PoolSpec
from osmo_ray.store.protocol import Cluster, Store

POD_TEMPLATE = "POD_TEMPLATE"
Templates = Mapping[str, Mapping[str, Any]]
"""`pool/platform` -> what pods there are merged over."""


def read(store: Store, clusters: Sequence[Cluster]) -> Mapping[str, Templates]:
    """By cluster; empty for clusters whose pools have no templates."""
    written, kept = store.config("POOL"), store.config(POD_TEMPLATE)
    if written is None or kept is None or not clusters:
        return {}
    found = {row.name: _of_cluster(Registration.from_json(row.settings), written.body, kept.body) for row in clusters}
    return {name: made for name, made in found.items() if made}


def _of_cluster(cluster: Registration, written: Mapping[str, Any], kept: Mapping[str, Any]) -> Templates:
    from osmo_ray.backends.kubernetes.pods import merged

    made = {}
    for pool in cluster.pools:
        for platform in cluster.platforms:
            whole: Mapping[str, Any] = cluster.template
            names = _names(pool, written.get(pool), platform.name)
            for name in names:
                whole = merged(whole, kept.get(name, {}))
            if names:
                made[f"{pool}/{platform.name}"] = whole
    return made


def _names(pool: str, value: object, platform: str) -> Sequence[str]:
    try:
        found = pools.from_json(pool, value) if value is not None else PoolSpec(pool)
    except BadPool:  # written by another version of this program; submissions are told
        return ()
    return (*found.templates, *found.platform(platform).templates)
