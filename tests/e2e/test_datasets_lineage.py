"""Who made a version and who read it, whatever became of the tasks: retried, run again, cached, canceled; and in
containers."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.harness import Platform

pytestmark = pytest.mark.ray


def told(platform: Platform, *words: str) -> Any:
    return json.loads(platform.cli(*words, "-t", "json").stdout)


def upload(platform: Platform, tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    platform.cli("dataset", "upload", name, str(tmp_path / name))


def read(platform: Platform, id: str) -> list[str]:
    return [f"{r['name']}:{r['version']}" for r in told(platform, "workflow", "datasets", id)["read"]]


def written(platform: Platform, id: str) -> list[tuple[str, str, int]]:
    found = told(platform, "workflow", "datasets", id)["written"]
    return [(f"{m['name']}:{m['version']}", m["task"], m["retry"]) for m in found]


RETRIED = """workflow:
  name: retried
  tasks:
  - name: a
    image: ubuntu
    retries: 2
    command: [sh, -c, "echo $$OSMO_RETRY_ID > {{output}}/x; test $$OSMO_RETRY_ID -ge 1 || exit 1; sleep 0.1"]
    inputs:
    - dataset: r-in
    outputs:
    - dataset: r-out
"""


def test_retries_read_what_the_first_attempt_read(platform: Platform, tmp_path: Path) -> None:
    upload(platform, tmp_path, "r-in", "1")
    id = platform.submit(RETRIED)
    assert platform.wait(id) == "COMPLETED", platform.cli("workflow", "logs", id).stdout
    assert read(platform, id) == ["r-in:1"]
    assert written(platform, id) == [("r-out:1", "a", 0), ("r-out:2", "a", 1)], "a failed command's output is kept"
    made = told(platform, "dataset", "lineage", "r-out")["made"]
    assert [m["inputs"] for m in made] == [["default/r-in:1"]] * 2
    shown = platform.cli("workflow", "datasets", id).stdout
    assert "default/r-in:1" in shown and "a (retry 1)" in shown
    assert [r["workflow"] for r in told(platform, "dataset", "info", "r-in")["lineage"]["read"]] == [id]
    platform.cli("dataset", "rename", "r-in", "r-new")
    assert [r["workflow"] for r in told(platform, "dataset", "lineage", "r-new")["read"]] == [id]
    assert read(platform, id) == ["r-new:1"]


AGAIN = """workflow:
  name: again
  tasks:
  - name: good
    image: ubuntu
    command: [sh, -c, "echo 1 > {{output}}/x"]
    inputs: [{dataset: a-in}]
    outputs: [{dataset: a-good}]
  - name: bad
    image: ubuntu
    command: [sh, -c, "cat {{input:0}}/a-in/*; grep -q two {{input:0}}/a-in/a-in && echo 2 > {{output}}/x"]
    inputs: [{dataset: a-in}, {task: good}]
    outputs: [{dataset: a-bad}]
"""


def test_a_workflow_that_is_run_again_has_its_own_lineage(platform: Platform, tmp_path: Path) -> None:
    upload(platform, tmp_path, "a-in", "one")
    first = platform.submit(AGAIN)
    assert platform.wait(first) == "FAILED"
    assert written(platform, first) == [("a-good:1", "good", 0)]
    upload(platform, tmp_path, "a-in", "two")
    second = str(told(platform, "workflow", "restart", first)["name"])
    assert platform.wait(second) == "COMPLETED", platform.cli("workflow", "logs", second).stdout
    assert read(platform, first) == ["a-in:1"] and read(platform, second) == ["a-in:2"]
    assert written(platform, second) == [("a-bad:1", "bad", 0)], "what had completed is not made again"
    assert told(platform, "dataset", "lineage", "a-bad")["made"][0]["workflow"] == second


CACHED = """workflow:
  name: cached
  tasks:
  - {name: a, image: x, sandbox: process, cache: true, command: [sh, -c, "date > {{output}}/x"], inputs: [{dataset: "c-in:1"}]}
  - name: b
    image: ubuntu
    command: [sh, -c, "cp {{input:0}}/x {{output}}/x"]
    inputs: [{task: a}]
    outputs: [{dataset: c-out}]
