"""Buckets: where datasets lie, and how a client reaches one.

Bytes of datasets never pass through these routes. A client reaches a bucket as the platform does, with keys of its own;
a folder of the platform's host is reached through the storage gateway, by a token for that bucket alone.
"""

from __future__ import annotations

import time

from fastapi import APIRouter, Request

from osmo_ray.api.errors import ApiError
from osmo_ray.api.nouns import BucketAccess, BucketEntry, BucketList, BucketLocation
from osmo_ray.api.routes.common import User
from osmo_ray.api.services import Services
from osmo_ray.objects import scope
from osmo_ray.providers.buckets import NoSuchBucket, Place

_ACCESS = 86400.0
"""Seconds for which a client may use what it was given: as long as an upload may take."""


def routes(services: Services) -> APIRouter:
    router = APIRouter(tags=["bucket"])

    @router.get("/api/bucket")
    def list_buckets(user: User, default_only: bool = False) -> BucketList:
        preferred = services.store.profile(user.user).bucket
        default = preferred if preferred in services.buckets.places else services.buckets.default
        shown = {} if default_only else services.buckets.places
        return BucketList(default=default, buckets={name: _entry(place) for name, place in shown.items()})

    @router.get("/api/bucket/{bucket}/location")
    def bucket_location(bucket: str) -> BucketLocation:
        place = find(services, bucket)
        return BucketLocation(path=place.path, region=place.region or "us-east-1")

    @router.get("/api/x/bucket/{bucket}/access")
    def read_access(bucket: str, user: User, request: Request) -> BucketAccess:
        return _access(services, find(services, bucket), user.user, request, scope.READ + scope.LIST)

    @router.post("/api/x/bucket/{bucket}/access")
    def write_access(bucket: str, user: User, request: Request) -> BucketAccess:
        place = find(services, bucket)
        if not place.writable:
            raise ApiError(f"The bucket {bucket} is {place.mode}; name another one.")
        return _access(services, place, user.user, request, scope.ALL)

    return router


def find(services: Services, name: str) -> Place:
    """Raises `ApiError`."""
    try:
        return services.buckets.place(name)
    except NoSuchBucket as error:
        raise ApiError(f"{str(error)[0].upper()}{str(error)[1:]}.") from None


def _entry(place: Place) -> BucketEntry:
    return BucketEntry(
        path=place.path, description=place.description, mode=place.mode, default_cred=bool(place.credential_file)
    )


def _access(services: Services, place: Place, user: str, request: Request, verbs: str) -> BucketAccess:
    if place.path.startswith("file:"):
        services.buckets.open(place)  # so that a client on this host sees that it is on this host
    if not (place.inside and services.gateway_key and place.path.startswith("file:")):
        return BucketAccess(name=place.name, user=user, url=place.path)
    prefix, expires = f"{place.inside}/", time.time() + _ACCESS
    token = scope.grant(services.gateway_key, verbs, prefix, expires)
    return BucketAccess(
        name=place.name, user=user, url=f"osmo+{str(request.base_url).rstrip('/')}/{place.inside}#{token}"
    )
