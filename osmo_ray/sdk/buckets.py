"""How a client opens a bucket: the platform says where it lies, the bytes go there directly."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from osmo_ray.data.names import Reference, parse_reference
from osmo_ray.objects.keyed import bucket_key, store_options, store_url
from osmo_ray.objects.opening import open_store
from osmo_ray.objects.protocol import ObjectError
from osmo_ray.sdk.errors import ClientError
from osmo_ray.sdk.keys import data_keys

if TYPE_CHECKING:
    from osmo_ray.objects.datasets.bucket import Bucket
    from osmo_ray.sdk.client import Client


def default_name(client: Client) -> str:
    """The bucket of names that say none."""
    return str(client.http.json("GET", "/api/bucket", {"default_only": True})["default"])


def named(client: Client, text: str) -> Reference:
    """A reference with its bucket. Raises `BadName`."""
    found = parse_reference(text.removesuffix(":"))
    return found if found.bucket else Reference(default_name(client), found.name, found.selector)


def tell(client: Client, reference: Reference) -> None:
    """The platform may look what is new of a name in a bucket that was written to directly. Where it cannot be told now
    it finds out by itself, later."""
    try:
        client.http.json("POST", f"/api/x/bucket/{reference.bucket}/dataset/{reference.name}/index")
    except ClientError:
        return


@dataclass(frozen=True, slots=True)
class Opened:
    """A bucket, and who the platform says one is."""

    bucket: Bucket
    user: str


def opened(client: Client, name: str, *, write: bool = False, through: Any = None) -> Opened:
    """The bucket itself; `through` may wrap its store. Keys of S3, Azure and Google are those that the client keeps,
    else come from where their libraries look. Raises `ClientError`."""
    from osmo_ray.objects.datasets.bucket import open_bucket

    told = client.http.json("POST" if write else "GET", f"/api/x/bucket/{name}/access")
    url = str(told["url"])
    if url.startswith("file:") and not Path(unquote(urlsplit(url).path)).is_dir():
        raise ClientError(
            f"bucket {name} is a folder on the platform's host; reach it from there, or start the platform with "
            "--storage-gateway",
            status=400,
        )
    try:
        keys = data_keys()
        store = open_store(store_url(url), **store_options(keys, url))
        bucket = open_bucket(through(store) if through else store, key=bucket_key(keys, url), cache=_cache())
    except (ObjectError, OSError) as error:
        raise ClientError(_closed(name, url, error), status=400) from None
    return Opened(bucket, str(told["user"]))


def _closed(name: str, url: str, error: Exception) -> str:
    plain, (scheme, _, rest) = url.partition("#")[0], url.partition("://")
    told = f"bucket {name} at {plain} does not open: {error}"
    if scheme not in ("s3", "azure", "gs"):
        return told
    wanted = f"endpoint={scheme}://{rest.partition('/')[0]} access_key_id access_key"
    return f"{told}; if this host has no key for it: osmo credential set NAME --type DATA --payload {wanted}"


def _cache() -> Path:
    from osmo_ray.sdk.login import folder

    return folder() / "datasets"
