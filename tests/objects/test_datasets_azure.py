"""Datasets on Azure's blob storage, against azurite (`tests/servers/install.sh azurite`)."""

from __future__ import annotations

import uuid

import pytest
from dataset_contract import DatasetContract
from test_azure_store import connection_string  # noqa: F401 - a fixture

from osmo_ray.objects import open_store
from osmo_ray.objects.remote import FsspecStore

pytestmark = pytest.mark.servers


class TestAzureDatasets(DatasetContract):
    @pytest.fixture
    def store(self, connection_string: str) -> FsspecStore:  # noqa: F811
        container = f"c{uuid.uuid4().hex[:12]}"
        store = open_store(f"az://{container}/some/prefix", connection_string=connection_string)
        assert isinstance(store, FsspecStore)
        store._fs.mkdir(container)
        return store
