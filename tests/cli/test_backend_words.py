"""`osmo backend` for clusters with an agent, against the real API: what people are shown, and when."""

from __future__ import annotations

import re

import pytest

from osmo_ray.program import main
from tests.cli.conftest import Site

SECRET = re.compile(r"^  ([A-Za-z0-9_-]{43})$", re.MULTILINE)


def said(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["backend", *words]) == 0
    return capsys.readouterr().out


def test_the_token_of_an_agent_is_shown_once_and_can_be_renewed(site: Site, capsys: pytest.CaptureFixture[str]):
    first = SECRET.findall(said(capsys, "add", "lab", "--agent", "--namespace", "team"))
    assert len(first) == 1
    assert SECRET.findall(said(capsys, "add", "lab", "--agent", "--pool", "far")) == []
    (row,) = [line.split() for line in said(capsys, "list").splitlines() if line.startswith("lab")]
    assert row[:5] == ["lab", "kubernetes,", "agent", "far", "NEW"]
    second = SECRET.findall(said(capsys, "token", "lab"))
    assert len(second) == 1 and second != first
    assert "cut off" in said(capsys, "token", "lab", "--revoke")
    assert site.world.store.tokens("backend:lab") == []
    assert "removed" in said(capsys, "remove", "lab")


def test_a_cluster_is_reached_in_one_way(site: Site, capsys: pytest.CaptureFixture[str]):
    for words in ((), ("--agent", "--kubeconfig", "x")):
        with pytest.raises(SystemExit):
            main(["backend", "add", "lab", *words])
        assert "--kubeconfig" in capsys.readouterr().err
