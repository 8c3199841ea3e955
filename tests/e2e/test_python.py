"""Python workflows on a real platform: values, folders, map, groups, tracebacks, packages."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.e2e.harness import ROOT, Platform

pytestmark = pytest.mark.ray

PROJECT = """
import sys
from dataclasses import dataclass
from pathlib import Path

import osmo_ray as osmo
from helper import double


@dataclass
class Point:
    x: int


@osmo.task(memory="128Mi")
def numbers(count: int) -> tuple[list[int], Point]:
    return list(range(count)), Point(7)


@osmo.task(memory="128Mi", environment={"COLOUR": "red"})
def write(values: list, point: Point, text: str) -> Path:
    import os
    folder = osmo.output() / "data"
    folder.mkdir()
    (folder / "sum.txt").write_text(f"{sum(map(double, values))} {point.x} {os.environ['COLOUR']}")
    (folder / "text.txt").write_text(text)
    return folder


@osmo.task(memory="128Mi")
def square(value: int) -> int:
    return value * value


@osmo.task(memory="128Mi")
def report(folder: Path, squares: list) -> dict:
    return {"sum": (folder / "sum.txt").read_text(), "text": (folder / "text.txt").read_text(), "squares": squares}


@osmo.task(memory="128Mi")
def broken(value: int) -> int:
    return inner(value)


def inner(value):
    raise ValueError(f"no good: {value}")


@osmo.workflow
def whole(count: int = 3, text: str = "plain"):
    values, point = numbers(count)
    return report(write(values, point, text), osmo.gather(square.map([2, 3, 4])))


@osmo.workflow
def failing():
    return broken(square(3))
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "flow.py").write_text(PROJECT)
    (tmp_path / "helper.py").write_text("def double(x):\n    return 2 * x\n")
    (tmp_path / ".gitignore").write_text("secret.txt\n")
    (tmp_path / "secret.txt").write_text("do not send")
    return tmp_path / "flow.py"


def test_values_folders_and_map_go_through_a_platform(platform: Platform, project: Path):
    text = "{{output}} {% raw %} $(HOME) $$ {# \" ' é"
    done = platform.cli("run", f"{project}:whole", "--count", "4", "--text", text)
    told = done.stdout.rpartition("result: ")[2]
    assert json.loads(told) == {"sum": "12 7 red", "text": text, "squares": [4, 9, 16]}
    assert "3 files" in done.stderr and "known already" not in done.stderr
    assert "known already" in platform.cli("workflow", "validate", f"{project}:whole").stderr


def test_an_error_is_told_as_the_users_own(platform: Platform, project: Path):
    done = platform.cli("run", f"{project}:failing", check=False)
    assert done.returncode == 1
    id = json.loads(platform.cli("workflow", "list", "--count", "1", "-t", "json").stdout)["workflows"][0]["name"]
    log = platform.cli("workflow", "logs", id, "--task", "broken").stdout
    lines = [line.partition("[broken] ")[2] for line in log.splitlines() if "[broken] " in line]
    where = [line.strip() for line in lines if line.strip().startswith("File ")]
    assert [w.split(",")[0] for w in where] == ['File "flow.py"'] * 2
    assert lines[-1] == "ValueError: no good: 9"


@pytest.mark.parametrize(
    ("name", "words", "expected"),
    [("sweep", ["--points", "50"], '"rate": 1.0'), ("pair", ["--question", "7"], "result: 49")],
)
def test_the_examples_run(platform: Platform, name: str, words: list[str], expected: str):
    done = platform.cli("run", str(ROOT / "examples/python" / f"{name}.py"), *words)
    assert "COMPLETED" in done.stdout and expected in done.stdout


def test_code_that_is_not_there_is_refused(platform: Platform, project: Path):
    file = project.parent / "spec.yaml"
    (project.parent / "helper.py").write_text("def double(x):\n    return 3 * x\n")
    file.write_text(platform.cli("spec", f"{project}:whole").stdout)
    done = platform.cli("workflow", "submit", str(file), check=False)
    assert done.returncode == 1 and "is not here; osmo run FILE.py sends it" in done.stderr