"""  # noqa: E501


def test_a_step_that_is_passed_over_reads_nothing(platform: Platform, tmp_path: Path) -> None:
    upload(platform, tmp_path, "c-in", "one")
    first = platform.submit(CACHED)
    assert platform.wait(first) == "COMPLETED"
    second = platform.submit(CACHED)
    assert platform.wait(second) == "COMPLETED"
    assert read(platform, first) == ["c-in:1"] and read(platform, second) == []
    assert [m[0] for m in written(platform, second)] == ["c-out:2"]


CANCELED = """workflow:
  name: canceled
  tasks:
  - name: a
    image: ubuntu
    command: [sh, -c, "echo 1 > {{output}}/x; echo begun; sleep 600"]
    inputs: [{dataset: x-in}]
    outputs: [{dataset: x-out}]
"""


def test_a_run_that_is_canceled_has_read_and_made_nothing(platform: Platform, tmp_path: Path) -> None:
    upload(platform, tmp_path, "x-in", "one")
    id = platform.submit(CANCELED)
    platform.running(id, "a")
    platform.cli("workflow", "cancel", id)
    assert platform.wait(id) == "FAILED_CANCELED"
    assert read(platform, id) == ["x-in:1"] and written(platform, id) == []
    assert "x-out" not in platform.cli("dataset", "list", "-a").stdout


# -- the whole language, in containers

IMAGE = "localhost/osmo-e2e-datasets:1"
CONTAINER = f"""workflow:
  name: boxed
  tasks:
  - name: a
    image: {IMAGE}
    sandbox: container
    command: [/bin/sh, -c]
    args:
    - |
      set -e
      cat {{{{input:0}}}}/b-in/b-in
      mkdir -p {{{{output}}}}/out && echo made > {{{{output}}}}/out/y.txt && echo no > {{{{output}}}}/out/y.log
      echo 'score: 7' > {{{{output}}}}/about.yaml
      exit 3
    inputs:
    - dataset: {{name: b-in, regex: 'b-'}}
    outputs:
    - dataset: {{name: 'b-out:best', path: out, regex: '.*\\.txt$', metadata: [about.yaml], labels: [about.yaml]}}
    - update_dataset: {{name: b-in, paths: ['out/y.log:logs'], metadata: [about.yaml]}}
"""


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A shell and nothing else."""
    found = shutil.which("busybox")
    if found is None:
        pytest.fail("busybox is missing; run scripts/test-servers.sh, or apt-get install busybox-static")
    file = tmp_path_factory.mktemp("image") / "image.tar"
    with tarfile.open(file, "w") as tar:
        tar.add(found, "bin/busybox")
        for name in ("sh", "cat", "mkdir", "echo"):
            link = tarfile.TarInfo(f"bin/{name}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(link, io.BytesIO())
    subprocess.run(["podman", "import", str(file), IMAGE], check=True, capture_output=True)
    yield IMAGE
    subprocess.run(["podman", "rmi", "-f", IMAGE], check=False, capture_output=True)


@pytest.mark.container
def test_datasets_of_tasks_in_containers(platform: Platform, tmp_path: Path, image: str) -> None:
    upload(platform, tmp_path, "b-in", "from a box")
    id = platform.submit(CONTAINER)
    assert platform.wait(id) == "FAILED", platform.cli("workflow", "logs", id).stdout
    assert "from a box" in platform.cli("workflow", "logs", id).stdout
    info = told(platform, "dataset", "info", "b-out:best")
    assert info["labels"] == {"score": 7} and info["versions"][0]["metadata"] == {"score": 7}
    assert [f["relative_path"] for f in told(platform, "dataset", "inspect", "b-out")] == ["y.txt"]
    assert [m["image"] for m in info["lineage"]["made"]] == [IMAGE]
    after = [f["relative_path"] for f in told(platform, "dataset", "inspect", "b-in")]
    assert after == ["b-in", "logs", "logs/y.log"]
    assert told(platform, "dataset", "info", "b-in:2")["versions"][0]["metadata"] == {"score": 7}
    assert {m[0] for m in written(platform, id)} == {"b-out:1", "b-in:2"}
