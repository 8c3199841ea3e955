"""What the language does beyond one run: sweeps, cached tasks, key figures, running a part again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.e2e.harness import ROOT, Platform

pytestmark = pytest.mark.ray


def run(platform: Platform, folder: Path, *words: str) -> str:
    id_file = folder / "id"
    id_file.unlink(missing_ok=True)
    done = platform.cli("run", *words, "--id-file", str(id_file))
    assert "COMPLETED" in done.stdout
    return id_file.read_text().strip()


def test_a_sweep_runs_and_its_second_run_takes_what_was_cached(platform: Platform, tmp_path: Path):
    file = str(ROOT / "examples/sweep/workflow.yaml")
    first = run(platform, tmp_path, file)
    shown = platform.cli("workflow", "sweep", first, "--sort", "result.loss", "--format-type", "json").stdout
    (sweep,) = json.loads(shown)["sweeps"]
    assert (sweep["name"], sweep["counts"]) == ("train", {"COMPLETED": 6})
    losses = [task["figures"]["result.loss"] for task in sweep["tasks"]]
    assert losses == sorted(losses)
    assert {task["values"]["rate"] for task in sweep["tasks"][:2]} == {"0.5"}
    told = platform.cli("workflow", "sweep", first).stdout
    assert "train: 6 tasks (6 COMPLETED)" in told and "result.loss" in told
    second = run(platform, tmp_path, file)
    data = platform.tasks(second)["data"]
    assert data["node_name"] in (None, "") and data["exit_code"] == 0
    told = platform.cli("explain", second).stdout
    assert "a task of sweep-" in told and "was the same" in told
    source = told.split("a task of ")[1].split()[0]
    refused = platform.cli("workflow", "delete", source, check=False)
    assert refused.returncode != 0 and "used by " in refused.stdout + refused.stderr


def test_a_part_runs_again_by_a_newer_file(platform: Platform, tmp_path: Path):
    text = (ROOT / "examples/sweep/workflow.yaml").read_text()
    first = run(platform, tmp_path, str(ROOT / "examples/sweep/workflow.yaml"))
    newer = tmp_path / "newer.yaml"
    newer.write_text(text.replace('print(f"best of', 'print(f"newly best of'))
    told = platform.cli("workflow", "restart", first, "--from", "best", "--file", str(newer), "--format-type", "json")
    again = json.loads(told.stdout)["name"]
    assert platform.wait(again) == "COMPLETED"
    assert list(platform.tasks(again)) == ["best"]
    assert "newly best of 6: rate 0.5" in platform.cli("workflow", "logs", again).stdout
