"""Datasets in a folder."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from dataset_contract import DatasetContract, grow, tree

from osmo_ray.objects.datasets import Dataset, open_bucket
from osmo_ray.objects.local import LocalStore


class TestLocalDatasets(DatasetContract):
    @pytest.fixture
    def store(self, tmp_path: Path) -> LocalStore:
        return LocalStore(tmp_path / "bucket", durable=False)


def test_a_copied_bucket_works(tmp_path: Path) -> None:
    source = grow(tmp_path / "in")
    Dataset(open_bucket(LocalStore(tmp_path / "a")), "d", create=True).upload([source])
    shutil.copytree(tmp_path / "a", tmp_path / "elsewhere" / "b")
    shutil.rmtree(tmp_path / "a")
    Dataset(open_bucket(LocalStore(tmp_path / "elsewhere" / "b")), "d").download(tmp_path / "out")
    assert tree(tmp_path / "out") == tree(source)
