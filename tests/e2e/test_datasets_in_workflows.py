"""Datasets in workflows on the real platform: read, made, updated, uploaded from here, pinned, and killed halfway."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from osmo_ray.objects import open_store
from osmo_ray.objects.datasets import Dataset, open_bucket
from osmo_ray.objects.datasets.bucket import Bucket
from osmo_ray.objects.datasets.collecting import verify
from osmo_ray.objects.datasets.dataset import About
from tests.e2e.harness import ROOT, Platform, until

pytestmark = pytest.mark.ray


def bucket(platform: Platform) -> Bucket:
    return open_bucket(open_store(f"{(platform.home / 'storage').as_uri()}/buckets/default"))


def tree(folder: Path, **files: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text)
    return folder


def lines(platform: Platform, id: str, task: str) -> list[str]:
    """What a task printed."""
    told = platform.cli("workflow", "logs", id, "--task", task).stdout
    return [line.split("] ", 1)[1] for line in told.splitlines() if "][osmo]" not in line]


def said(platform: Platform, id: str, task: str) -> str:
    """What the platform says in a task's log."""
    told = platform.cli("workflow", "logs", id, "--task", task).stdout
    return "\n".join(line for line in told.splitlines() if "][osmo]" in line)


MAKE = """workflow:
  name: make
  tasks:
  - name: use
    image: ubuntu
    command: [sh, -c]
    args:
    - |
      cat {{input:0}}/cats/a {{input:1}}/dogs/d
      ls {{input:0}}/cats
      mkdir -p {{output}}/kept && cp {{input:0}}/cats/a {{output}}/kept/one.txt && echo no > {{output}}/kept/two.log
      echo 'quality: {score: 7}' > {{output}}/about.yaml
      echo 'kind: pets' > {{output}}/labels.yaml
    inputs:
    - dataset: {name: cats, regex: 'a$'}
    - dataset: default/dogs:first
    outputs:
    - dataset:
        name: pets-{{workflow_id}}:best
        path: kept
        regex: '.*\\.txt$'
        metadata: [about.yaml]
        labels: [labels.yaml]
    - update_dataset: {name: 'cats', paths: ['kept/two.log:logs']}
  - name: after
    image: ubuntu
    command: [sh, -c, "ls {{input:0}}/cats"]
    inputs:
    - dataset: cats:1
    - task: use
"""


def test_a_workflow_reads_makes_and_updates_datasets(platform: Platform, tmp_path: Path) -> None:
    there = bucket(platform)
    Dataset(there, "cats", create=True).upload([tree(tmp_path / "c", a="meow\n", b="purr\n")], About("cats"))
    dogs = Dataset(there, "dogs", create=True)
    dogs.upload([tree(tmp_path / "d", d="woof\n")])
    dogs.tag("first", "1")
    id = platform.submit(MAKE)
    assert platform.wait(id) == "COMPLETED", platform.cli("workflow", "logs", id).stdout
    assert lines(platform, id, "use") == ["meow", "woof", "a"]
    assert lines(platform, id, "after") == ["a", "b"], "a number means that version, whatever came after"
    pets = Dataset(there, f"pets-{id}")
    made = pets.version("best")
    assert [e.path for e in pets.entries("best")] == [b"one.txt"]
    assert pets.metadata("best") == {"quality": {"score": 7}} and pets.labels() == {"kind": "pets"}
    assert (made.lineage.workflow, made.lineage.task, made.lineage.image) == (id, "use", "ubuntu")
    assert made.lineage.inputs == ("default/cats:1", "default/dogs:1")
    found = json.loads(platform.cli("dataset", "lineage", "cats", "-t", "json").stdout)
    assert [(r["workflow"], r["version"]) for r in found["read"]] == [(id, "1")] * 2
    assert [m["workflow"] for m in found["made"]] == ["", id]
    cats = Dataset(there, "cats")
    assert [e.path for e in cats.entries("2")] == [b"a", b"b", b"logs", b"logs/two.log"]
    assert cats.version("2").parent == 1


FAILS = """workflow:
  name: fails
  tasks:
  - name: a
    image: ubuntu
    command: [sh, -c, "echo half > {{output}}/x; exit 3"]
    outputs:
    - dataset: halves
    - dataset: {name: nothing, metadata: [absent.yaml]}
"""


def test_outputs_are_kept_though_the_command_failed(platform: Platform) -> None:
    id = platform.submit(FAILS)
    assert platform.wait(id) == "FAILED"
    halves = Dataset(bucket(platform), "halves")
    assert [v.files for v in halves.versions()] == [1]
    assert "dataset default/nothing gets no version: there is no file absent.yaml" in said(platform, id, "a")


