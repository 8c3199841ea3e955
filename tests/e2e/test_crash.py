"""kill -9 in the middle of a running workflow: each part in turn. Each time the workflow reaches its right end, no
finished task runs again, and no task's effects are accepted twice."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.e2e.harness import Platform, commands, until

pytestmark = pytest.mark.ray

# Each task appends its name to a file outside of its sandbox's own folders: the count of lines is the count of runs.
# Only `middle` waits, until the test lets it go.
CHAIN = """
workflow:
  name: chain
  tasks:
  - name: first
    image: ubuntu:24.04
    command: [sh, -c, "echo first > {{output}}/trace; date +%s%N >> {{output}}/trace"]
  - name: middle
    image: ubuntu:24.04
    command: [sh, -c]
    args:
    - |
      cp {{input:0}}/trace {{output}}/trace
      echo middle >> {{output}}/trace
      for i in $(seq 1 80); do sleep 0.1; done # MARK
    inputs:
    - task: first
  - name: last
    image: ubuntu:24.04
    command: [sh, -c, "cp {{input:0}}/trace {{output}}/trace; echo last >> {{output}}/trace; cat {{output}}/trace"]
    inputs:
    - task: middle
"""


def begin(platform: Platform) -> str:
    id = platform.submit(CHAIN.replace("MARK", mark(platform)))
    platform.running(id, "middle")
    return id


def mark(platform: Platform) -> str:
    """Stands in the command line of `middle`, which has a clean environment and so cannot be found by that."""
    return f"mark-{platform.home.name}"


def attempts(platform: Platform, id: str) -> dict[str, list[str]]:
    """Task -> statuses of its attempts."""
    found: dict[str, list[str]] = {}
    for group in platform.query(id)["groups"]:
        for task in group["tasks"]:
            found.setdefault(task["name"], []).append(task["status"])
    return found


def right_end(platform: Platform, id: str, tmp_path: Path, limit: float = 150) -> dict[str, list[str]]:
    """COMPLETED, every finished task once, the data of exactly one run of each."""
    assert platform.wait(id, limit) == "COMPLETED", platform.tails()
    seen = attempts(platform, id)
    assert all(statuses.count("COMPLETED") == 1 for statuses in seen.values()), seen
    assert seen["first"] == ["COMPLETED"], "a finished task ran again"
    platform.cli("workflow", "download", f"{id}/last", str(tmp_path / "out"))
    names = [line for line in (tmp_path / "out" / "trace").read_text().split() if line.isalpha()]
    assert names == ["first", "middle", "last"]
    until(lambda: not commands(mark(platform)), 30)
    return seen


def test_the_controller_dies(platform: Platform, tmp_path: Path):
    id = begin(platform)
    platform.kill("ray::Controller")
    seen = right_end(platform, id, tmp_path)
    assert seen["middle"] == ["COMPLETED"], "the task went on, so it must not have run again"


def test_a_replica_dies(platform: Platform, tmp_path: Path):
    id = begin(platform)
    platform.kill("ray::ServeReplica")
    seen = right_end(platform, id, tmp_path)
    assert seen["middle"] == ["COMPLETED"]


def test_the_agent_dies(platform: Platform, tmp_path: Path):
    id = begin(platform)
    platform.kill("ray::NodeAgent")
    seen = right_end(platform, id, tmp_path)
    assert seen["middle"] == ["COMPLETED"], "the supervisor outlives the agent, and the next one adopts it"


def test_the_raylet_dies(own_platform: Platform, tmp_path: Path):
    id = begin(own_platform)
    own_platform.kill("raylet/raylet")
    right_end(own_platform, id, tmp_path, 200)


def test_everything_dies_and_up_goes_on(own_platform: Platform, tmp_path: Path):
    id = begin(own_platform)
    own_platform.kill("osmo_ray.platform.keeper")
    own_platform.kill("ray.scripts.scripts")
    for mark in ("gcs_server", "raylet", "ray::", "dashboard"):
        for pid in own_platform.pids(mark):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
    own_platform.up()
    seen = right_end(own_platform, id, tmp_path, 200)
    assert seen["middle"][-1] == "COMPLETED"


def test_down_in_the_middle_and_up_again(own_platform: Platform, tmp_path: Path):
    id = begin(own_platform)
    own_platform.down()
    assert not commands(mark(own_platform)) and not own_platform.pids("raylet")
    own_platform.up()
    right_end(own_platform, id, tmp_path, 200)
