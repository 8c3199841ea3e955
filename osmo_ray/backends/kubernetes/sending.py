"""All that is said to the cluster about pods, a call each: make one with its Secrets, change its orders, delete some.

Nothing is decided here and nothing is kept, except whose Secrets are known to be there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from osmo_ray.backends.kubernetes import kai, pods
from osmo_ray.backends.kubernetes.client import ApiError, HttpApi, Object
from osmo_ray.backends.kubernetes.settings import ClusterSettings, Platform
from osmo_ray.backends.protocol import BackendUnavailable
from osmo_ray.objects import open_store
from osmo_ray.objects.protocol import ObjectError
from osmo_ray.runtime.pod import files_to_json
from osmo_ray.spec.attempt import AttemptPlan, GroupPlan

_PER_SELECTOR = 40
_LARGE = 256 << 10


class Sender:
    """The calls for one namespace. All raise `ApiError` and `BackendUnavailable`."""

    def __init__(self, api: HttpApi, namespace: str) -> None:
        base = f"/api/v1/namespaces/{namespace}"
        self.pods, self.secrets = f"{base}/pods", f"{base}/secrets"
        self._api = api
        self._given: set[str] = set()

    async def make(
        self, plan: AttemptPlan, group: GroupPlan, settings: ClusterSettings, platform: Platform, epoch: int
    ) -> Object:
        """The pod; it waits for its Secret."""
        value = pods.pod_of(plan, settings, platform, epoch)
        if group.delegated is not None:
            kai.on_pod(value, group, group.delegated, plan.key, settings.namespace)
            excluded = group.delegated.excluded.get(plan.key, ())
            value["spec"]["affinity"] = kai.anywhere_but(excluded, platform.labels)
        return await self._api.apply(f"{self.pods}/{value['metadata']['name']}", value)

    async def give_secret(self, plan: AttemptPlan, settings: ClusterSettings, uid: str) -> None:
        """The job; of large files only the word where in the storage they are, since a Secret holds a megabyte."""
        files_at = ""
        if sum(len(file.contents) for file in plan.files) > _LARGE:
            files_at = pods.files_key(plan)
            await asyncio.to_thread(_put_files, settings.storage_url, files_at, plan)
        login = pods.login_of(plan, settings, uid)
        if login is not None:  # first, for the pod waits for the job only
            await self._api.apply(f"{self.secrets}/{login['metadata']['name']}", login)
        secret = pods.secret_of(plan, settings, uid, files_at)
        name = str(secret["metadata"]["name"])
        await self._api.apply(f"{self.secrets}/{name}", secret)
        self._given.add(name)

    async def give_missing_secret(self, plan: AttemptPlan, settings: ClusterSettings, pod: Object) -> None:
        """The same where a controller before us may have died between the two calls."""
        name = str(pod["metadata"]["name"])
        if name in self._given:
            return
        try:
            await self.give_secret(plan, settings, str(pod["metadata"]["uid"]))
        except ApiError as error:
            if error.status != 422:  # it is there since before our start, and what a pod was given does not change
                raise
            self._given.add(name)

    def forget(self, name: str) -> None:
        """A pod has gone, and its Secret with it."""
        self._given.discard(name)

    async def order(self, plan: AttemptPlan, pod: Object) -> Object | None:
        """Its orders, if they are others than it has: the pod with them, or None."""
        text = pods.orders_text(plan)
        if pod["metadata"]["annotations"].get(pods.ORDERS) == text:
            return None
        value = {"metadata": {"annotations": {pods.ORDERS: text}}}
        try:
            return await self._api.merge(f"{self.pods}/{pod['metadata']['name']}", value)
        except ApiError as error:
            if error.status != 404:  # it was deleted meanwhile, which the watch tells
                raise
        return None

    async def delete(self, old: Sequence[Object], grace: float) -> None:
        """These pods, unless they are on their way out."""
        for pod in old:
            if "deletionTimestamp" not in pod["metadata"]:
                await self._api.delete(f"{self.pods}/{pod['metadata']['name']}", grace)

    async def delete_by(self, owner: str, label: str, values: Sequence[str], grace: float) -> None:
        """All pods with one of these values, in as few calls as their names fit into. Their Secrets go with them."""
        for begin in range(0, len(values), _PER_SELECTOR):
            some = ",".join(values[begin : begin + _PER_SELECTOR])
            selector = f"{pods.OWNER}={owner},{label} in ({some})"
            await self._api.delete(self.pods, max(grace, 1.0), {"labelSelector": selector})


def _put_files(storage_url: str, key: str, plan: AttemptPlan) -> None:
    try:
        open_store(storage_url).write(key, files_to_json(plan.files))
    except ObjectError as error:
        raise BackendUnavailable(f"the files of {plan.key} could not be put into the storage: {error}") from error
