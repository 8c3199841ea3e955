"""Key figures: what is one, what is only a file, and where a path may lead."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hosting import Host, shell

from osmo_ray.runtime.kpis import figures
from osmo_ray.spec.attempt import KpiPlan, OutputPlan


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0.5\n", {"kpi.k": 0.5}),
        ("7", {"kpi.k": 7.0}),
        ('{"loss": 0.25, "by": {"class": 3}, "name": "x"}', {"kpi.k.loss": 0.25, "kpi.k.by.class": 3.0}),
    ],
)
def test_numbers_are_figures(tmp_path: Path, text: str, expected: dict[str, float]) -> None:
    (tmp_path / "k.json").write_text(text)
    said: list[str] = []
    assert figures([KpiPlan("k", "./k.json")], tmp_path, said.append) == expected
    assert not said


@pytest.mark.parametrize("text", ["", "fast", "[1, 2]", "NaN", "Infinity", '"7"', "{}", "1" * 70_000, "[" * 60_000])
def test_what_is_no_number_is_said(tmp_path: Path, text: str) -> None:
    (tmp_path / "k").write_text(text)
    said: list[str] = []
    assert figures([KpiPlan("k", "k")], tmp_path, said.append) == {}
    assert len(said) == 1
    assert "kpi k (k): no figure" in said[0]


@pytest.mark.parametrize(
    "path", ["../secret", "link", "deep/../../secret", "missing", "folder", "linked/secret", "pipe"]
)
def test_no_path_leads_out(tmp_path: Path, path: str) -> None:
    output = tmp_path / "out"
    (output / "folder").mkdir(parents=True)
    (tmp_path / "secret").write_text("5")
    (output / "link").symlink_to(tmp_path / "secret")
    (output / "linked").symlink_to(tmp_path)
    os.mkfifo(output / "pipe")
    said: list[str] = []
    assert figures([KpiPlan("k", path)], output, said.append) == {}
    assert said


async def test_a_task_ends_with_its_figures(any_host: Host) -> None:
    kept = (OutputPlan("prefix", "wf/a"),)
    one = shell("echo 0.75 > {{output}}/acc; exit 3", kpis=(KpiPlan("accuracy", "acc"),), outputs=kept)
    end = await any_host.run(one)
    assert (end.exit_code, end.usage["kpi.accuracy"]) == (3, 0.75)