READ = """workflow:
  name: read
  tasks:
  - {name: a, image: ubuntu, command: [sh, -c, "wc -c < {{input:0}}/big/x"], inputs: [{dataset: big}]}
"""


def test_the_second_task_of_a_node_downloads_nothing(platform: Platform, tmp_path: Path) -> None:
    Dataset(bucket(platform), "big", create=True).upload([tree(tmp_path / "b", x="x" * 100_000)])
    told = []
    for _ in range(2):
        id = platform.submit(READ)
        assert platform.wait(id) == "COMPLETED"
        assert lines(platform, id, "a") == ["100000"]
        told.append(said(platform, id, "a"))
    assert "97.7 KiB of it fetched" in told[0]
    assert " 0 B of it fetched" in told[1]


MOUNT = """workflow:
  name: mount
  tasks:
  - name: a
    image: ubuntu
    command: [sh, -c, "cat {{input:0}}/lazy/x; touch {{input:0}}/lazy/y || cat {{input:lazy}}/lazy/sub/z"]
    inputs: [{dataset: {name: lazy, mount: true}}]
"""


@pytest.mark.root
@pytest.mark.servers
def test_a_mounted_version_is_read_as_it_is_needed(platform: Platform, tmp_path: Path) -> None:
    source = tree(tmp_path / "l", x="lazy\n", unread="u" * 100_000)
    tree(source / "sub", z="deep\n")
    Dataset(bucket(platform), "lazy", create=True).upload([source])
    id = platform.submit(MOUNT)
    assert platform.wait(id) == "COMPLETED", platform.cli("workflow", "logs", id).stdout
    assert lines(platform, id, "a")[0] == "lazy" and lines(platform, id, "a")[-1] == "deep"
    assert "default/lazy:1 mounted in" in said(platform, id, "a") and ": 10 B of it fetched" in said(platform, id, "a")
    assert str(platform.home) not in Path("/proc/self/mountinfo").read_text()


LOCAL = """workflow:
  name: local
  tasks:
  - name: a
    image: ubuntu
    command: [sh, -c, "cat {{input:0}}/mine/there/x"]
    inputs:
    - dataset: {name: mine, localpath: there}
"""


def test_a_folder_beside_the_file_becomes_a_version(platform: Platform, tmp_path: Path) -> None:
    tree(tmp_path / "there", x="from here\n")
    file = tmp_path / "local.yaml"
    file.write_text(LOCAL)
    platform.cli("workflow", "validate", str(file))
    assert not (platform.home / "storage/buckets/default/names/mine").exists(), "validating sends nothing"
    told = platform.cli("workflow", "submit", str(file), "--format-type", "json").stdout
    id = str(json.loads(told)["name"])
    assert platform.wait(id) == "COMPLETED", platform.cli("workflow", "logs", id).stdout
    assert lines(platform, id, "a") == ["from here"]
    assert "default/mine:1" in platform.cli("workflow", "spec", id).stdout
    assert Dataset(bucket(platform), "mine").version("1").metadata["localpath"] == "there"


MISSING = """workflow:
  name: missing
  tasks:
  - name: a
    image: ubuntu
    command: [ls]
    inputs:
    - dataset: katzen
    - dataset: defalt/katzen
    - dataset: {name: 'katze:9'}
    outputs:
    - dataset: nowhere/x
"""


def test_what_is_not_there_is_refused_with_its_place(platform: Platform, tmp_path: Path) -> None:
    Dataset(bucket(platform), "katze", create=True).upload([tree(tmp_path / "k", a="miau")])
    file = tmp_path / "missing.yaml"
    file.write_text(MISSING)
    told = platform.cli("workflow", "submit", str(file), check=False)
    assert told.returncode == 1
    for part in (
        f"{file.name}:8:", "there is no dataset 'katzen'", "did you mean 'katze'", "no bucket 'defalt'",
        "did you mean 'default'", "has no version 9", f"{file.name}:12:", "no bucket 'nowhere'",
    ):  # fmt: skip
        assert part in told.stderr, (part, told.stderr)


UPLOAD = """workflow:
  name: upload
  tasks:
  - name: a
    image: ubuntu
    command: [sh, -c, "head -c 300000000 /dev/urandom > {{output}}/x"]
    outputs:
    - dataset: large
"""


def test_the_agent_dies_while_an_output_is_uploaded(platform: Platform) -> None:
    """The supervisor goes on, the next agent adopts it: one version, however it goes."""
    sessions = platform.home / "storage/buckets/default/sessions"
    agents = until(lambda: platform.pids("ray::NodeAgent"), 30)
    id = platform.submit(UPLOAD)
    until(lambda: sessions.is_dir() and any(sessions.iterdir()), 60, every=0.005)
    for pid in agents:
        os.kill(pid, signal.SIGKILL)
    assert not Dataset(bucket(platform), "large", create=True).versions(), "it was killed before the commit"
    assert platform.wait(id) == "COMPLETED", platform.cli("workflow", "logs", id).stdout
    versions = Dataset(bucket(platform), "large").versions()
    assert [(v.number, v.files, v.size) for v in versions] == [(1, 1, 300_000_000)]
    assert len([t for g in platform.query(id)["groups"] for t in g["tasks"]]) == 1, "it did not run again"


