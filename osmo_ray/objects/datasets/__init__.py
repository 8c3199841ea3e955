"""Versioned datasets in an object store: the bytes behind `osmo_ray.data`."""

from osmo_ray.objects.datasets.bucket import Bucket, open_bucket
from osmo_ray.objects.datasets.dataset import Dataset

__all__ = ["Bucket", "Dataset", "open_bucket"]
