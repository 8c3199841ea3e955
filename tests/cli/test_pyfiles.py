"""Python files and strictness on the command line, against the real API."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from osmo_ray.program import main

FLOW = """
import osmo_ray as osmo

@osmo.task
def add(a: int) -> int:
    return a + 1

@osmo.workflow
def counting(x: int = 1):
    return add(x)
"""
YAML = "workflow:\n  name: x\n  tasks:\n  - {name: a, image: i, command: [c], hold: 5}\n"


@pytest.fixture
def flow(tmp_path: Path) -> str:
    (tmp_path / "flow").mkdir()
    (tmp_path / "flow/counting_flow.py").write_text(FLOW)
    return str(tmp_path / "flow/counting_flow.py")


def test_a_python_file_is_validated_submitted_and_sent_once(site: Any, flow: str, capsys: pytest.CaptureFixture[str]):
    assert main(["workflow", "validate", flow, "--x", "3"]) == 0
    first = capsys.readouterr()
    assert "validation succeeded" in first.out and "1 file" in first.err and "known already" not in first.err
    assert main(["workflow", "submit", f"{flow}:counting", "--set", "x=4"]) == 0
    second = capsys.readouterr()
    assert "Workflow ID        - counting-1" in second.out and "known already" in second.err
    stored = site.world.store.find("counting-1")
    assert '"args": [4]' in stored.spec.groups[0].tasks[0].args[0]
    assert main(["workflow", "submit", flow, "--dry-run"]) == 0
    assert capsys.readouterr().out.startswith("workflow:\n  name: counting")


def test_words_that_nobody_takes_are_refused(site: Any, flow: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "w.yaml").write_text(YAML)
    assert main(["workflow", "submit", str(tmp_path / "w.yaml"), "--x", "3"]) == 1
    assert "unknown arguments: --x 3; a YAML file takes --set" in capsys.readouterr().err
    assert main(["workflow", "submit", flow, "--y", "3"]) == 1
    assert "unrecognized arguments: --y 3" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["workflow", "list", "--nonsense"])


def test_strict_refuses_extensions(site: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "w.yaml").write_text(YAML)
    assert main(["workflow", "validate", str(tmp_path / "w.yaml")]) == 0
    assert main(["workflow", "validate", str(tmp_path / "w.yaml"), "--strict"]) == 1
    assert "`hold` is an extension of this platform" in capsys.readouterr().err
