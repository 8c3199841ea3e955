"""`osmo simulate`: from a trace file without any platform, and from what a platform has seen."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from osmo_ray.engine.events import Preempted
from osmo_ray.platform.recorded import nodes, recorded
from osmo_ray.program import main
from osmo_ray.sdk.client import Client
from osmo_ray.sim.trace import Asked, read
from osmo_ray.spec.reason import Reason
from tests.api.world import World
from tests.cli.conftest import Site

Capture = pytest.CaptureFixture[str]
NODES = ("--nodes", "1", "--gpus", "4")


def quota(path: Path, a: int) -> str:
    path.write_text(
        f"queues:\n- {{name: all}}\n- {{name: a, parent: all, gpu: {{quota: {a}}}}}\n"
        "- {name: b, parent: all, gpu: {quota: 2}}\n"
    )
    return str(path)


@pytest.fixture
def trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Four groups of pool a and two of b, each one GPU for 100 seconds; a home without quotas, and no platform."""
    monkeypatch.setenv("OSMO_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("OSMO_URL", "http://127.0.0.1:9")
    file = tmp_path / "trace.jsonl"
    line = {"submitted": 0, "seconds": 100, "user": "ann", "tasks": [{"cpu": 1, "memory": "1Gi", "gpu": 1}]}
    file.write_text("".join(json.dumps({**line, "pool": pool}) + "\n" for pool in "aaaabb"))
    return str(file)


def test_both_variants_side_by_side(trace: str, tmp_path: Path, capsys: Capture):
    old, new = quota(tmp_path / "old.yaml", 1), quota(tmp_path / "new.yaml", 2)
    assert main(["simulate", "--trace", trace, "--present", old, "--quota", new, *NODES]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[0][:4] == ["Pool", "Quotas", "Groups", "Never"]
    assert [line[:2] for line in lines[1:7]] == [[p, v] for p in ("a", "b", "(all)") for v in ("present", "new")]
    assert " ".join(lines[1]).startswith("a present 4 0 2m 30s 2m 30s 5m 5m 25.0%")
    assert " ".join(lines[2]).startswith("a new 4 0 50s 50s 1m 40s 1m 40s 50.0%")


def test_for_programs_and_as_a_picture(trace: str, tmp_path: Path, capsys: Capture):
    new, plot = quota(tmp_path / "new.yaml", 2), tmp_path / "plot.svg"
    quota(tmp_path / "quota.yaml", 1)
    (tmp_path / "home").mkdir()
    quota(tmp_path / "home" / "quota.yaml", 1)
    words = ["simulate", "--trace", trace, "--quota", new, *NODES, "--plot", str(plot), "--format-type", "json"]
    assert main(words) == 0
    found = json.loads(capsys.readouterr().out)
    means = {name: {p["pool"]: p["waits"]["mean"] for p in found[name]["pools"]} for name in ("present", "new")}
    assert means == {
        "present": {"a": 150, "b": 0, "(all)": 100},
        "new": {"a": 50, "b": 0, "(all)": pytest.approx(100 / 3)},
    }
    assert (found["present"]["seconds"], found["new"]["seconds"], found["new"]["gpus"]) == (400, 200, 4)
    assert ET.parse(plot).getroot().tag.endswith("svg")


def test_other_nodes_under_the_same_quotas(trace: str, capsys: Capture):
    words = ["simulate", "--trace", trace, "--nodes", "2", "--present-nodes", "1", "--gpus", "4", "-t", "json"]
    assert main(words) == 0
    found = json.loads(capsys.readouterr().out)
    assert [found[name]["pools"][-1]["waits"]["max"] for name in ("present", "new")] == [100, 0]


def test_what_never_starts_is_told(trace: str, tmp_path: Path, capsys: Capture):
    new = tmp_path / "new.yaml"
    new.write_text("queues:\n- name: a\n")
    assert main(["simulate", "--trace", trace, "--quota", str(new), *NODES]) == 0
    told = capsys.readouterr()
    assert "2 groups of pool b never start: NoQueue" in told.out
    assert "present means no quotas" in told.err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--trace", "none.jsonl"], "none.jsonl"),
        (["--trace", "bad.jsonl"], "bad.jsonl:1: not valid JSON"),
        (["--trace", "latin.jsonl"], "latin.jsonl: it is not UTF-8"),
        (["--last", "soon"], "--last: 'soon' is not a duration"),
        (["--trace", "bad.jsonl", "--quota", "bad.yaml"], "bad.yaml:1:9"),
    ],
)
def test_files_that_cannot_be_used(
    trace: str, tmp_path: Path, monkeypatch, capsys: Capture, words: list[str], told: str
):
    monkeypatch.chdir(tmp_path)
    Path("bad.jsonl").write_text("{")
    Path("latin.jsonl").write_bytes(b"\xff")
    Path("bad.yaml").write_text("queues: 3\n")
    assert main(["simulate", *words, *NODES]) == 2
    assert told in capsys.readouterr().err


