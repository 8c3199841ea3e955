"""`osmo://bucket/name@version/path` for whatever asks fsspec for it: `pandas.read_csv("osmo://robots/grasps@3/x.csv")`.

An entry point of the package names this class to fsspec, which imports it when such a path is first opened. Buckets are
those of the platform that the client talks to.
"""

from __future__ import annotations

from typing import Any

from osmo_ray.objects.datasets.bucket import Bucket
from osmo_ray.objects.datasets.filesystem import DatasetFileSystem
from osmo_ray.sdk import buckets, data


class OsmoFileSystem(DatasetFileSystem):
    """Read-only; each bucket is opened once."""

    def __init__(self, **options: Any) -> None:
        client = data.platform()
        opened: dict[str, Bucket] = {}

        def bucket(name: str) -> Bucket:
            if name not in opened:
                opened[name] = buckets.opened(client, name or buckets.default_name(client)).bucket
            return opened[name]

        super().__init__(bucket, **options)
