"""Registered clusters in the store."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from osmo_ray.store.protocol import Cluster
from osmo_ray.store.sql import SqlStore


@pytest.fixture
def clusters(tmp_path: Path) -> Iterator[SqlStore]:
    made = SqlStore(f"sqlite:///{tmp_path / 'osmo.db'}")
    made.migrate()
    yield made
    made.close()


def test_a_cluster_is_kept_replaced_and_removed(clusters: SqlStore):
    clusters.save_cluster(Cluster("b", "s1", "{}", 1.0))
    clusters.save_cluster(Cluster("a", "s2", "{}", 2.0))
    clusters.save_cluster(Cluster("b", "s3", '{"x": 1}', 3.0))
    assert list(clusters.clusters()) == [Cluster("a", "s2", "{}", 2.0), Cluster("b", "s3", '{"x": 1}', 3.0)]
    assert clusters.delete_cluster("b") and not clusters.delete_cluster("b")
    assert [c.name for c in clusters.clusters()] == ["a"]
