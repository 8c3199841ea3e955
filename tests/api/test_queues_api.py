"""Queues over the API: what is owed is read from the quotas, what is held comes from the controller, or is null."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from osmo_ray.api import application
from osmo_ray.scheduler.model import Standing
from tests.api.world import World

QUOTA = """
queues:
  - {name: all}
  - {name: training, parent: all, priority: 120, gpu: {quota: 2, limit: 4.5}, cpu: {quota: 8}}
  - {name: robots, parent: all, gpu: {quota: -1, weight: 3}}
pools: {default: training, other: training}
"""
FREE = {"quota": -1, "limit": -1, "weight": 1}


@pytest.fixture
def world(tmp_path: Path):
    made = World(tmp_path)
    yield made
    made.close()


def ask(world: World, *standings: Standing) -> dict:
    async def planned() -> tuple[Standing, ...]:
        return standings

    app = application.build(replace(world.services, standings=planned))
    with TestClient(app, base_url="http://127.0.0.1:8000", client=("127.0.0.1", 50000)) as client:
        reply = client.get("/api/x/queues")
    assert reply.status_code == 200, reply.text
    return dict(reply.json())


def test_without_quotas_there_are_none(world: World):
    assert ask(world) == {"set": False, "stale": False, "error": "", "queues": []}


def test_what_is_owed_and_what_is_held(world: World, tmp_path: Path):
    (tmp_path / "quota.yaml").write_text(QUOTA)
    found = ask(
        world,
        Standing("all", -1, -1, 6, 5, 2),
        Standing("training", 2, 4.5, 3, 3.5, 2),
        Standing("gone", 1, 1, 1, 1, 1),
    )
    assert (found["set"], found["stale"], found["error"]) == (True, False, "")
    top, training, robots = found["queues"]
    assert training == {
        "name": "training",
        "parent": "all",
        "priority": 120,
        "shard": "",
        "pools": ["default", "other"],
        "gpu": {"quota": 2, "limit": 4.5, "weight": 1, "fair_share": 3, "held": 3.5, "held_firm": 2, "borrowed": 1.5},
        "cpu": {"quota": 8, "limit": -1, "weight": 1},
        "memory": FREE,
    }
    assert top["pools"] == [] and (top["gpu"]["held"], top["gpu"]["borrowed"]) == (5, 0)
    unknown = {"fair_share": None, "held": None, "held_firm": None, "borrowed": None}
    assert robots["gpu"] == {"quota": -1, "limit": -1, "weight": 3, **unknown}


def test_a_bad_source_is_told_with_what_stays_in_force(world: World, tmp_path: Path):
    (tmp_path / "quota.yaml").write_text("queues: 3")
    first = ask(world)
    assert (first["set"], first["stale"], first["queues"]) == (False, True, []) and "quota.yaml:1:9" in first["error"]
    (tmp_path / "quota.yaml").write_text(QUOTA)
    assert not ask(world)["stale"]
    (tmp_path / "quota.yaml").write_text("queues: nothing good")
    stale = ask(world)
    assert stale["set"] and stale["stale"] and "at least one" in stale["error"]
    assert [q["name"] for q in stale["queues"]] == ["all", "training", "robots"]
