"""What tasks use, from the cluster's metrics API; a cluster without one is not asked again and again."""

from __future__ import annotations

import time
from collections.abc import Sequence

from osmo_ray.backends.kubernetes import nodes, pods
from osmo_ray.backends.kubernetes.client import ApiError, HttpApi, Object
from osmo_ray.backends.protocol import BackendUnavailable
from osmo_ray.spec.attempt import UsageSample

_NOT_AGAIN = 300.0


class Metrics:
    """Of the pods of one owner in one namespace."""

    def __init__(self, api: HttpApi, namespace: str, owner: str) -> None:
        self._api, self._owner = api, owner
        self._path = f"/apis/metrics.k8s.io/v1beta1/namespaces/{namespace}/pods"
        self._not_before = 0.0

    async def samples(self) -> Sequence[UsageSample]:
        """One of each pod that is known there."""
        if time.monotonic() < self._not_before:
            return ()
        try:
            found = await self._api.get(self._path, {"labelSelector": f"{pods.OWNER}={self._owner}"})
        except (ApiError, BackendUnavailable):
            self._not_before = time.monotonic() + _NOT_AGAIN
            return ()
        return [sample for item in found["items"] if (sample := _sample(item)) is not None]


def _sample(item: Object) -> UsageSample | None:
    found = item["metadata"].get("labels") or {}
    user = next((c for c in item["containers"] if c["name"] == pods.USER), None)
    if user is None or pods.TASK not in found:
        return None
    cpu, memory = nodes.quantity(user["usage"]["cpu"]), nodes.quantity(user["usage"]["memory"])
    return UsageSample(found[pods.TASK], int(found[pods.RETRY]), time.time(), cpu, memory)
