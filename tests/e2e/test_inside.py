"""What a running platform gives a task and shows of it: GPUs, use of memory and cores, Ray's own view, its end."""

from __future__ import annotations

import json
import re
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.harness import ROOT, Platform, commands, until
from tests.e2e.test_platform import one

pytestmark = pytest.mark.ray

HELD = "import time; held = bytearray({mib} << 20); time.sleep({seconds})"


def said(platform: Platform, id: str) -> str:
    return platform.cli("workflow", "logs", id).stdout


def until_said(platform: Platform, id: str, text: str, count: int = 1) -> str:
    """Follow a workflow that goes on until it has said this so many times; the answer is all that was said."""
    heard = ""
    with urllib.request.urlopen(f"{platform.url}/api/workflow/{id}/logs", timeout=90) as stream:
        while heard.count(text) < count:
            line = stream.readline().decode()
            assert line, f"{id} ended and had said only: {heard}"
            heard += line
    return heard


def dashboard(platform: Platform, path: str) -> Any:
    """An answer of Ray's dashboard, asked with the cluster's token."""
    state = json.loads((platform.home / "run/state.json").read_text())
    request = urllib.request.Request(state["dashboard"] + path)
    request.add_header("Authorization", f"Bearer {(platform.home / 'ray.token').read_text().strip()}")
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


def with_gpu(id: str, count: int) -> str:
    """Tasks that say which GPU is theirs, and stay."""
    tasks = "".join(
        f"""
  - name: t{n}
    image: ubuntu:24.04
    command: [sh, -c, 'echo "mine=[$CUDA_VISIBLE_DEVICES]"; sleep 600']"""
        for n in range(count)
    )
    return f"workflow:\n  name: {id}\n  resources:\n    default: {{cpu: 1, gpu: 1}}\n  tasks:{tasks}\n"


def test_gpus_belong_to_one_task_each_and_are_hidden_from_the_others(platform: Platform):
    id = platform.submit(with_gpu("two-gpus", 2))
    platform.running(id, "t0", "t1")
    assert sorted(re.findall(r"mine=\[(.*)\]", until_said(platform, id, "mine=[", 2))) == ["0", "1"]

    third = platform.submit(with_gpu("third", 1))
    until(lambda: "needs 1 GPU, 0 of 2 free" in platform.cli("explain", third).stdout, 30)
    assert platform.tasks(third)["t0"]["status"] == "PROCESSING"

    none = platform.submit(one('echo "mine=[$CUDA_VISIBLE_DEVICES]"', name="no-gpu"))
    assert platform.wait(none) == "COMPLETED"
    assert re.findall(r"mine=\[(.*)\]", said(platform, none)) == [""]

    platform.cli("workflow", "cancel", "--force", id)
    platform.running(third, "t0")
    platform.cli("workflow", "cancel", "--force", third)
    assert platform.wait(third) == "FAILED_CANCELED"


def test_use_over_time_is_kept_after_the_end(platform: Platform):
    busy = "import time; held = bytearray(80 << 20); end = time.time() + 6\nwhile time.time() < end: pass"
    id = platform.submit(one(f"python3 -c '{busy}'", name="used"))
    assert platform.wait(id) == "COMPLETED"
    told = platform.get(f"/api/x/workflow/{id}/usage/main")
    assert told["figures"]["memory_peak"] >= 80 << 20
    assert told["figures"]["cpu_seconds"] > 1
    assert max(s["memory"] for s in told["samples"]) >= 80 << 20
    assert max(s["cpu"] for s in told["samples"]) > 0.2


def test_too_much_memory_is_told_as_such(platform: Platform):
    text = one(f'python3 -c "{HELD.format(mib=300, seconds=60)}"', name="hungry")
    id = platform.submit(text.replace("  tasks:", "  resources:\n    default: {memory: 64Mi}\n  tasks:", 1))
    assert platform.wait(id) == "FAILED_EVICTED"
    task = platform.tasks(id)["main"]
    assert (task["status"], task["exit_code"]) == ("FAILED_EVICTED", 3004)
    reason = platform.get(f"/api/x/workflow/{id}/explain")["tasks"][0]["reason"]
    assert reason["code"] == "OutOfMemory"
    assert reason["evidence"]["limit"] == "64.0 MiB" and "MiB" in reason["evidence"]["peak"]
    told = platform.cli("explain", id).stdout
    assert "memory" in told and "64.0 MiB" in told and len([line for line in told.splitlines() if line.strip()]) <= 12


def test_rays_dashboard_names_attempts_while_they_run(platform: Platform):
    id = platform.submit(one("sleep 600", name="shown"))
    platform.running(id, "main")
    wanted = urllib.parse.quote(f"{id}/main", safe="")
    ask = f"/api/v0/tasks?filter_keys=name&filter_predicates=%3D&filter_values={wanted}"

    def states() -> list[str]:
        return [task["state"] for task in dashboard(platform, ask)["data"]["result"]["result"]]

    until(lambda: states() == ["RUNNING"], 30)
    platform.cli("workflow", "cancel", "--force", id)
    until(lambda: states() == ["FINISHED"], 30)
    names = {t["name"] for t in dashboard(platform, "/api/v0/tasks?limit=1000")["data"]["result"]["result"]}
    assert not {n for n in names if n.startswith("NodeAgent.")}, "the platform's own calls drown what people look for"


def test_cancel_ends_the_whole_tree_of_a_task_that_ignores_it(platform: Platform):
    mark = f"mark-{platform.home.name}-tree"
    id = platform.submit(
        one(
            f"""
trap '' TERM
sh -c "trap '' TERM; sleep 601; true {mark}" &
setsid sh -c "trap '' TERM; sleep 602; true {mark}" &
echo begun
while true; do sleep 603; done
""",
            name="stubborn",
        )
    )
    platform.running(id, "main")
    until(lambda: len(commands(mark)) >= 2, 30)
    platform.cli("workflow", "cancel", "--force", id)
    assert platform.wait(id) == "FAILED_CANCELED"
    until(lambda: not commands(mark), 30)


def test_a_ray_program_is_a_job_that_cancel_really_stops(platform: Platform):
    mark = f"mark-{platform.home.name}-ray"
    text = f"""
workflow:
  name: endless
  resources:
    default: {{cpu: 1, memory: 512Mi}}
  tasks:
  - name: loop
    image: rayproject/ray:2.60.0
    command: [python, -c]
    args:
    - |
      import ray, time
      ray.init()
      @ray.remote(num_cpus=0)
      def beat():
          time.sleep(0.2)
      while "{mark}":
          ray.get(beat.remote())
          print("beat", flush=True)
    ray: {{}}
"""
    id = platform.submit(text)
    until_said(platform, id, "beat")

    def job() -> str:
        found = [j for j in dashboard(platform, "/api/jobs/") if j["metadata"].get("workflow") == id]
        assert [j["metadata"]["name"] for j in found] == [f"{id}/loop"]
        return str(found[0]["status"])

    assert job() == "RUNNING" and commands(mark)
    platform.cli("workflow", "cancel", id)
    assert platform.wait(id) == "FAILED_CANCELED"
    until(lambda: job() == "STOPPED" and not commands(mark), 60)


EXAMPLES = sorted((ROOT / "examples").rglob("*.yaml"))


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda f: f.parent.name)
def test_every_example_runs(platform: Platform, file: Path):
    done = platform.cli("run", str(file), timeout=170)
    assert "COMPLETED" in done.stdout
