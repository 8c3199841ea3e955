"""The production core against tables of cases that lie beside the checkout; they are not part of the repository."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
CASES = Path(os.environ.get("OSMO_SHARED", HERE.parents[2] / "shared")) / "cases"


@pytest.mark.shared
@pytest.mark.skipif(not (CASES / "kai-dev.jsonl").exists(), reason=f"no {CASES}/kai-dev.jsonl: set OSMO_SHARED")
def test_every_table_is_met(tmp_path: Path):
    answers = tmp_path / "answers.jsonl"
    environment = {**os.environ, "PYTHONPATH": str(HERE.parents[1])}
    command = [sys.executable, str(HERE / "kai_replay.py"), str(CASES / "kai-dev.jsonl"), str(answers)]
    subprocess.run(command, check=True, env=environment)
    judge = [sys.executable, str(CASES / "score.py"), "--fail-under", "100", "--show", "5"]
    scored = subprocess.run(
        [*judge, str(CASES / "kai-dev.jsonl"), str(answers)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert scored.returncode == 0, scored.stdout
    passed, total = scored.stdout.rsplit("all: ", 1)[1].split(" passed", 1)[0].split("/")
    assert passed == total, scored.stdout


def test_the_replay_refuses_a_wrong_call():
    done = subprocess.run(
        [sys.executable, str(HERE / "kai_replay.py")],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(HERE.parents[1])},
    )
    assert done.returncode == 2
    assert "CASES.jsonl" in done.stderr
