"""Bytes over fsspec: any store, the same verbs."""

from osmo_ray.objects.opening import open_store

__all__ = ["open_store"]
