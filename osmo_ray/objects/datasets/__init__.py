"""Versioned datasets in an object store: the bytes behind `osmo_ray.data`.

Everything here is imported when it is first used: it brings Arrow along, 30 MiB that a platform without datasets never
needs.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from osmo_ray.objects.datasets import catalog, guests, layout
    from osmo_ray.objects.datasets.bucket import THREADS, Bucket, open_bucket
    from osmo_ray.objects.datasets.dataset import Dataset

__all__ = ["THREADS", "Bucket", "Dataset", "catalog", "guests", "layout", "open_bucket"]

_HOME = {"Bucket": "bucket", "THREADS": "bucket", "open_bucket": "bucket", "Dataset": "dataset"}
_MODULES = ("catalog", "guests", "layout")


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"{__name__}.{name}")
    if name in _HOME:
        return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