def test_without_nodes_the_platform_is_asked(trace: str, capsys: Capture):
    assert main(["simulate", "--trace", trace]) == 10
    assert "127.0.0.1:9" in capsys.readouterr().err


def played(world: World) -> str:
    """A workflow of two groups: the first runs 60 seconds, the second, which comes when that has ended, is running."""
    name = world.submit(user="ann")
    world.now += 10
    (key,) = world.start(name, "a")
    world.now += 60
    world.finish(name, key)
    world.now += 5
    world.start(name, "b")
    world.now += 30
    return name


def test_what_a_platform_has_seen(world: World, site: Site):
    begun = world.now
    played(world)
    world.submit(user="bob")
    with Client() as client:
        found = recorded(client.http, world.now, 3600)
        assert [(n.name, n.cpu, n.memory, n.gpu) for n in nodes(client.http)] == [("n1", 4.0, 8 << 30, 1)]
        assert recorded(client.http, world.now, 1).arrivals == ()
    assert [(a.submitted - begun, a.seconds, a.user, a.pool) for a in found.arrivals] == [
        (0, 60, "ann", "default"),
        (70, 30, "ann", "default"),
    ]
    assert (found.running, found.unknown) == (1, 2)
    assert [(t.cpu, t.memory, t.gpu) for t in found.arrivals[0].tasks] == [(1, 1 << 30, 0)]


def test_the_run_time_is_that_of_the_newest_attempt(world: World, site: Site):
    begun = world.now
    text = (
        "workflow:\n  name: one\n  resources: {default: {cpu: 2, gpu: 1, memory: 3Gi}}\n  tasks:\n"
        "  - {name: a, image: i, command: [c], exitActions: {RESCHEDULE: '3006'}}\n"
    )
    name = world.submit(text)
    world.now += 10
    world.start(name, "a")
    world.now += 30
    world.happen(name, Preempted("a-group", Reason("Preempted", "a better claim")))
    world.now += 100
    (key,) = world.start(name, "a")
    world.now += 60
    world.finish(name, key)
    with Client() as client:
        (one,) = recorded(client.http, world.now, 3600).arrivals
    assert (one.submitted - begun, one.seconds, one.tasks) == (0, 60, (Asked(2, 3 << 30, 1),))


def test_the_last_hours_are_replayed_and_kept(world: World, site: Site, tmp_path: Path, monkeypatch, capsys: Capture):
    monkeypatch.setenv("OSMO_HOME", str(tmp_path / "home"))
    played(world)
    assert main(["simulate", "--last", "20000d", "--save-trace", "kept.jsonl", "-t", "json"]) == 0
    told = capsys.readouterr()
    assert "1 groups run still" in told.err
    assert json.loads(told.out)["present"]["pools"][-1]["groups"] == 2
    assert len(read(Path("kept.jsonl").read_text(), "kept.jsonl")) == 2
