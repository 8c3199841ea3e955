"""Real stores that can be asked at another address too: a proxy's that goes wrong, or from another process."""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass, field
from typing import Any

import pytest
from test_real_stores import gcs_store, s3_store

from osmo_ray.objects import open_store
from osmo_ray.objects.remote import FsspecStore
from tests.servers import buckets
from tests.servers.azurite import ACCOUNT
from tests.servers.azurite import KEY as AZURE_KEY


@dataclass
class Place:
    """`url` on a server that listens at `port` of this host."""

    kind: str
    port: int
    url: str = ""
    options: dict[str, Any] = field(default_factory=dict)

    def at(self, port: int) -> dict[str, Any]:
        """The options of fsspec that reach it by another port."""
        return dict(json.loads(json.dumps(self.options).replace(f"127.0.0.1:{self.port}", f"127.0.0.1:{port}")))

    def store(self, port: int = 0, **more: Any) -> FsspecStore:
        found = open_store(self.url, **(self.at(port or self.port) | more))
        assert isinstance(found, FsspecStore)
        return found

    def hasty(self, port: int) -> FsspecStore:
        """By another port, and its library tries again at once or not at all."""
        if self.kind != "s3":
            return self.store(port)
        style = {"retries": {"max_attempts": 0}, "s3": {"addressing_style": "path"}}
        found = self.store(port, config_kwargs=style)
        found._fs.retries = 1
        return found


def s3(server: buckets.Server) -> Place:
    return Place("s3", server.port, s3_store(server).url, server.options())


def google(server: buckets.Server) -> Place:
    return Place("google", server.port, gcs_store(server).url, {"token": "anon", "endpoint_url": server.endpoint})


def azure(address: str) -> Place:
    """`address` is `http://127.0.0.1:port/account`."""
    port = int(address.split(":")[2].split("/")[0])
    told = f"DefaultEndpointsProtocol=http;AccountName={ACCOUNT};AccountKey={AZURE_KEY};BlobEndpoint={address};"
    place = Place("azure", port, f"az://c{uuid.uuid4().hex[:12]}/some/prefix", {"connection_string": told})
    place.store()._fs.mkdir(place.url.split("/")[2])
    return place


def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The libraries of Azure and Google pause for many seconds between their own tries; not here."""
    from azure.storage.blob._shared import policies_async
    from gcsfs import retry

    monkeypatch.setattr(policies_async.ExponentialRetry, "get_backoff_time", lambda self, settings: 0.0)
    monkeypatch.setattr(retry.random, "random", lambda: -1e9)
