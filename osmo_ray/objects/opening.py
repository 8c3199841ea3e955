"""From a URL to the store behind it.

Each kind of store is imported only when its URL is opened: a local folder needs nothing but the standard library.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import unquote, urlsplit

from osmo_ray.objects.local import LocalStore
from osmo_ray.objects.protocol import ObjectError, ObjectStore

FSSPEC_SCHEMES = frozenset({"s3", "s3a", "az", "abfs", "abfss", "gs", "gcs", "memory"})
GATEWAY_SCHEMES = frozenset({"osmo+http", "osmo+https"})


def open_store(url: str, **options: Any) -> ObjectStore:
    """The store at `url`: a path, `file:///path`, `s3://bucket/prefix`, `az://container/prefix`, `gs://...`,
    `memory://name`, or `osmo+http://host:port/prefix#token` for a platform's storage gateway.

    `options` go to the store: `durable` for a folder, `token` for the gateway, fsspec's storage options (`key`,
    `secret`, `client_kwargs`, `connection_string` ...) for the others. Raises a permanent `ObjectError` for a scheme
    that nothing here speaks.
    """
    scheme = url.split("://", 1)[0].lower() if "://" in url else ""
    if scheme == "":
        return LocalStore(url, **options)
    if scheme == "file":
        return LocalStore(_file_path(url), **options)
    if scheme in GATEWAY_SCHEMES:
        from osmo_ray.objects.gateway import GatewayStore

        plain, _, token = url.partition("#")
        return GatewayStore(plain, **(options | {"token": token} if token else options))
    if scheme in FSSPEC_SCHEMES:
        from osmo_ray.objects.remote import FsspecStore

        return FsspecStore(url, options)
    known = ", ".join(sorted({"file", *FSSPEC_SCHEMES, *GATEWAY_SCHEMES}))
    raise ObjectError(f"no object store speaks {scheme!r} ({url}); known: a path, {known}", permanent=True)


def _file_path(url: str) -> str:
    parts = urlsplit(url)
    if parts.netloc not in ("", "localhost"):
        raise ObjectError(
            f"{url}: a file URL has no host; write file:///{parts.netloc}{parts.path} if that is the path",
            permanent=True,
        )
    return unquote(parts.path)
