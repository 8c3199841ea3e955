"""What the verbs that look inside understand, and what they write for ssh."""

from __future__ import annotations

from pathlib import Path

import pytest

from osmo_ray.cli.inside import ssh_config
from osmo_ray.cli.inside.forward import Pair, pairs
from osmo_ray.cli.inside.rsync import below
from osmo_ray.program import main


def test_ports_are_single_pairs_lists_and_ranges() -> None:
    assert pairs(["80"]) == [Pair(80, 80)]
    assert pairs(["9000:80,0:81", "5-6:7-8"]) == [Pair(9000, 80), Pair(0, 81), Pair(5, 7), Pair(6, 8)]


@pytest.mark.parametrize("text", ["", "x", ":1", "5-4", "1-2:3", "70000", "-1"])
def test_other_ports_are_refused_with_a_reason(text: str) -> None:
    with pytest.raises(ValueError, match=r"port|range|length"):
        pairs([text])


def test_remote_paths_are_those_of_the_workspace() -> None:
    assert [below(p) for p in ("", "a/b/", "/osmo/run/workspace/a", "/osmo/run/workspace")] == ["", "a/b/", "a", ""]


def test_ssh_gets_an_entry_once_before_all_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("OSMO_CONFIG_FILE_DIR", str(tmp_path / "client"))
    (tmp_path / ".ssh").mkdir()
    (tmp_path / ".ssh/config").write_text("Host other\n  Port 2222\n")
    assert main(["ssh-config", "--url", "http://127.0.0.1:1", "--write"]) == 0
    key = ssh_config.host_key().read_bytes()
    assert main(["ssh-config", "--write"]) == 0
    assert ssh_config.host_key().read_bytes() == key and ssh_config.host_key().stat().st_mode & 0o777 == 0o600
    own = (tmp_path / ".ssh/config").read_text().splitlines()
    assert own == [f'Include "{tmp_path}/client/ssh_config"', "", "Host other", "  Port 2222"]
    known = (tmp_path / "client/ssh_known_hosts").read_text()
    assert known.startswith("osmo.* ssh-ed25519 ")
    assert "ProxyCommand" in (tmp_path / "client/ssh_config").read_text()
    capsys.readouterr()
