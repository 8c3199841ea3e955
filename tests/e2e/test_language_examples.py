"""Every example of docs/language.md runs as it stands and ends as it says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.e2e.harness import ROOT, Platform

pytestmark = pytest.mark.ray

PAGE = (ROOT / "docs" / "language.md").read_text()
BLOCKS = re.findall(r"```yaml\n(# ends (\w+): (.*?)\n.*?)```", PAGE, re.DOTALL)


def _name(text: str) -> str:
    found = re.search(r"^  name: (\S+)", text, re.MULTILINE)
    return found[1] if found else "?"


@pytest.mark.parametrize(("text", "verdict", "said"), BLOCKS, ids=[_name(block[0]) for block in BLOCKS])
def test_an_example_ends_as_it_says(platform: Platform, tmp_path: Path, text: str, verdict: str, said: str):
    if "credentials:" in text:
        for name in ("keys", "more"):
            platform.cli("credential", "set", name, "--payload", "token=very-secret-letters-")
    id = platform.submit(text)
    assert platform.wait(id) == verdict, platform.cli("explain", id).stdout
    said = re.sub(r"\b\w+-1$", id, said) if said.endswith("-1") else said
    assert said in platform.cli("workflow", "logs", id).stdout


def test_there_is_one_for_every_large_feature():
    text = "\n".join(block[0] for block in BLOCKS)
    wanted = ("files:", "environment:", "inputs:", "groups:", "exitActions:", "retries:", "timeout:", "default-values:")
    missing = [
        word
        for word in (
            *wanted,
            "matrix:",
            "kpis:",
            "cache:",
            "dataset:",
            "credentials:",
            "hold:",
            "labels:",
            "barrier:",
            "sandbox:",
            "ray:",
            "resources:",
            "regex:",
        )
        if word not in text
    ]
    assert missing == []