def caught(folder: Path) -> list[tuple[int, int]]:
    """Processes that have a file open below a folder, held still there, with their parents."""
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                links = [str(fd.readlink()) for fd in (process / "fd").iterdir()]
                if any(link.startswith(f"{folder}/") for link in links):
                    os.kill(int(process.name), signal.SIGSTOP)
                    parent = (process / "stat").read_text().rpartition(")")[2].split()[1]
                    found.append((int(process.name), int(parent)))
            except OSError:  # gone meanwhile
                continue
    return found


def test_the_supervisor_dies_while_an_output_is_uploaded(platform: Platform) -> None:
    """Nothing half is visible; the task runs again, and its output is there once and whole."""
    there = bucket(platform)
    dataset = Dataset(there, "large2", create=True)
    id = platform.submit(UPLOAD.replace("large", "large2"))
    movers = until(lambda: caught(platform.home / "storage/buckets/default/.osmo-tmp"), 60, every=0.002)
    for pid in [*{parent for _, parent in movers}, *(mover for mover, _ in movers)]:
        os.kill(pid, signal.SIGKILL)
    assert not dataset.versions(), "it was killed before the commit"
    assert platform.wait(id) == "COMPLETED", platform.cli("workflow", "logs", id).stdout
    assert [(v.number, v.files, v.size) for v in dataset.versions()] == [(1, 1, 300_000_000)]
    assert len([t for g in platform.query(id)["groups"] for t in g["tasks"]]) > 1, "it ran again"
    assert verify(there) == []


INSIDE = """workflow:
  name: inside
  tasks:
  - name: read
    image: ubuntu
    command: [{python}, /srv/feed.py, squares]
    environment: {{PYTHONPATH: {root}}}
    inputs: [{{dataset: squares}}]
    files:
    - path: /srv/feed.py
      contents: {example}
"""


def test_shards_are_the_same_in_a_task_and_outside(platform: Platform) -> None:
    example = ROOT / "examples/dataset/feed.py"
    done = subprocess.run([sys.executable, example], env=platform.environ, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == sum(x * x for x in range(3000))
    assert [v.number for v in Dataset(bucket(platform), "squares").versions()] == [1]
    text = INSIDE.format(python=sys.executable, example=json.dumps(example.read_text()), root=ROOT)
    for one in (text, text.replace("{dataset: squares}", "{dataset: {name: squares, mount: true}}")):
        id = platform.submit(one)
        assert platform.wait(id) == "COMPLETED", platform.cli("workflow", "logs", id).stdout
        assert lines(platform, id, "read") == [done.stdout.strip()]
    assert "default/squares:1 mounted in" in said(platform, id, "read") or "cannot be mounted" in said(
        platform, id, "read"
    )


def test_the_example_runs(platform: Platform) -> None:
    told = platform.cli("workflow", "submit", str(ROOT / "examples/dataset/sort.yaml"), "--format-type", "json").stdout
    id = str(json.loads(told)["name"])
    assert platform.wait(id) == "COMPLETED", platform.cli("workflow", "logs", id).stdout
    assert lines(platform, id, "check") == ["4"]
    made = Dataset(bucket(platform), "sorted")
    assert made.metadata() == {"files": 2}
    assert made.version().lineage.inputs == ("default/numbers:1",)


def test_tutorials_with_datasets_run_unchanged(platform: Platform, tutorials: Path, tmp_path: Path) -> None:
    def run(name: str) -> str:
        id = platform.submit((tutorials / f"{name}.yaml").read_text())
        assert platform.wait(id) == "COMPLETED", platform.cli("workflow", "logs", id).stdout
        return id

    run("dataset_upload")
    assert len([e for e in Dataset(bucket(platform), "my_dataset").entries() if e.path.startswith(b"data/file_")]) == 10
    assert "Sample data 1" in lines(platform, run("dataset_download"), "process-data")
    Dataset(bucket(platform), "large_dataset", create=True).upload(
        [tree(tmp_path / "l", **{"a.txt": "1", "b.bin": "2"})]
    )
    assert "large_dataset" in "\n".join(lines(platform, run("data_filter"), "selective-download"))
    assert not (platform.home / "storage/buckets/default/names/output_dataset").exists(), "nothing matched"
