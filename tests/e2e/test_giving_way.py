"""Quotas on a real platform: `quota.yaml` is read while it runs, and work of low priority gives way and comes back."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.conftest import _platform
from tests.e2e.harness import Platform, until

pytestmark = pytest.mark.ray

QUOTA = """\
queues:
  - name: default
    cpu: {quota: 4, limit: 4}
"""
WORK = """\
workflow:
  name: NAME
  resources:
    default: {cpu: 3, memory: 64Mi, storage: 1Mi}
  tasks:
  - name: work
    image: ubuntu:24.04
    command: [sh, -c, "COMMAND"]
"""


@pytest.fixture(scope="module")
def shared() -> Iterator[Platform]:
    yield from _platform({"OSMO_CPU": "8"})


def test_low_priority_gives_way_and_comes_back(shared: Platform) -> None:
    (shared.home / "quota.yaml").write_text(QUOTA)
    low = shared.submit(WORK.replace("NAME", "low").replace("COMMAND", "sleep 4"), "--priority", "LOW")
    shared.running(low, "work")
    high = shared.submit(WORK.replace("NAME", "high").replace("COMMAND", "sleep 4"), "--priority", "HIGH")

    def held() -> list[str]:
        tasks = shared.get(f"/api/x/workflow/{low}/explain")["tasks"]
        return [t["reason"]["sentence"] for t in tasks if t["reason"] and t["reason"]["code"] == "OverLimit"]

    assert f"{high}/" in until(held, 30)[0], "who holds what it waits for"
    assert shared.wait(high) == "COMPLETED"
    assert shared.wait(low) == "COMPLETED"
    told = shared.cli("workflow", "events", low, "--no-follow").stdout
    assert f"gives way to {high}/" in told and "retry-1" in told
