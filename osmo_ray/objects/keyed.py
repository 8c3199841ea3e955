"""How a bucket is reached: places as users write them, and the keys that open them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Protocol, TypeVar

from osmo_ray.objects.protocol import ObjectError

ADDRESSING = ("", "path", "virtual", "auto")
"""How S3 finds a bucket: in the path (`http://host/bucket`), in the name (`http://bucket.host`), or as its library
chooses; empty is `auto`."""


KEY_BYTES = 32


class Key(Protocol):
    """A key for what lies below `endpoint`."""

    @property
    def endpoint(self) -> str: ...
    @property
    def access_key_id(self) -> str: ...
    @property
    def access_key(self) -> str: ...
    @property
    def region(self) -> str: ...
    @property
    def override_url(self) -> str: ...
    @property
    def addressing(self) -> str: ...
    @property
    def encryption_key(self) -> str: ...


K = TypeVar("K", bound=Key)


def below(url: str, prefix: str) -> str:
    """`prefix` below a store's URL, whose token (after `#`) stays at its end."""
    plain, hash_, token = url.partition("#")
    return f"{plain.rstrip('/')}/{prefix}{hash_}{token}" if prefix else url


def store_url(path: str) -> str:
    """What `open_store` takes for a place: `azure://account/container/x` is `az://container/x` there."""
    if not path.startswith("azure://"):
        return path
    return "az://" + path.removeprefix("azure://").partition("/")[2]


def covering(keys: Sequence[K], url: str) -> K | None:
    """The key of the longest endpoint that `url` lies below."""
    mine = [k for k in keys if url == k.endpoint or url.startswith(k.endpoint.rstrip("/") + "/")]
    return max(mine, key=lambda k: len(k.endpoint), default=None)


def bucket_key(keys: Sequence[Key], url: str) -> bytes | None:
    """The 32 bytes that open encrypted datasets there; None for datasets in the clear. Raises `ObjectError`."""
    key = covering(keys, url)
    if key is None or not key.encryption_key:
        return None
    try:
        found = bytes.fromhex(key.encryption_key)
    except ValueError:
        found = b""
    if len(found) != KEY_BYTES:
        told = "write 64 hex digits (openssl rand -hex 32)"
        raise ObjectError(f"the encryption_key of {key.endpoint} is none: {told}", permanent=True)
    return found


def store_options(keys: Sequence[Key], url: str) -> dict[str, Any]:
    """What a store is to be opened with: the key of the longest endpoint that `url` lies below, or nothing."""
    key = covering(keys, url)
    account = {"account_name": url.split("/")[2]} if url.startswith("azure://") else {}
    if key is None:
        return account
    if url.startswith(("az:", "abfs:", "abfss:", "azure:")):
        named = account or {"account_name": key.access_key_id}
        if "://" in key.override_url:  # the whole address of the service, such as that of an emulator
            told = f"AccountName={named['account_name']};AccountKey={key.access_key};BlobEndpoint={key.override_url}"
            return {"connection_string": told}
        host = {"account_host": key.override_url} if key.override_url else {}
        return {**named, "account_key": key.access_key, **host}
    place = {"endpoint_url": key.override_url} if key.override_url else {}
    if url.startswith(("gs:", "gcs:")):
        return {"token": _google(key), **place}
    if not url.startswith(("s3:", "s3a:")):
        return {}
    if key.addressing not in ADDRESSING:
        known = ", ".join(filter(None, ADDRESSING))
        raise ObjectError(f"addressing {key.addressing!r} of {key.endpoint}: write one of {known}", permanent=True)
    region = {"client_kwargs": {"region_name": key.region}} if key.region else {}
    style = {"config_kwargs": {"s3": {"addressing_style": key.addressing}}} if key.addressing else {}
    return {"key": key.access_key_id, "secret": key.access_key, **place, **region, **style}


def _google(key: Key) -> Any:
    """A service account's key file as its text, or a path to one, or a name that gcsfs knows (`anon`, `cloud`)."""
    if not key.access_key.lstrip().startswith("{"):
        return key.access_key
    try:
        return json.loads(key.access_key)
    except ValueError as error:
        raise ObjectError(f"the key of {key.endpoint} is no service account's JSON: {error}", permanent=True) from None
