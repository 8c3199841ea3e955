"""Credentials are tried before they are kept: a wrong key is better told to whoever sets it than to a task at night.

A data credential must be able to look into its bucket, a registry's must be let in. What answered is told by its status
alone, never by its words: the address is the user's, and may be one that only this host reaches.
"""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from osmo_ray.objects import faults
from osmo_ray.objects.keyed import store_options, store_url
from osmo_ray.spec.attempt import DataKey

if TYPE_CHECKING:
    import httpx

LIMIT = 12.0
"""Seconds after which a place counts as silent."""
_STEP = 5.0
_MOST = 1 << 20
_HUBS = {"docker.io": "registry-1.docker.io", "index.docker.io": "registry-1.docker.io"}
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_S3, _AZURE = ("s3", "s3a"), ("az", "abfs", "abfss", "azure")


class Unproven(Exception):
    """The credential does not open what it is for, or nobody answers there; the message is a sentence."""


def prove(kind: str, profile: str, values: Mapping[str, str]) -> None:
    """Try a REGISTRY or DATA credential; blocking, for `LIMIT` seconds at most. Raises `Unproven`."""
    if kind == "REGISTRY":
        _in_time(profile, lambda: registry(profile, values.get("username", ""), values["auth"]))
    elif kind == "DATA":
        region, place = values.get("region", ""), values.get("override_url", "")
        style = values.get("addressing", "")
        key = DataKey(profile, values["access_key_id"], values["access_key"], region, place, style)
        _in_time(key.override_url or profile, lambda: data(key))


def _in_time(where: str, act: Callable[[], None]) -> None:
    """In a thread that is left behind when it takes too long: clients of stores have patience of their own."""
    ended: list[Exception | None] = []

    def run() -> None:
        try:
            act()
            ended.append(None)
        except Exception as error:
            ended.append(error)

    thread = threading.Thread(target=run, daemon=True, name="proof")
    thread.start()
    thread.join(LIMIT)
    if not ended:
        raise Unproven(f"{where} does not answer within {LIMIT:.0f} s")
    if ended[0] is not None:
        raise ended[0]


# --- data ------------------------------------------------------------------------------------------------------------


def data(key: DataKey) -> None:
    """Look into the bucket as tasks will. Places that no such key opens (a folder, `gs://`) are not tried."""
    url = key.endpoint
    scheme = url.partition("://")[0].lower()
    try:
        if scheme in _S3:
            asyncio.run(_look_s3(key))
        elif scheme in _AZURE:
            _look_azure(key)
    except Unproven:
        raise
    except Exception as error:
        raise Unproven(_why(url, error)) from error


async def _look_s3(key: DataKey) -> None:
    import s3fs

    bucket, _, prefix = key.endpoint.partition("://")[2].partition("/")
    how = store_options([key], key.endpoint)
    quick = {"connect_timeout": _STEP, "read_timeout": _STEP, "retries": {"max_attempts": 1}}
    how["config_kwargs"] = {**how.get("config_kwargs", {}), **quick}
    files = s3fs.S3FileSystem(**how, asynchronous=True, skip_instance_cache=True)
    session = await files.set_session()
    try:
        await session.list_objects_v2(Bucket=bucket, Prefix=prefix, MaxKeys=1)
    finally:
        await session.close()


def _look_azure(key: DataKey) -> None:
    from azure.storage.blob import BlobServiceClient

    how = store_options([key], key.endpoint)
    name = urlsplit(store_url(key.endpoint)).netloc.partition("@")[0]
    quick: dict[str, Any] = {"connection_timeout": _STEP, "read_timeout": _STEP, "retry_total": 0}
    if "connection_string" in how:
        service = BlobServiceClient.from_connection_string(how["connection_string"], **quick)
    else:
        host = how.get("account_host") or f"{how['account_name']}.blob.core.windows.net"
        service = BlobServiceClient(f"https://{host}", credential=how["account_key"], **quick)
    with service:
        if name:
            next(iter(service.get_container_client(name).list_blob_names(results_per_page=1)), None)
        else:  # a key of a whole account names no container: then it has to list those
            next(iter(service.list_containers(results_per_page=1)), None)


def _why(url: str, error: Exception) -> str:
    code = faults.status(error)
    if code in (401, 403):
        return f"the key does not open {url} (status {code})"
    if code == 404:
        return f"{url}: there is no such bucket"
    if code:
        return f"{url} refuses the key (status {code})"
    return f"nobody answers for {url} ({type(error).__name__})"


# --- registries ------------------------------------------------------------------------------------------------------


def registry(name: str, username: str, auth: str) -> None:
    """Log in to a registry as image pulls do, by its own way of asking. Raises `Unproven`."""
    # Here: the HTTP client is memory that few replicas of the API need.
    import httpx

    host = name.removeprefix("https://").removeprefix("http://").partition("/")[0]
    host = _HUBS.get(host, host)
    plain = urlsplit(f"//{host}").hostname in _LOOPBACK
    base = f"{'http' if plain else 'https'}://{host}/v2/"
    try:
        with httpx.Client(timeout=_STEP, follow_redirects=False, trust_env=not plain) as client:
            _knock(client, base, host, username, auth)
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        raise Unproven(f"no registry answers at {host} ({type(error).__name__})") from error


def _knock(client: httpx.Client, base: str, host: str, username: str, auth: str) -> None:
    first = client.get(base)
    if first.status_code == 200:
        return  # it lets everybody in
    asks = first.headers.get("www-authenticate", "")
    kind = asks.partition(" ")[0].lower()
    if first.status_code != 401 or kind not in ("basic", "bearer"):
        raise Unproven(f"no registry answers at {host} (status {first.status_code})")
    if kind == "basic":
        second = client.get(base, auth=(username, auth))
    else:
        token = _token(client, host, dict(re.findall(r'(\w+)="([^"]*)"', asks)), username, auth)
        second = client.get(base, headers={"Authorization": f"Bearer {token}"})
    if second.status_code != 200:
        raise Unproven(f"the registry {host} refuses this login (status {second.status_code})")


def _token(client: httpx.Client, host: str, asks: Mapping[str, str], username: str, auth: str) -> str:
    """A registry's own token for the login. A password goes to no address that is neither https nor this host."""
    realm = asks.get("realm", "")
    parts = urlsplit(realm)
    if parts.scheme != "https" and parts.hostname not in _LOOPBACK:
        raise Unproven(f"the registry {host} wants the login sent to an address that is not https")
    query = {"account": username, **({"service": asks["service"]} if "service" in asks else {})}
    answer = client.get(realm, params=query, auth=(username, auth))
    if answer.status_code != 200 or len(answer.content) > _MOST:
        raise Unproven(f"the registry {host} refuses this login (status {answer.status_code})")
    told = answer.json()
    token = (told.get("token") or told.get("access_token")) if isinstance(told, dict) else None
    if not isinstance(token, str):
        raise Unproven(f"the registry {host} gives no token for this login")
    return token
