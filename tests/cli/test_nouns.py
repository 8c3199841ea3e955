"""Credentials, apps, tokens, nodes and completion on the command line, against the real API."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from osmo_ray.cli.command import table
from osmo_ray.program import VERBS, main
from tests.api.world import HELLO
from tests.cli.conftest import Site

Capture = pytest.CaptureFixture[str]
TEMPLATE = HELLO.replace("hello]", "'{{ word }}']") + "default-values: {word: hi}\n"


def osmo(capsys: Capture, *words: str, code: int = 0) -> str:
    capsys.readouterr()
    try:
        got = main(words)
    except SystemExit as exit:
        got = int(exit.code or 0)
    told = capsys.readouterr()
    assert got == code, told.out + told.err
    return told.out + told.err


def test_credentials_are_set_listed_and_deleted(site: Site, capsys: Capture) -> None:
    osmo(capsys, "credential", "set", "wandb", "--type", "GENERIC", "--payload", "key=s3cret=x", "user=ann")
    osmo(
        capsys, "credential", "set", "s3", "--type", "DATA", "--payload", "endpoint=s3://b", "access_key_id=i",
        "access_key=k", "region=r",
    )  # fmt: skip
    osmo(
        capsys, "credential", "set", "nv", "--type", "registry", "--payload", "registry=nvcr.io", "username=u", "auth=k"
    )
    assert [line.split() for line in osmo(capsys, "credential", "list").splitlines()] == [
        ["Name", "Type", "Profile"], ["nv", "REGISTRY", "nvcr.io"], ["s3", "DATA", "s3://b"], ["wandb", "GENERIC"],
    ]  # fmt: skip
    before = json.loads(osmo(capsys, "credential", "--format-type", "json", "list"))
    assert before == json.loads(osmo(capsys, "credential", "list", "-t", "json"))
    assert "Deleted" in osmo(capsys, "credential", "delete", "s3")
    assert "no credential 's3'" in osmo(capsys, "credential", "delete", "s3", code=2)


def test_values_come_from_files_from_stdin_and_never_back(
    site: Site, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from osmo_ray.api.middleware import system_user

    Path("key.txt").write_text("from a file")
    monkeypatch.setattr("sys.stdin", io.StringIO("typed in\n"))
    osmo(capsys, "credential", "set", "c", "--payload", "a", "--payload-file", "b=key.txt")
    stored = site.world.store.credentials(system_user())[0]
    assert site.world.vault.open(stored.user, "c", stored.sealed) == {"a": "typed in", "b": "from a file"}
    assert "needs endpoint, access_key" in osmo(
        capsys, "credential", "set", "d", "--type", "DATA", "--payload", "access_key_id=i", code=2
    )


def test_an_app_from_file_to_workflow(site: Site, capsys: Capture) -> None:
    Path("w.yaml").write_text(TEMPLATE)
    osmo(capsys, "app", "create", "greet", "--description", "says hello", "--file", "w.yaml")
    Path("w.yaml").write_text(TEMPLATE.replace("hello", "bye"))
    assert "version 2" in osmo(capsys, "app", "update", "greet", "--file", "w.yaml")
    assert osmo(capsys, "app", "list").splitlines()[1].split()[:2] == ["greet", "2"]
    assert [line.split()[0] for line in osmo(capsys, "app", "info", "greet").splitlines()[2:]] == ["Version", "1", "2"]
    assert osmo(capsys, "app", "spec", "greet:1") == TEMPLATE
    assert "--set word=hi" in osmo(capsys, "app", "show", "greet")
    assert "echo, 'you'" in osmo(capsys, "app", "submit", "greet", "--dry-run", "--set", "word=you")
    told = json.loads(osmo(capsys, "app", "submit", "greet:1", "--set", "word=you", "--format-type", "json"))
    assert told["name"] == "hello-1"
    workflow = site.world.store.find("hello-1")
    assert workflow is not None and workflow.spec.task("a").command == ("echo", "you")
    listed = json.loads(osmo(capsys, "workflow", "list", "--app", "greet:1", "-t", "json"))["workflows"]
    assert [(w["name"], w["app_version"]) for w in listed] == [("hello-1", 1)]
    assert "no workflows" in osmo(capsys, "workflow", "list", "--app", "greet:2")
    assert "is called meet" in osmo(capsys, "app", "rename", "greet", "meet")
    assert "versions 1" in osmo(capsys, "app", "delete", "meet:1", "--force")
    assert "not both" in osmo(capsys, "app", "delete", "meet", code=1)
    osmo(capsys, "app", "delete", "meet", "--all", "--force")
    assert "no apps" in osmo(capsys, "app", "list")
    assert "not an app" in osmo(capsys, "app", "info", "meet:x", code=2)


def test_tokens_are_printed_once_and_get_in(site: Site, capsys: Capture) -> None:
    site.world.now = __import__("time").time()
    site.world.store.save_nodes("local", [], site.world.now)
    told = json.loads(osmo(capsys, "token", "set", "ci", "--description", "for builds", "--format-type", "json"))
    assert re.fullmatch(r"[\w-]{43}", told["token"])
    assert "for builds" in osmo(capsys, "token", "list")
    assert "osmo-admin" in osmo(capsys, "token", "roles", "ci")
    osmo(capsys, "login", site.url, "--method", "token", "--token", told["token"])
    assert "ci" in osmo(capsys, "profile", "list", "-t", "json")
    osmo(capsys, "token", "delete", "ci")
    assert "unknown or has expired" in osmo(capsys, "profile", "list", code=2)


def test_nodes_tags_and_tasks(site: Site, capsys: Capture) -> None:
    told = osmo(capsys, "resource", "info", "n1")
    assert "n1 (local, reserved)" in told and "8Gi" in told and "default" in told
    assert "4 of 4" in osmo(capsys, "resource", "list", "--mode", "free")
    assert "no node" in osmo(capsys, "resource", "info", "absent", code=1)
    from osmo_ray.api.middleware import system_user

    name = site.world.submit(user=system_user())
    osmo(capsys, "workflow", "tag", name, "--add", "nightly")
    assert osmo(capsys, "workflow", "tag", name) == f"{name}: nightly\nallowed: any\n"
    site.world.start(name, "a")
    assert name in osmo(capsys, "task", "list", "--aggregate-by-workflow")
    assert system_user() in osmo(capsys, "task", "list", "--summary", "--priority", "NORMAL")
    assert name not in osmo(capsys, "task", "list", "--started-before", "2020-01-01T00:00:00")
    assert osmo(capsys, "pool", "list", "--pool", "default").splitlines()[1].startswith("default")


def test_tables_fit_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [["a" * 40, "b" * 40, "c"], ["x", "y", "z"]]
    assert max(map(len, table(["A", "B", "C"], rows).splitlines())) == 85
    monkeypatch.setattr("sys.stdout", type("Tty", (io.StringIO,), {"isatty": lambda self: True})())
    monkeypatch.setenv("COLUMNS", "40")
    lines = table(["A", "B", "C"], rows).splitlines()
    assert max(map(len, lines)) == 40
    assert lines[1].count("…") == 2 and lines[2].split() == ["x", "y", "z"]


def test_completion_knows_verbs_and_options(capsys: Capture) -> None:
    words = osmo(capsys, "completion", "words", "--").split()
    assert set(words) == set(VERBS)
    assert "list" in osmo(capsys, "completion", "words", "--", "workflow").split()
    options = osmo(capsys, "completion", "words", "--", "workflow", "list", "--name").split()
    assert {"--help", "--app", "--format-type"} <= set(options)
    assert osmo(capsys, "completion", "words", "--", "nonsense").strip() == ""


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts_are_sound(shell: str, capsys: Capture, tmp_path: Path) -> None:
    script = osmo(capsys, "completion", shell)
    assert "osmo completion words" in script
    if shell != "bash":
        return
    program = tmp_path / "osmo"
    program.write_text(f"#!{sys.executable}\nfrom osmo_ray.program import main\nraise SystemExit(main())\n")
    program.chmod(0o755)
    ask = "COMP_WORDS=(osmo workflow li); COMP_CWORD=2; _osmo; echo ${COMPREPLY[@]}"
    env = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(["bash", "-c", f"{script}\n{ask}"], env=env, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["list"]


def test_pools_tell_what_they_share_once(site: Site, capsys: Capture) -> None:
    (site.world.folder / "quota.yaml").write_text(
        "queues: [{name: all}, {name: one, parent: all, gpu: {quota: 1}}, {name: two, parent: all}]\n"
        "pools: {default: one, other: two}\n"
    )
    used = osmo(capsys, "pool", "list").splitlines()
    assert used[0].split("  ")[0] == "Pool" and "Quota Limit" in used[0]
    assert "(shared)" not in used[1] and used[2].split()[0] == "other" and used[2].endswith("(shared)")
    free = osmo(capsys, "pool", "list", "--mode", "free").splitlines()
    assert "Quota Free" in free[0] and "Total Usage" not in free[0]
    (site.world.folder / "quota.yaml").unlink()
