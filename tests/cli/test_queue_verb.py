"""`osmo queue`, against the real API."""

from __future__ import annotations

import json

import pytest

from osmo_ray.cli import queue
from osmo_ray.program import main
from tests.cli.conftest import Site

QUOTA = """
queues:
  - {name: all}
  - {name: robots, parent: all, gpu: {quota: 1}}
  - {name: training, parent: all, gpu: {quota: 2, limit: 4.5, weight: 3}}
pools: {default: training, other: robots}
"""


def said(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[list[list[str]], str]:
    assert main(["queue", *words]) == 0
    told = capsys.readouterr()
    return [line.split() for line in told.out.splitlines()], told.err


def test_without_quotas_it_says_so(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["queue"]) == 0
    assert "No quotas are set" in capsys.readouterr().out


def test_queues_are_listed_below_each_other_and_by_pool(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    path = site.world.folder / "quota.yaml"
    path.write_text(QUOTA)
    lines, err = said(capsys)
    assert lines[1:] == [
        ["all", "100", "all", "all", "1", "-", "-", "-"],
        ["robots", "other", "100", "1", "all", "1", "-", "-", "-"],
        ["training", "default", "100", "2", "4.5", "3", "-", "-", "-"],
    ]
    assert "has not planned" in err
    assert [line[0] for line in said(capsys, "--pool", "default")[0]] == ["Queue", "all", "training"]
    path.write_text("queues: nothing good")
    lines, err = said(capsys)
    assert len(lines) == 4 and "not the newest quotas" in err and "quota.yaml:1:9" in err
    assert main(["queue", "-t", "json", "-p", "other"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [q["name"] for q in found["queues"]] == ["all", "robots"] and found["stale"]


def test_numbers_of_the_controller_are_shown() -> None:
    gpu = {"quota": 2, "limit": -1, "weight": 1, "fair_share": 3, "held": 3.5, "held_firm": 2, "borrowed": 1.5}
    told = queue.rows([{"name": "a", "parent": "gone", "priority": 50, "pools": ["p", "q"], "gpu": gpu}])
    assert told == [["a", "p, q", "50", "2", "all", "1", "3", "3.5", "1.5", ""]]
