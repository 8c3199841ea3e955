"""Real servers, started once for all tests that ask for one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.servers import azurite as azurites
from tests.servers import buckets


@pytest.fixture(scope="session")
def versitygw(tmp_path_factory: pytest.TempPathFactory) -> Iterator[buckets.Server]:
    with buckets.versitygw(tmp_path_factory.mktemp("versitygw")) as server:
        yield server


@pytest.fixture(scope="session")
def ceph(tmp_path_factory: pytest.TempPathFactory) -> Iterator[buckets.Server]:
    with buckets.ceph(tmp_path_factory.mktemp("ceph")) as server:
        yield server


@pytest.fixture(scope="session")
def rclone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[buckets.Server]:
    with buckets.rclone_s3(tmp_path_factory.mktemp("rclone") / "it") as server:
        yield server


@pytest.fixture(scope="session")
def google(tmp_path_factory: pytest.TempPathFactory) -> Iterator[buckets.Server]:
    with buckets.fake_gcs(tmp_path_factory.mktemp("gcs")) as server:
        yield server


@pytest.fixture(scope="session")
def azurite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with azurites.azurite(tmp_path_factory.mktemp("azurite")) as address:
        yield address
