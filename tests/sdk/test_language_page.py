"""The Python of docs/language.md runs as it stands."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from osmo_ray.sdk.pyfile import make
from osmo_ray.spec.reader import read

PAGE = (Path(__file__).parents[2] / "docs" / "language.md").read_text()


def test_the_example_compiles_and_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (block,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / "squares.py").write_text(block)
    made = make(str(tmp_path / "squares.py"), ["--count", "5"])
    assert read(made.text) == made.spec
    assert [t.name for g in made.spec.groups for t in g.tasks] == [
        "split", "square", "square-2", "square-3", "square-4", "report",
    ]  # fmt: skip
    assert sys.modules["squares"].squares.local(count=5) == "29 made here"
