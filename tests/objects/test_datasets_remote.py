"""Datasets on S3 against a server in this process, in memory, and on a store without conditional writes."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest
from dataset_contract import NOW, DatasetContract
from test_remote_store import s3_endpoint, s3_options  # noqa: F401 - a fixture

from osmo_ray.data.errors import DataError
from osmo_ray.objects import open_store
from osmo_ray.objects.datasets import Dataset, open_bucket
from osmo_ray.objects.datasets.collecting import collect
from osmo_ray.objects.protocol import ObjectStore
from osmo_ray.objects.remote import FsspecStore


class TestMemoryDatasets(DatasetContract):
    @pytest.fixture
    def store(self) -> ObjectStore:
        return open_store(f"memory://{uuid.uuid4().hex}")


class TestS3Datasets(DatasetContract):
    @pytest.fixture
    def store(self, s3_endpoint: str) -> FsspecStore:  # noqa: F811
        bucket = f"bucket-{uuid.uuid4().hex[:12]}"
        store = open_store(f"s3://{bucket}/some/prefix", **s3_options(s3_endpoint))
        assert isinstance(store, FsspecStore)
        store._fs.call_s3("create_bucket", Bucket=bucket)
        return store

    def test_a_store_that_ignores_conditions_is_found_out(
        self, store: FsspecStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        real = store._fs.pipe_file
        monkeypatch.setattr(store._fs, "pipe_file", lambda path, data, mode="overwrite": real(path, data))
        bucket = open_bucket(store)
        assert "two writers at the same moment" in bucket.promises
        (tmp_path / "f").write_bytes(b"x")
        assert Dataset(bucket, "d", create=True).upload([tmp_path / "f"]).number == 1
        with pytest.raises(DataError, match="cannot collect garbage safely"):
            collect(bucket, NOW)
